/** Bounds the bytes that all connections of a server together may have under way. */

/** A connection with nothing under way gets so much whatever the others hold, bytes: none can keep all others waiting. */
const ownShare = 1024 * 1024;

export class Budget {
  #free: number;
  /** In order of asking. */
  readonly #waiting: { bytes: number; wake: () => void }[] = [];
  readonly #total: number;

  /** @param total bytes */
  constructor(total: number) {
    this.#total = total;
    this.#free = total;
  }

  /**
   * Takes bytes if they are there and nobody waits for them.
   * @param isFirst whether the connection has nothing under way
   */
  tryTake(bytes: number, isFirst: boolean): boolean {
    const fits = this.#waiting.length === 0 && this.#fits(bytes);
    if (!fits && !(isFirst && bytes <= ownShare)) return false;
    this.#free -= bytes;
    return true;
  }

  /** Takes bytes once they are there. More than the total are there when nobody has any. */
  take(bytes: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ bytes, wake: resolve });
      this.#serve();
    });
  }

  give(bytes: number): void {
    this.#free += bytes;
    this.#serve();
  }

  #serve(): void {
    for (
      let [first] = this.#waiting;
      first !== undefined && this.#fits(first.bytes);
      [first] = this.#waiting
    ) {
      this.#waiting.shift();
      this.#free -= first.bytes;
      first.wake();
    }
  }

  #fits(bytes: number): boolean {
    return bytes <= this.#free || this.#free === this.#total;
  }
}
