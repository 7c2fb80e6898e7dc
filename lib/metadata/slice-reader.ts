/** What the entries of a slice of an L2 table say: runs for requests, rows of extents for maps. */
import type { Geometry } from '../format/geometry.js';
import { guestOffset, hostOffset } from '../format/units.js';
import { L2Flag, native, runStride, type RunKind } from '../native.js';
import { ExtentColumn, extentStride, invalidExtent } from '../native/extent-rows.js';
import { hasPlace, type RunVisitor } from './run.js';

/** Reads slices, each of whole entries and beginning with the first one that describes it. */
export class SliceReader {
  readonly #geometry: Geometry;
  readonly #l2Flags: number;
  readonly #coverage: number;
  readonly #runs: Float64Array = new Float64Array(512 * runStride);
  /** Made when extents are first asked for. */
  #rows: Float64Array | undefined;

  /**
   * @param l2Flags the {@link L2Flag}s that fit the image
   * @param coverage guest bytes that a slice describes
   */
  constructor(geometry: Geometry, l2Flags: number, coverage: number) {
    this.#geometry = geometry;
    this.#l2Flags = l2Flags;
    this.#coverage = coverage;
  }

  /** Visits the runs of guest bytes [start, end), the first and last of them cut to the range. */
  visit(bytes: Uint8Array, start: number, end: number, splitCopied: boolean, visitor: RunVisitor): void {
    const flags = this.#flagsFor(splitCopied);
    const { clusterBits, clusterSize } = this.#geometry;
    const sliceStart = Math.floor(start / this.#coverage) * this.#coverage;
    const last = Math.ceil((end - sliceStart) / clusterSize);
    let entry = Math.floor((start - sliceStart) / clusterSize);
    let at = sliceStart + entry * clusterSize;
    const out = this.#runs;
    while (entry < last) {
      const count = native.mapL2(bytes, flags, clusterBits, entry, last - entry, out);
      for (let i = 0; i < count * runStride; i += runStride) {
        const length = out[i + 1] ?? 0;
        this.#cut(
          (out[i] ?? 0) as RunKind,
          at,
          length,
          out[i + 2] ?? 0,
          out[i + 3] ?? 0,
          start,
          end,
          visitor,
        );
        at += length;
      }
      entry = (at - sliceStart) / clusterSize;
    }
  }

  /** Visits the extents of guest bytes [start, end) as rows, which are of whole clusters (`visitRows` of the mapping). */
  visitRows(
    bytes: Uint8Array,
    start: number,
    end: number,
    placed: boolean,
    visitor: (rows: Float64Array) => void,
  ): void {
    const { clusterBits, clusterSize } = this.#geometry;
    const sliceStart = Math.floor(start / this.#coverage) * this.#coverage;
    const last = Math.ceil((end - sliceStart) / clusterSize);
    this.#rows ??= new Float64Array(2048 * extentStride);
    const flags = this.#flagsFor(false);
    for (let entry = Math.floor((start - sliceStart) / clusterSize); entry < last;) {
      const from = sliceStart + entry * clusterSize;
      const count = native.extentRows(
        bytes,
        flags,
        clusterBits,
        entry,
        last - entry,
        from,
        placed,
        this.#rows,
      );
      const rows = this.#rows.subarray(0, count * extentStride);
      const at = rows.length - extentStride;
      const isInvalid = rows[at + ExtentColumn.type] === invalidExtent;
      // Before the visitor, which may change them.
      const next = (rows[at] ?? 0) + (rows[at + ExtentColumn.length] ?? 0);
      visitor(rows);
      if (isInvalid) return;
      entry = (next - sliceStart) / clusterSize;
    }
  }

  /** Hands on the part of a run that lies in [start, end). */
  #cut(
    kind: RunKind,
    at: number,
    length: number,
    host: number,
    aux: number,
    start: number,
    end: number,
    visitor: RunVisitor,
  ): void {
    const from = Math.max(at, start);
    const to = Math.min(at + length, end);
    if (from >= to) return;
    const skipped = hasPlace(kind) ? from - at : 0;
    visitor(kind, guestOffset(from), to - from, hostOffset(host + skipped), aux);
  }

  #flagsFor(splitCopied: boolean): number {
    return splitCopied ? this.#l2Flags : this.#l2Flags | L2Flag.ignoreCopied;
  }
}
