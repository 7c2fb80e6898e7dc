/** Keeps a copy within a number of bytes a second. */
import { setTimeout as sleep } from 'node:timers/promises';
import { outOfRange } from '../../errors.js';

/** A job that can be kept from taking all there is of a disk or a network. */
export interface Paced {
  /** The most to copy in a second, on average, bytes; no limit by default. */
  bytesPerSecond?: number;
}

export class Pace {
  readonly #bytesPerSecond: number;
  /** When all that was taken so far may have been copied, by performance.now(). */
  #busyUntil = 0;

  /** @throws RangeError */
  constructor({ bytesPerSecond = Infinity }: Paced) {
    if (!(bytesPerSecond > 0)) throw outOfRange('bytesPerSecond', 'more than 0', bytesPerSecond);
    this.#bytesPerSecond = bytesPerSecond;
  }

  get isLimited(): boolean {
    return this.#bytesPerSecond !== Infinity;
  }

  /** Resolves when so many more bytes may be copied. @throws the signal's reason */
  async take(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    if (!this.isLimited) return;
    const now = performance.now();
    const start = Math.max(now, this.#busyUntil);
    this.#busyUntil = start + (bytes / this.#bytesPerSecond) * 1000;
    try {
      await sleep(start - now, undefined, signal === undefined ? {} : { signal });
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    }
  }
}
