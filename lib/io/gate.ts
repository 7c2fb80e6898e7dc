/** Lets requests, changes and jobs that want an image to themselves through, and tells when all are done. */
import { Mutex } from '../metadata/mutex.js';
import { Busy } from './busy.js';

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

  /** Runs what changes the image, once no job holds changes back. */
  changing<T>(work: () => Promise<T>): Promise<T> {
    return this.#busy.during(async () => {
      while (this.#held !== undefined) await this.#held;
      return this.#changes.during(work);
    });
  }

  /** Runs a job that must be the only one to change the image: changes under way end first, new ones wait. */
  alone<T>(job: () => Promise<T>): Promise<T> {
    return this.#busy.during(() =>
      this.#jobs.run(async () => {
        let release: () => void = () => undefined;
        this.#held = new Promise((resolve) => (release = resolve));
        try {
          await this.#changes.idle();
          return await job();
        } finally {
          this.#held = undefined;
          release();
        }
      }),
    );
  }

  /** Resolves when nothing is under way. */
  idle(): Promise<void> {
    return this.#busy.idle();
  }
}
