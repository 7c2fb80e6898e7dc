/** Extents as rows of numbers: where there are millions, an object for each would cost more than finding them. */
import type { Extent, ExtentType } from '../disk.js';
import { ExtentColumn, extentStride, ExtentTypeIndex } from '../native/extent-rows.js';

export { ExtentColumn, extentStride, ExtentTypeIndex };

/** The name of each type, in the order of their numbers. */
export const extentTypes = ['data', 'compressed', 'zero', 'unallocated'] as const satisfies ExtentType[];

/** The type of rows that are data to the image and lie in a hole of their file. Disks give none: see `operations/holes.ts`. */
export const dataInHole = 4;

const noRows = new Float64Array(0);
/** Few, as there is one gatherer for each hole of each layer. */
const firstRows = 8;

/** Gathers rows, joining neighbours of one type and layer whose places, where they have any, are neighbours, too. */
export class MergedRows {
  #rows = new Float64Array(firstRows * extentStride);
  #length = 0;

  add(start: number, length: number, type: number, depth: number, hostOffset: number): void {
    if (this.#length > 0 && this.#goesOn(type, depth, hostOffset)) {
      const at = this.#length - extentStride + ExtentColumn.length;
      this.#rows[at] = (this.#rows[at] ?? 0) + length;
      return;
    }
    if (this.#length === this.#rows.length) this.#grow();
    const rows = this.#rows;
    const at = this.#length;
    rows[at] = start;
    rows[at + ExtentColumn.length] = length;
    rows[at + ExtentColumn.type] = type;
    rows[at + ExtentColumn.depth] = depth;
    rows[at + ExtentColumn.hostOffset] = hostOffset;
    this.#length = at + extentStride;
  }

  /** Adds rows whose neighbours are joined already. */
  addJoined(rows: Float64Array): void {
    if (rows.length === 0) return;
    const [start = 0, length = 0, type = 0, depth = 0, hostOffset = -1] = rows;
    this.add(start, length, type, depth, hostOffset);
    const rest = rows.subarray(extentStride);
    while (this.#length + rest.length > this.#rows.length) this.#grow();
    this.#rows.set(rest, this.#length);
    this.#length += rest.length;
  }

  /** The rows but for the last, which may go on. */
  take(): Float64Array {
    if (this.#length <= extentStride) return noRows;
    const last = this.#length - extentStride;
    const taken = this.#rows.slice(0, last);
    this.#rows.copyWithin(0, last, this.#length);
    this.#length = extentStride;
    return taken;
  }

  takeAll(): Float64Array {
    if (this.#length === 0) return noRows;
    const taken = this.#rows.slice(0, this.#length);
    this.#length = 0;
    return taken;
  }

  #goesOn(type: number, depth: number, hostOffset: number): boolean {
    const rows = this.#rows;
    const at = this.#length - extentStride;
    if (rows[at + ExtentColumn.type] !== type || rows[at + ExtentColumn.depth] !== depth) return false;
    const lastOffset = rows[at + ExtentColumn.hostOffset] ?? 0;
    if (lastOffset < 0 || hostOffset < 0) return lastOffset === hostOffset;
    return lastOffset + (rows[at + ExtentColumn.length] ?? 0) === hostOffset;
  }

  #grow(): void {
    const larger = new Float64Array(this.#rows.length * 2);
    larger.set(this.#rows);
    this.#rows = larger;
  }
}

/** The extents of rows, one by one. */
export function* extentsOf(rows: Float64Array): Generator<Extent> {
  for (let at = 0; at < rows.length; at += extentStride) {
    const hostOffset = rows[at + ExtentColumn.hostOffset] ?? -1;
    yield {
      start: rows[at] ?? 0,
      length: rows[at + ExtentColumn.length] ?? 0,
      type: extentTypes[rows[at + ExtentColumn.type] ?? 0] ?? 'unallocated',
      depth: rows[at + ExtentColumn.depth] ?? 0,
      hostOffset: hostOffset < 0 ? null : hostOffset,
    };
  }
}

/** An extent as a row. */
export function rowOf({ start, length, type, depth, hostOffset }: Extent): Float64Array {
  return Float64Array.of(start, length, ExtentTypeIndex[type], depth, hostOffset ?? -1);
}
