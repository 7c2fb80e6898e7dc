/** Keeps a part of jobs that run side by side in the order in which they were begun. */

export interface Turn {
  /** Resolves when it is this job's turn. */
  readonly begins: Promise<void>;
  /** Lets the next job have its turn. Calling it again changes nothing. */
  end(): void;
}

export class Turns {
  #last: Promise<void> = Promise.resolve();

  /** The turn behind the one asked for before. It must be ended, or everyone behind waits for ever. */
  next(): Turn {
    const before = this.#last;
    let ended: () => void = () => undefined;
    const over = new Promise<void>((resolve) => (ended = resolve));
    this.#last = Promise.all([before, over]).then(() => undefined);
    return { begins: before, end: ended };
  }
}
