/** Lets requests, changes and jobs that want an image to themselves through, and tells when all are done. */
import { Mutex } from '../metadata/mutex.js';
import { Busy } from '../storage/busy.js';

/** Runs work while nothing else changes the image: changes under way end first, new ones wait. */
export type Pause = <T>(work: () => Promise<T>) => Promise<T>;

export class Gate {
  readonly #busy = new Busy();
  readonly #changes = new Busy();
  readonly #jobs = new Mutex();
  /** While a job that must be the only one to change the image runs: until then. */
  #held: Promise<void> | undefined;

  /** Runs a request that changes nothing. */
  during<T>(work: () => Promise<T>): Promise<T> {
    return this.#busy.during(work);
  }

  /** Lets a change of the image in; a promise where jobs hold changes back until then. Once it is over it has to {@link leave}. */
  enter(): Promise<void> | undefined {
    this.#busy.enter();
    if (this.#held !== undefined) return this.#enterLater();
    this.#changes.enter();
    return undefined;
  }

  leave(): void {
    this.#changes.leave();
    this.#busy.leave();
  }

  /** Runs a job that must be the only one to change the image: changes under way end first, new ones wait. */
  alone<T>(job: () => Promise<T>): Promise<T> {
    return this.beside((pause) => pause(job));
  }

  /** Runs a job beside which changes go on, but no other job. For moments it can pause them. */
  beside<T>(job: (pause: Pause) => Promise<T>): Promise<T> {
    return this.#busy.during(() => this.#jobs.run(() => job((work) => this.#pause(work))));
  }

  /** Resolves when nothing is under way. */
  idle(): Promise<void> {
    return this.#busy.idle();
  }

  async #enterLater(): Promise<void> {
    // When one job has ended the next one may have come first.
    while (this.#held !== undefined) await this.#held;
    this.#changes.enter();
  }

  async #pause<T>(work: () => Promise<T>): Promise<T> {
    let release: () => void = () => undefined;
    this.#held = new Promise((resolve) => (release = resolve));
    try {
      await this.#changes.idle();
      return await work();
    } finally {
      this.#held = undefined;
      release();
    }
  }
}
