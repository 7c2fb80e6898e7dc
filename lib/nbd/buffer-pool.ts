/** Buffers that are used again: fresh memory for every read would cost more than the read. */

const smallest = 64 * 1024;

export class BufferPool {
  readonly #maxBytes: number;
  /** Capacity -> buffers of that capacity which nobody uses. */
  readonly #idle = new Map<number, Buffer[]>();
  #idleBytes = 0;

  /** @param maxBytes how much unused memory to keep */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** A buffer of `length` bytes with anything in it. */
  take(length: number): Buffer {
    const capacity = capacityFor(length);
    const whole = this.#idle.get(capacity)?.pop();
    if (whole !== undefined) this.#idleBytes -= capacity;
    return (whole ?? Buffer.allocUnsafeSlow(capacity)).subarray(0, length);
  }

  /** Takes a buffer back that nobody looks at any more. */
  give(buffer: Buffer): void {
    const capacity = buffer.buffer.byteLength;
    if (this.#idleBytes + capacity > this.#maxBytes) return;
    const idle = this.#idle.get(capacity);
    const whole = Buffer.from(buffer.buffer);
    if (idle === undefined) this.#idle.set(capacity, [whole]);
    else idle.push(whole);
    this.#idleBytes += capacity;
  }
}

/** A power of two, so that buffers fit again. */
function capacityFor(length: number): number {
  let capacity = smallest;
  while (capacity < length) capacity *= 2;
  return capacity;
}
