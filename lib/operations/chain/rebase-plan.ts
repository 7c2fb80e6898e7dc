/** Plans which parts of the old and the new backing disk a safe rebase holds against each other, in batches for native jobs. */
import { alignDown } from '../../format/units.js';
import type { Range } from '../../io/disk-queries.js';
import { turn } from '../../io/turn.js';
import { transferStride } from '../../native.js';
import type { FilePlan } from '../files/plan.js';
import { withDescriptors } from '../files/plain-file.js';
import { RowTable } from '../files/row-table.js';
import { pieceColumn } from '../files/run-units.js';
import type { ShownRanges } from '../files/shown-ranges.js';
import { UnitCursor } from '../files/unit-cursor.js';
import { UnitRows } from '../files/unit-rows.js';

const MiB = 1024 * 1024;
/** What is looked at in one go. */
const windowBytes = 16 * MiB;
/** Bytes of the units of the first batch, so that copying begins early; each one after it has twice as many. */
const firstBatch = 8 * MiB;
/** Bytes of the units of a batch. What is reserved for it and not used leaves refcount blocks behind. */
const maxBatch = 32 * MiB;
/** Clusters of a batch, all of which may get entries before any is written. */
const maxClusters = 16 * 1024;
const maxPieces = 16 * 1024;
/** Ranges and windows of a batch: both disks may have tables for everything and nothing stored. */
const maxLooks = 16 * 1024;

/** What is to be looked at, up to `end`. */
export interface RebaseBatch {
  readonly end: number;
  /** Whole clusters of the image, in order. */
  readonly ranges: readonly Range[];
  /** Rows for a native job of what differs, or null where something cannot be planned. */
  readonly rows: ComparedUnits | null;
}

interface Parts {
  readonly shown: ShownRanges;
  readonly old: FilePlan;
  readonly next: FilePlan;
}

export class RebasePlan {
  readonly #shown: ShownRanges;
  readonly #old: FilePlan;
  readonly #next: FilePlan;
  readonly #size: number;
  readonly #clusterSize: number;
  readonly #unit: number;
  readonly #most: number;
  #at = 0;
  #limit: number;

  /**
   * @param size of the disk that is rebased, bytes
   * @param clusterSize of the image that is rebased
   * @param unit bytes, a multiple of that, as {@link FilePlan.of} had it for both disks
   */
  constructor({ shown, old, next }: Parts, size: number, clusterSize: number, unit: number) {
    this.#shown = shown;
    this.#old = old;
    this.#next = next;
    this.#size = size;
    this.#clusterSize = clusterSize;
    this.#unit = unit;
    this.#most = Math.min(maxBatch, maxClusters * clusterSize);
    this.#limit = Math.min(firstBatch, this.#most);
  }

  /**
   * The next batch; null behind the last.
   * @throws what keeps it from being told what shows through from the layers below; what comes before that is planned first
   */
  next(signal: AbortSignal | undefined): Promise<RebaseBatch | null> {
    return withDescriptors([...this.#old.files, ...this.#next.files], (fds) => this.#plan(fds, signal));
  }

  async #plan(fds: readonly number[], signal: AbortSignal | undefined): Promise<RebaseBatch | null> {
    const ofOld = fds.slice(0, this.#old.files.length);
    const ofNext = fds.slice(ofOld.length);
    const nextStored = (at: number): number =>
      Math.min(this.#old.skip(at, ofOld), this.#next.skip(at, ofNext), this.#size);
    const batch = { end: this.#at, ranges: [] as Range[], rows: new ComparedUnits(this.#clusterSize) };
    const limit = this.#limit;
    this.#at = nextStored(this.#at);
    let windows = 0;
    while (this.#at < this.#size && !batch.rows.isFull(limit) && windows + batch.ranges.length < maxLooks) {
      // With all tables in memory nothing below waits.
      if (!turn.step()) await turn.next();
      signal?.throwIfAborted();
      windows += 1;
      const start = this.#at;
      const step = Math.min(windowBytes, limit);
      const end = Math.min(alignDown(start, step) + step, this.#size);
      let ranges: Range[];
      try {
        ranges = await this.#shown.within(start, end);
      } catch (error) {
        if (batch.ranges.length === 0) throw error;
        return batch;
      }
      batch.ranges.push(...ranges);
      batch.end = end;
      this.#at = nextStored(end);
      try {
        for (const range of ranges) await this.#addRange(batch.rows, range, ofOld, ofNext);
      } catch {
        // What is wrong there is found and named by reading it.
        return { ...batch, rows: null };
      }
    }
    this.#limit = Math.min(limit * 2, this.#most);
    return batch.ranges.length === 0 && this.#at >= this.#size ? null : batch;
  }

  async #addRange(
    rows: ComparedUnits,
    { start, end }: Range,
    ofOld: readonly number[],
    ofNext: readonly number[],
  ): Promise<void> {
    const inOld = new UnitRows(this.#unit, end, 0, start);
    const inNext = new UnitRows(this.#unit, end, ofOld.length, start);
    // No window of a plan ends in between.
    await this.#old.planWindow(inOld, start, end, ofOld);
    await this.#next.planWindow(inNext, start, end, ofNext);
    rows.add(inOld, inNext);
  }
}

/** Units with what the old disk has in them, and then what the new one has. */
export class ComparedUnits {
  readonly units = new RowTable(transferStride.differingUnit);
  readonly pieces = new RowTable(transferStride.piece);
  readonly #clusterSize: number;
  #bytes = 0;
  #roomBytes = 0;

  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize;
  }

  /** Of all clusters that may have to be copied. */
  get roomBytes(): number {
    return this.#roomBytes;
  }

  isFull(bytes: number): boolean {
    return this.#bytes >= bytes || this.pieces.count >= maxPieces;
  }

  /** Adds units that follow on those before. */
  add(old: UnitRows, next: UnitRows): void {
    const inOld = new UnitCursor(old);
    const inNext = new UnitCursor(next);
    for (
      let at = Math.min(inOld.start, inNext.start);
      at < Infinity;
      at = Math.min(inOld.start, inNext.start)
    ) {
      const length = inOld.start === at ? inOld.length : inNext.length;
      const before = this.pieces.count;
      const count = inOld.take(at, this.pieces);
      this.#roomBytes +=
        Math.min(this.#clustersOf(before), Math.ceil(length / this.#clusterSize)) * this.#clusterSize;
      this.units.add(at, length, count, inNext.take(at, this.pieces));
      this.#bytes += length;
    }
  }

  /** Clusters that the pieces from the given one on may fill. */
  #clustersOf(first: number): number {
    const { rows } = this.pieces;
    let clusters = 0;
    for (let i = first * transferStride.piece; i < rows.length; i += transferStride.piece) {
      const start = rows[i + pieceColumn.place] ?? 0;
      const last = start + (rows[i + pieceColumn.length] ?? 0) - 1;
      clusters += Math.floor(last / this.#clusterSize) - Math.floor(start / this.#clusterSize) + 1;
    }
    return clusters;
  }
}
