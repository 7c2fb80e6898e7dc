/** Where a copied disk goes: what every kind of target must be able to do, and those that are an open disk. */
import type { WritableDisk } from '../../disk.js';
import type { Range } from '../../io/disk-queries.js';
import type { Storage } from '../../storage/storage.js';
import { settleAll } from '../../storage/settle.js';
import type { FileTarget } from '../files/transfer.js';
import { isPlainFile } from '../files/plain-file.js';
import type { Turn } from '../jobs/turns.js';

/** A piece of the disk that was read. */
export interface Chunk {
  /** Position on the disk, a multiple of the target's unit. */
  readonly start: number;
  /** All of its bytes: a multiple of the unit, or up to the end of the disk. Not used after `write` has settled. */
  readonly bytes: Uint8Array;
  /** The parts that are not zeros, relative to `start`: they begin and end at zero units, or with `bytes`. */
  readonly data: readonly Range[];
}

export interface CopyTarget {
  /** Chunks begin and end at multiples of this, bytes, or at the end of the disk. */
  readonly unit: number;
  /** What is stored or left out as a whole, bytes; `unit` is a multiple. */
  readonly zeroUnit: number;
  /** Whether all that is not written reads as zeros: else zeros have to be told. */
  readonly startsZero: boolean;
  /**
   * Stores a chunk. Calls run side by side; what must happen in the order of the disk waits for `turn` and ends it.
   */
  write(chunk: Chunk, turn: Turn): Promise<void>;
  /** Makes a range that begins and ends at units read as zeros. Only for targets that do not start with zeros. */
  zero(range: Range): Promise<void>;
  /** For targets that are one plain file and start with zeros: the quick way into it. */
  readonly file?: FileTarget;
}

/** A raw file: every byte has its place, so nothing has to be in order. */
export class RawTarget implements CopyTarget {
  readonly unit = 512;
  readonly zeroUnit = 512;
  readonly startsZero = true;
  readonly file?: FileTarget;
  readonly #storage: Storage;

  constructor(storage: Storage) {
    this.#storage = storage;
    if (isPlainFile(storage)) this.file = { storage };
  }

  async write({ start, bytes, data }: Chunk, turn: Turn): Promise<void> {
    turn.end();
    await settleAll(
      data.map((run) => this.#storage.write(bytes.subarray(run.start, run.end), start + run.start)),
    );
  }

  zero(): Promise<void> {
    return Promise.resolve();
  }
}

/** How a disk is written: plainly or with compression. */
export type Writer = (data: Uint8Array, position: number) => Promise<void>;

/** Any disk that can be written, whatever it holds before. */
export class DiskTarget implements CopyTarget {
  readonly zeroUnit: number;
  readonly #disk: WritableDisk;
  readonly #store: Writer;

  constructor(
    disk: WritableDisk,
    store: Writer,
    readonly unit: number,
    readonly startsZero: boolean,
  ) {
    this.zeroUnit = unit;
    this.#disk = disk;
    this.#store = store;
  }

  async write({ start, bytes, data }: Chunk, turn: Turn): Promise<void> {
    await turn.begins;
    let zeroFrom = 0;
    for (const run of data) {
      if (!this.startsZero) await this.#zero(start + zeroFrom, start + run.start);
      await this.#store(bytes.subarray(run.start, run.end), start + run.start);
      zeroFrom = run.end;
    }
    if (!this.startsZero) await this.#zero(start + zeroFrom, start + bytes.length);
    turn.end();
  }

  zero({ start, end }: Range): Promise<void> {
    return this.#zero(start, end);
  }

  async #zero(start: number, end: number): Promise<void> {
    if (start < end) await this.#disk.writeZeroes(start, end - start);
  }
}

/**
 * A new image on a backing file: only what differs from that file is written, whatever the source has of its own. What
 * is the same in both costs reading, but never room.
 */
export class OverlayTarget implements CopyTarget {
  readonly startsZero = false;
  readonly zeroUnit: number;
  readonly #disk: WritableDisk;
  readonly #store: Writer;

  constructor(
    disk: WritableDisk,
    store: Writer,
    readonly unit: number,
  ) {
    this.zeroUnit = unit;
    this.#disk = disk;
    this.#store = store;
  }

  async write({ start, bytes }: Chunk, turn: Turn): Promise<void> {
    const there = new Uint8Array(bytes.length);
    await this.#disk.read(there, start);
    await turn.begins;
    for (let at = 0; at < bytes.length;) {
      let end = at;
      while (end < bytes.length && this.#differs(bytes, there, end))
        end = Math.min(end + this.unit, bytes.length);
      if (end > at) await this.#store(bytes.subarray(at, end), start + at);
      at = end + this.unit;
    }
    turn.end();
  }

  /** Where the backing file has data in the range, zeros must hide it. */
  async zero({ start, end }: Range): Promise<void> {
    for await (const extent of this.#disk.extents({ start, length: end - start })) {
      if (extent.type === 'zero' || extent.type === 'unallocated') continue;
      await this.#disk.writeZeroes(extent.start, extent.length);
    }
  }

  #differs(bytes: Uint8Array, there: Uint8Array, at: number): boolean {
    const end = Math.min(at + this.unit, bytes.length);
    return Buffer.compare(bytes.subarray(at, end), there.subarray(at, end)) !== 0;
  }
}
