/** Disks made of other disks: a part of one, or several behind one another, or what can be read of one. */
import type { Readable } from 'node:stream';
import type { ByteRange, Disk, Extent, ExtentQuery, Op } from '../disk.js';
import { outOfRange } from '../errors.js';
import { toBytes } from '../format/units.js';
import { checkRange, createReadStream, nextData, nextHole, queryRange, type Range } from './disk-queries.js';

/** A disk that other disks are behind. Closing it leaves those to whoever opened them. */
export abstract class DerivedDisk implements Disk {
  /** Bytes. */
  abstract readonly size: number;
  /** Fills all of `buffer` from `position` on. */
  abstract read(buffer: Uint8Array, position: number | bigint, op?: Op): Promise<void>;
  /** The runs of a range in order, merged, without gaps. */
  abstract extents(query?: ExtentQuery): AsyncGenerator<Extent>;
  /** The disks behind this one. */
  abstract readonly parts: readonly Disk[];

  nextData(position: number | bigint, op?: Op): Promise<number | null> {
    return nextData(this, position, op);
  }

  nextHole(position: number | bigint, op?: Op): Promise<number> {
    return nextHole(this, position, op);
  }

  createReadStream(range?: ByteRange & Op): Readable {
    return createReadStream(this, range);
  }

  /** Closes nothing: the disks it is made of stay open. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The disks that are behind one another, at their places. */
export class ConcatenatedDisk extends DerivedDisk {
  readonly parts: readonly Disk[];
  /** Bytes. */
  readonly size: number;
  readonly #places: readonly (Range & { disk: Disk })[];

  /**
   * Takes the disks in the order of the bytes.
   * @param unit bytes; each disk is filled up with zeros to a multiple of it
   */
  constructor(parts: readonly Disk[], unit = 1) {
    super();
    this.parts = parts;
    const places: (Range & { disk: Disk })[] = [];
    let at = 0;
    for (const disk of parts) {
      const end = at + Math.ceil(disk.size / unit) * unit;
      places.push({ start: at, end, disk });
      at = end;
    }
    this.size = at;
    this.#places = places;
  }

  /** Fills all of `buffer` from `position` on. */
  async read(buffer: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    const { start, end } = checkRange(this.size, position, buffer.length);
    for (const part of this.#touched(start, end)) {
      const from = Math.max(start, part.start);
      const to = Math.min(end, part.end);
      const stored = Math.max(from, Math.min(to, part.start + part.disk.size));
      buffer.fill(0, stored - start, to - start);
      if (stored > from)
        await part.disk.read(buffer.subarray(from - start, stored - start), from - part.start, op);
    }
  }

  /** The runs of a range in order, merged, without gaps. */
  async *extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    const { start, end } = queryRange(this.size, query);
    for (const part of this.#touched(start, end)) {
      const from = Math.max(start, part.start);
      const to = Math.min(end, part.end);
      const stored = Math.max(from, Math.min(to, part.start + part.disk.size));
      if (stored > from) yield* shifted(part.disk, from - part.start, stored - from, part.start, query);
      if (to > stored) {
        yield { start: stored, length: to - stored, type: 'zero', depth: 0, hostOffset: null };
      }
    }
  }

  #touched(start: number, end: number): (Range & { disk: Disk })[] {
    return this.#places.filter((place) => place.start < end && place.end > start);
  }
}

/** A part of a disk, as a disk of its own. */
export class DiskSlice extends DerivedDisk {
  readonly parts: readonly Disk[];
  /** Bytes. */
  readonly size: number;
  readonly #disk: Disk;
  readonly #start: number;

  /** @throws RangeError when the part is not within the disk */
  constructor(disk: Disk, start: number | bigint, length: number | bigint) {
    super();
    const first = toBytes('start', start);
    this.size = toBytes('length', length);
    if (first + this.size > disk.size) throw outOfRange('length', `at most ${disk.size - first}`, length);
    this.#disk = disk;
    this.#start = first;
    this.parts = [disk];
  }

  /** Fills all of `buffer` from `position` on. */
  async read(buffer: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    const { start } = checkRange(this.size, position, buffer.length);
    await this.#disk.read(buffer, this.#start + start, op);
  }

  /** The runs of a range in order, merged, without gaps. */
  extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    const { start, end } = queryRange(this.size, query);
    return shifted(this.#disk, this.#start + start, end - start, -this.#start, query);
  }
}

const sector = 512;
const unknownBytes = 65536;

/** A disk of which what cannot be read reads as zeros. */
export class SalvagedDisk extends DerivedDisk {
  readonly parts: readonly Disk[];
  /** Bytes. */
  readonly size: number;
  readonly #disk: Disk;
  readonly #onLoss: (range: Range, error: unknown) => void;

  /**
   * The disk is not closed with this one.
   * @param onLoss is told of every range of at most 512 bytes that is given as zeros
   */
  constructor(disk: Disk, onLoss: (range: Range, error: unknown) => void) {
    super();
    this.parts = [disk];
    this.size = disk.size;
    this.#disk = disk;
    this.#onLoss = onLoss;
  }

  /** Fills all of `buffer` from `position` on. */
  async read(buffer: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    const { start, end } = checkRange(this.size, position, buffer.length);
    try {
      await this.#disk.read(buffer, start, op);
    } catch (error) {
      op.signal?.throwIfAborted();
      if (end - start <= sector) {
        this.#onLoss({ start, end }, error);
        buffer.fill(0);
        return;
      }
      const middle = Math.ceil((end - start) / sector / 2) * sector;
      await this.read(buffer.subarray(0, middle), start, op);
      await this.read(buffer.subarray(middle), start + middle, op);
    }
  }

  /** Where it cannot be told what a range is made of, it is data: reading it shows what is lost. */
  async *extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    const { start, end } = queryRange(this.size, query);
    for (let at = start; at < end;) {
      try {
        for await (const extent of this.#disk.extents({ ...query, start: at, length: end - at })) {
          yield extent;
          at = extent.start + extent.length;
        }
        return;
      } catch {
        query.signal?.throwIfAborted();
        const next = Math.min(end, at - (at % unknownBytes) + unknownBytes);
        yield { start: at, length: next - at, type: 'data', depth: 0, hostOffset: null };
        at = next;
      }
    }
  }
}

/** The extents of a range of a disk, with `by` added to their places. */
async function* shifted(
  disk: Disk,
  start: number,
  length: number,
  by: number,
  query: ExtentQuery,
): AsyncGenerator<Extent> {
  for await (const extent of disk.extents({ ...query, start, length })) {
    yield { ...extent, start: extent.start + by };
  }
}
