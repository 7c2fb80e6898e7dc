/** Disks made of other disks: a part of one, or several behind one another. */
import type { Readable } from 'node:stream';
import type { ByteRange, Disk, Extent, ExtentQuery, Op } from '../disk.js';
import { outOfRange } from '../errors.js';
import { toBytes } from '../format/units.js';
import { checkRange, createReadStream, nextData, nextHole, queryRange, type Range } from './disk-queries.js';

/** A disk that other disks are behind. Closing it leaves those to whoever opened them. */
abstract class DerivedDisk implements Disk {
  abstract readonly size: number;
  abstract read(buffer: Uint8Array, position: number | bigint, op?: Op): Promise<void>;
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

  close(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The disks that are behind one another, at their places. */
export class ConcatenatedDisk extends DerivedDisk {
  readonly parts: readonly Disk[];
  readonly size: number;
  readonly #places: readonly (Range & { disk: Disk })[];

  /** @param unit bytes; each disk is filled up with zeros to a multiple of it */
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

  async read(buffer: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    const { start } = checkRange(this.size, position, buffer.length);
    await this.#disk.read(buffer, this.#start + start, op);
  }

  extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    const { start, end } = queryRange(this.size, query);
    return shifted(this.#disk, this.#start + start, end - start, -this.#start, query);
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
