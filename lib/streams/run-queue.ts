/** Runs of guest data in the order of their places in the file: a heap in flat arrays, one row for each run. */

export interface QueuedRun {
  /** Offset in the file, bytes. */
  host: number;
  /** Offset on the disk, bytes. */
  guest: number;
  /** Guest bytes. */
  length: number;
  /** Bytes of compressed data; 0 for what is stored as it is. */
  packed: number;
}

const stride = 4;

export class RunQueue {
  #rows = new Float64Array(1024 * stride);
  #count = 0;
  #isOrdered = true;
  #lastHost = -1;
  #lastGuest = -1;

  get length(): number {
    return this.#count;
  }

  /** Where the first run lies in the file; Infinity when there is none. */
  get firstHost(): number {
    return this.#count === 0 ? Infinity : (this.#rows[0] ?? Infinity);
  }

  /** Whether runs have come in the order of their places, and of the disk. */
  get isOrdered(): boolean {
    return this.#isOrdered;
  }

  push({ host, guest, length, packed }: QueuedRun): void {
    this.#isOrdered &&= host > this.#lastHost && guest > this.#lastGuest;
    this.#lastHost = host;
    this.#lastGuest = guest;
    if ((this.#count + 1) * stride > this.#rows.length) {
      const larger = new Float64Array(this.#rows.length * 2);
      larger.set(this.#rows);
      this.#rows = larger;
    }
    let at = this.#count;
    this.#count += 1;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (this.#hostOf(parent) <= host) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#rows.set([host, guest, length, packed], at * stride);
  }

  /** Takes the run that lies first in the file. */
  pop(): QueuedRun | undefined {
    if (this.#count === 0) return undefined;
    const first = this.#row(0);
    this.#count -= 1;
    const { host } = this.#row(this.#count);
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#count) break;
      if (child + 1 < this.#count && this.#hostOf(child + 1) < this.#hostOf(child)) child += 1;
      if (this.#hostOf(child) >= host) break;
      this.#move(child, at);
      at = child;
    }
    this.#move(this.#count, at);
    return first;
  }

  #hostOf(index: number): number {
    return this.#rows[index * stride] ?? Infinity;
  }

  #move(from: number, to: number): void {
    this.#rows.copyWithin(to * stride, from * stride, (from + 1) * stride);
  }

  #row(index: number): QueuedRun {
    const [host = 0, guest = 0, length = 0, packed = 0] = this.#rows.subarray(
      index * stride,
      (index + 1) * stride,
    );
    return { host, guest, length, packed };
  }
}
