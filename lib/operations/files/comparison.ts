/** Finds where two disks that consist of plain files may differ, by native jobs that read both and compare. */
import { availableParallelism } from 'node:os';
import type { Range } from '../../io/disk-queries.js';
import { comparisonStride, native, transferStride } from '../../native.js';
import { pageBytes } from '../../storage/page-bytes.js';
import { settleAll } from '../../storage/settle.js';
import type { FilePlan } from './plan.js';
import { withDescriptors } from './plain-file.js';
import { RowTable } from './row-table.js';
import { UnitCursor } from './unit-cursor.js';
import { UnitRows } from './unit-rows.js';

const noRows = new Float64Array(0);
const maxWorkers = 4;
const maxPieces = 16 * 1024;
/** Bytes of the units of a job, unless they are in very many pieces. */
const jobBytes = 64 * 1024 * 1024;

/** What was compared, up to `end`, and the units of it that have to be looked at closer: they differ, or cannot be read so. */
export interface Compared {
  readonly end: number;
  readonly suspects: Range[];
  /** Whether all was read: suspects do differ then. */
  readonly isRead: boolean;
}

/** One unit after the other of both disks, as native jobs take them. */
interface Batch {
  readonly end: number;
  /** Where each of the units begins, and behind each where it ends. */
  readonly ranges: Float64Array;
  readonly units: Float64Array;
  readonly pieces: Float64Array;
}

export class FileComparison {
  readonly #a: FilePlan;
  readonly #b: FilePlan;
  readonly #unit: number;
  readonly #workers: number;
  readonly #scratch: Uint8Array;

  /** @param unit bytes, as {@link FilePlan.of} had it for both */
  constructor(a: FilePlan, b: FilePlan, unit: number, concurrency: number) {
    this.#a = a;
    this.#b = b;
    this.#unit = unit;
    this.#workers = Math.min(concurrency, maxWorkers, availableParallelism());
    this.#scratch = pageBytes(this.#workers * 2 * unit);
  }

  /**
   * Compares ranges, which are in order, batch by batch; the next one is planned meanwhile. What neither disk has stored is not
   * read. What cannot be read is suspect: whoever looks closer finds out what is wrong, after what comes before it.
   */
  async *compare(ranges: AsyncIterable<Range>, signal: AbortSignal | undefined): AsyncGenerator<Compared> {
    const cursor = new RangeCursor(ranges);
    try {
      for (let batch = await this.#plan(cursor, signal); batch !== null;) {
        signal?.throwIfAborted();
        const running = this.#run(batch);
        const planned = this.#plan(cursor, signal);
        await settleAll([running, planned]);
        yield await running;
        batch = await planned;
      }
    } finally {
      await cursor.close();
    }
  }

  #withFiles<T>(work: (fds: readonly number[]) => Promise<T>): Promise<T> {
    return withDescriptors([...this.#a.files, ...this.#b.files], work);
  }

  /** Null when nothing is left. Where tables cannot be read, all that was looked at is suspect. */
  #plan(cursor: RangeCursor, signal: AbortSignal | undefined): Promise<Batch | null> {
    return this.#withFiles((fds) => this.#planUnits(cursor, fds, signal));
  }

  async #planUnits(
    cursor: RangeCursor,
    fds: readonly number[],
    signal: AbortSignal | undefined,
  ): Promise<Batch | null> {
    const rows = new ComparedRows();
    const looked = new RowTable(2);
    let end: number | undefined;
    for (let range = await cursor.rest(); range !== null; range = await cursor.rest()) {
      if (this.#isFull(rows)) break;
      try {
        end = await this.#planRange(rows, range, fds, signal);
      } catch {
        signal?.throwIfAborted();
        looked.add(range.start, range.end);
        cursor.passed(range.end);
        return { end: range.end, ranges: looked.rows, units: noRows, pieces: noRows };
      }
      looked.add(range.start, end);
      cursor.passed(end);
    }
    if (end === undefined) return null;
    return { end, ranges: rows.ranges.rows, units: rows.units.rows, pieces: rows.pieces.rows };
  }

  #isFull(rows: ComparedRows): boolean {
    return rows.units.count * this.#unit >= jobBytes || rows.pieces.count >= maxPieces;
  }

  /** Plans a range, or as much of it as there is room for; returns how far it came. */
  async #planRange(
    rows: ComparedRows,
    { start, end }: Range,
    fds: readonly number[],
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const ofA = fds.slice(0, this.#a.files.length);
    const ofB = fds.slice(this.#a.files.length);
    const nextStored = (at: number): number => Math.min(this.#a.skip(at, ofA), this.#b.skip(at, ofB), end);
    let at = nextStored(start);
    while (at < end && !this.#isFull(rows)) {
      signal?.throwIfAborted();
      const inA = new UnitRows(this.#unit, end);
      const inB = new UnitRows(this.#unit, end, ofA.length);
      const done = Math.max(
        await this.#a.planWindow(inA, at, end, ofA),
        await this.#b.planWindow(inB, at, end, ofB),
      );
      rows.add(inA, inB, start);
      at = nextStored(done);
    }
    return at;
  }

  async #run({ end, ranges, units, pieces }: Batch): Promise<Compared> {
    const count = ranges.length / 2;
    const differs = new Uint8Array(count);
    const isUnfit =
      units.length === 0 ||
      (await this.#withFiles(async (fds) => {
        const files = Float64Array.from(fds);
        const work = native.comparePieces(files, units, pieces, this.#scratch, differs, this.#workers);
        const results = await Promise.allSettled(work);
        return results.some((result) => result.status === 'rejected' || result.value === -1);
      }));
    const suspects: Range[] = [];
    for (let i = 0; i < count; i++) {
      if (!isUnfit && differs[i] !== 1) continue;
      suspects.push({ start: ranges[2 * i] ?? 0, end: ranges[2 * i + 1] ?? 0 });
    }
    return { end, suspects, isRead: !isUnfit || count === 0 };
  }
}

/** Goes along ranges in parts. */
class RangeCursor {
  readonly #ranges: AsyncIterator<Range>;
  #rest: Range | null = null;

  constructor(ranges: AsyncIterable<Range>) {
    this.#ranges = ranges[Symbol.asyncIterator]();
  }

  /** What is left of the range it is at; null behind the last. */
  async rest(): Promise<Range | null> {
    while (this.#rest === null || this.#rest.start >= this.#rest.end) {
      const next = await this.#ranges.next();
      if (next.done === true) return null;
      this.#rest = next.value;
    }
    return this.#rest;
  }

  passed(at: number): void {
    if (this.#rest !== null) this.#rest = { start: at, end: this.#rest.end };
  }

  async close(): Promise<void> {
    await this.#ranges.return?.();
  }
}

/** The units of two disks side by side. */
class ComparedRows {
  readonly ranges = new RowTable(2);
  readonly units = new RowTable(comparisonStride);
  readonly pieces = new RowTable(transferStride.piece);

  /** Adds units that follow on those before, of a range that begins at `start`. */
  add(a: UnitRows, b: UnitRows, start: number): void {
    const inA = new UnitCursor(a);
    const inB = new UnitCursor(b);
    for (let at = Math.min(inA.start, inB.start); at < Infinity; at = Math.min(inA.start, inB.start)) {
      const length = inA.start === at ? inA.length : inB.length;
      this.ranges.add(Math.max(at, start), at + length);
      this.units.add(length, inA.take(at, this.pieces), inB.take(at, this.pieces));
    }
  }
}
