/** Counts what is under way, so that closing can wait for it. */
export class Busy {
  #count = 0;
  #idle: (() => void)[] = [];

  /** Runs a request; what it throws at once becomes a rejection, too. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.enter();
    try {
      return await work();
    } finally {
      this.leave();
    }
  }

  /** Counts a request; once it is over it has to {@link leave}. */
  enter(): void {
    this.#count++;
  }

  leave(): void {
    this.#count--;
    if (this.#count === 0) for (const wake of this.#idle.splice(0)) wake();
  }

  /** Resolves when no request is under way. */
  async idle(): Promise<void> {
    if (this.#count > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }
}
