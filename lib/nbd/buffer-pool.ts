/** Memory for replies that is used again: fresh memory for every read would cost more than the read. */
import { pageBytes } from '../storage/page-bytes.js';

const smallest = 64 * 1024;
/** Room before the data for the header of a reply, bytes: a page, so that the data begins with one. */
const room = 4096;

export class BufferPool {
  readonly #maxBytes: number;
  /** Capacity -> blocks of that capacity which nobody uses. */
  readonly #idle = new Map<number, Buffer[]>();
  #idleBytes = 0;
  /** The block that a buffer is a part of, by the memory that both have. */
  readonly #blocks = new WeakMap<ArrayBufferLike, Buffer>();

  /** @param maxBytes how much unused memory to keep */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** A buffer of a header, of less than a page, and data behind it, with anything in it. */
  take(headerBytes: number, dataBytes: number): Buffer {
    const capacity = capacityFor(dataBytes);
    const idle = this.#idle.get(capacity)?.pop();
    if (idle !== undefined) this.#idleBytes -= capacity;
    const block = idle ?? this.#newBlock(capacity);
    return block.subarray(room - headerBytes, room + dataBytes);
  }

  /** Takes a buffer back that nobody looks at any more. */
  give({ buffer }: Buffer): void {
    const block = this.#blocks.get(buffer);
    if (block === undefined) return;
    const capacity = block.length - room;
    if (this.#idleBytes + capacity > this.#maxBytes) return;
    const idle = this.#idle.get(capacity);
    if (idle === undefined) this.#idle.set(capacity, [block]);
    else idle.push(block);
    this.#idleBytes += capacity;
  }

  #newBlock(capacity: number): Buffer {
    const { buffer, byteOffset, length } = pageBytes(room + capacity);
    const block = Buffer.from(buffer, byteOffset, length);
    this.#blocks.set(buffer, block);
    return block;
  }
}

/** A power of two, so that buffers fit again. */
function capacityFor(length: number): number {
  let capacity = smallest;
  while (capacity < length) capacity *= 2;
  return capacity;
}
