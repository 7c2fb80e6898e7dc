/** A set of the blocks of a disk, one bit each: asked, counted, walked and combined at once, without waiting. */
import { invalidArgValue, outOfRange, Qcow2Error } from '../errors.js';
import { toBytes } from '../format/units.js';
import { BitOperation, native } from '../native.js';
import { pauses } from './jobs/pauses.js';

/** A run of guest bytes. */
export interface ByteRun {
  /** First byte on the virtual disk. */
  start: number;
  /** Bytes. */
  length: number;
}

/** A run of blocks: [first, end). */
export interface BlockRun {
  /** Index of the first block. */
  first: number;
  /** One past the last. */
  end: number;
}

const minBlockSize = 512;
/** A bit each: 1 GiB of memory. */
const maxBlocks = 2 ** 33;

/** A set of blocks of a disk, one bit each. */
export class BlockSet implements Iterable<number> {
  /** Virtual size of the disk, bytes. */
  readonly size: number;
  /** Bytes of a block; the last one ends with the disk. */
  readonly blockSize: number;
  /** How many blocks the disk has. */
  readonly length: number;
  readonly #bits: Uint8Array;

  /**
   * An empty set. It takes a bit for each block, and memory of the system only where there are blocks in it.
   * @param size of the disk, bytes
   * @param blockSize bytes, a multiple of 512
   * @throws RangeError; Qcow2Error `ERR_QCOW2_LIMIT` when the disk has more than 2^33 such blocks
   */
  constructor(size: number | bigint, blockSize: number) {
    this.size = toBytes('size', size);
    if (!Number.isSafeInteger(blockSize) || blockSize < minBlockSize || blockSize % minBlockSize !== 0) {
      throw outOfRange('blockSize', `a multiple of ${minBlockSize}`, blockSize);
    }
    this.blockSize = blockSize;
    this.length = Math.ceil(this.size / blockSize);
    if (this.length > maxBlocks) {
      throw new Qcow2Error(
        'ERR_QCOW2_LIMIT',
        `A disk of ${this.size} bytes has ${this.length} blocks of ${blockSize} bytes; at most ${maxBlocks} can be listed. ` +
          'Use larger blocks, or clusters, or go through the disk in parts: `difference` and `extents` take start and length, and need no list',
        { feature: 'blockSize' },
      );
    }
    this.#bits = new Uint8Array(Math.ceil(this.length / 8));
  }

  /** The blocks that byte runs touch, such as those of `bitmaps.extents()` or {@link difference}. */
  static async from(
    runs: AsyncIterable<ByteRun> | Iterable<ByteRun>,
    size: number | bigint,
    blockSize: number,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<BlockSet> {
    const set = new BlockSet(size, blockSize);
    const pause = pauses();
    for await (const run of runs) {
      signal?.throwIfAborted();
      set.addBytes(run);
      await pause();
    }
    return set;
  }

  /** Whether a block is in the set. */
  has(index: number): boolean {
    return (
      index >= 0 &&
      index < this.length &&
      ((this.#bits[Math.floor(index / 8)] ?? 0) & (1 << (index % 8))) !== 0
    );
  }

  /** How many of the blocks [first, end) are in the set; of all blocks by default. */
  count(first = 0, end = this.length): number {
    return native.bitsCount(this.#bits, first, end);
  }

  /** Adds blocks [first, end), one block by default. */
  add(first: number, end = first + 1): void {
    this.#set(first, end, true);
  }

  /** Takes blocks [first, end) out, one block by default. */
  delete(first: number, end = first + 1): void {
    this.#set(first, end, false);
  }

  /** Adds every block that a run of bytes touches; what lies past the end of the disk is left out. */
  addBytes({ start, length }: ByteRun): void {
    const end = Math.min(start + length, this.size);
    if (start < end) this.add(Math.floor(start / this.blockSize), Math.ceil(end / this.blockSize));
  }

  /** The first block of [first, end) that is in the set; `end` when none is. */
  next(first: number, end = this.length): number {
    return first < end ? native.bitsNext(this.#bits, first, end, true) : end;
  }

  /** The first block of [first, end) that is not in the set; `end` when all are. */
  nextMissing(first: number, end = this.length): number {
    return first < end ? native.bitsNext(this.#bits, first, end, false) : end;
  }

  /** The runs of blocks in the set, in order. */
  *runs(first = 0, end = this.length): Generator<BlockRun> {
    for (let at = this.next(first, end); at < end;) {
      const stop = this.nextMissing(at, end);
      yield { first: at, end: stop };
      at = this.next(stop, end);
    }
  }

  /** The runs of bytes in the set, in order; the last one ends with the disk. */
  *extents(): Generator<ByteRun> {
    for (const { first, end } of this.runs()) {
      const start = first * this.blockSize;
      yield { start, length: Math.min(end * this.blockSize, this.size) - start };
    }
  }

  /** The indexes of the blocks in the set, in order. */
  *[Symbol.iterator](): Generator<number> {
    for (const { first, end } of this.runs()) for (let at = first; at < end; at++) yield at;
  }

  /** Adds all of another set. Here and below the other one is of the same disk size and block size. */
  unite(other: BlockSet): void {
    this.#combine(other, BitOperation.unite);
  }

  /** Takes out what is not in another set. */
  intersect(other: BlockSet): void {
    this.#combine(other, BitOperation.intersect);
  }

  /** Takes out what is in another set. */
  subtract(other: BlockSet): void {
    this.#combine(other, BitOperation.subtract);
  }

  /** A set of its own with the same blocks. */
  clone(): BlockSet {
    const copy = new BlockSet(this.size, this.blockSize);
    copy.#bits.set(this.#bits);
    return copy;
  }

  #set(first: number, end: number, value: boolean): void {
    if (end > this.length) throw outOfRange('end', `at most ${this.length}, the number of blocks`, end);
    native.bitsSet(this.#bits, first, end, value);
  }

  #combine(other: BlockSet, operation: BitOperation): void {
    if (other.size !== this.size || other.blockSize !== this.blockSize) {
      throw invalidArgValue('other', 'must have the same disk size and block size', other);
    }
    native.bitsCombine(this.#bits, other.#bits, operation);
  }
}
