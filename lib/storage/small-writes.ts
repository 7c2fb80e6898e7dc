/** Small writes go to the thread pool several at a time: waking a thread for each takes longer than writing it. */
import { native, scatterStride } from '../native.js';
import { writeFully } from './fd-io.js';

/** Longer ones are worth a thread of their own, bytes. */
export const maxSmallWrite = 16 * 1024;
/** Writes that one thread does, one after the other. */
const mostTogether = 16;
/** Threads that write at once: what comes meanwhile is collected. A system writes into a file for one at a time anyway. */
const mostAtOnce = 2;
/** Buffers kept for the batches to come. */
const mostSpare = 4;

interface SmallWrite {
  readonly start: number;
  readonly length: number;
  readonly position: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** Writes whose bytes lie one behind the other in `bytes`. */
interface Batch {
  readonly bytes: Uint8Array;
  used: number;
  readonly writes: SmallWrite[];
}

export class SmallWrites {
  readonly #fd: () => number;
  readonly #spare: Uint8Array[] = [];
  /** The last one may take more. */
  readonly #waiting: Batch[] = [];
  #isAwaited = false;
  #underWay = 0;

  /** @param fd asked when a batch begins */
  constructor(fd: () => number) {
    this.#fd = fd;
  }

  /** Writes a copy of at most {@link maxSmallWrite} bytes. */
  write(data: Uint8Array, position: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const batch = this.#batch();
      const { length } = data;
      batch.bytes.set(data, batch.used);
      batch.writes.push({ start: batch.used, length, position, resolve, reject });
      batch.used += length;
      this.#awaitTurn();
    });
  }

  #batch(): Batch {
    const last = this.#waiting.at(-1);
    if (last !== undefined && last.writes.length < mostTogether) return last;
    const bytes = this.#spare.pop() ?? Buffer.allocUnsafeSlow(mostTogether * maxSmallWrite);
    const batch: Batch = { bytes, used: 0, writes: [] };
    this.#waiting.push(batch);
    return batch;
  }

  /**
   * Begins batches: the first one at once, others when all that has come in this turn is known, and as many as may be under
   * way.
   */
  #awaitTurn(): void {
    if (this.#isAwaited || this.#underWay === mostAtOnce) return;
    if (this.#underWay === 0) {
      this.#beginNext();
      return;
    }
    this.#isAwaited = true;
    setImmediate(() => {
      this.#isAwaited = false;
      while (this.#underWay < mostAtOnce && this.#waiting.length > 0) this.#beginNext();
    });
  }

  #beginNext(): void {
    const batch = this.#waiting.shift();
    if (batch === undefined) return;
    this.#underWay += 1;
    void this.#run(batch);
  }

  async #run(batch: Batch): Promise<void> {
    const written = await this.#together(batch);
    const { bytes, writes } = batch;
    const others: Promise<void>[] = [];
    for (const [index, { start, length, position, resolve, reject }] of writes.entries()) {
      if (written[index] === 1) resolve();
      else
        others.push(
          writeFully(this.#fd(), bytes.subarray(start, start + length), position).then(resolve, reject),
        );
    }
    await Promise.all(others);
    if (this.#spare.length < mostSpare) this.#spare.push(bytes);
    this.#underWay -= 1;
    if (this.#waiting.length > 0) this.#awaitTurn();
  }

  /** What could be written without an error: 1 for each. Those that are left get another attempt, which tells the error. */
  async #together({ bytes, used, writes }: Batch): Promise<Uint8Array> {
    const written = new Uint8Array(writes.length);
    if (writes.length === 1) return written;
    const places = new Float64Array(writes.length * scatterStride);
    for (const [index, { position, length }] of writes.entries()) {
      places[index * scatterStride] = position;
      places[index * scatterStride + 1] = length;
    }
    const fd = this.#fd();
    // Closed by its owner: that, too, the other attempt tells.
    if (fd >= 0) await native.writeScattered(fd, bytes.subarray(0, used), places, written);
    return written;
  }
}
