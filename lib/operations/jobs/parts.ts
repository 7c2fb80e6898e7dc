/** Progress and cancellation of a job that has several parts, one after the other, and at some point must be completed. */
import type { Job, Progress } from '../../disk.js';
import { CheckProgress } from '../check/reader.js';

/** What the parts of a job report to and listen to. */
export type PartedJob = Pick<Job, 'signal' | 'onProgress'>;

export class JobParts {
  readonly #job: PartedJob;
  readonly #total: number;
  #sealed = false;
  /** The weight of the parts that are over, and of the present one. */
  #over = 0;
  #present = 0;
  #reported = 0;

  /** @param total the weights of all parts together; the unit of the progress that is reported */
  constructor(job: PartedJob, total: number) {
    this.#job = job;
    this.#total = total;
    job.signal?.throwIfAborted();
  }

  /** Begins a part, which ends when the next begins. */
  part(weight: number): CheckProgress {
    return new CheckProgress(this.job(weight));
  }

  /** The same for a part that is a job itself. */
  job(weight: number): PartedJob {
    const { signal, onProgress } = this.#job;
    if (!this.#sealed) signal?.throwIfAborted();
    const start = (this.#over += this.#present);
    this.#present = weight;
    const report = ({ done, total }: Progress): void => {
      // A part that finds more to do on its way does not make the whole go backwards.
      this.#reported = Math.max(this.#reported, Math.floor(start + (weight * done) / total));
      onProgress?.({ done: this.#reported, total: this.#total });
    };
    return {
      ...(signal === undefined || this.#sealed ? {} : { signal }),
      ...(onProgress === undefined ? {} : { onProgress: report }),
    };
  }

  /** Says that the job can only be completed from now on. */
  seal(): void {
    this.#job.signal?.throwIfAborted();
    this.#sealed = true;
  }

  /** Says that all parts are over. */
  finish(): void {
    this.#job.onProgress?.({ done: this.#total, total: this.#total });
  }
}
