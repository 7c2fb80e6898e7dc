/** Finds where two disks that consist of plain files may differ, by native jobs that read both and compare. */
import { availableParallelism } from 'node:os';
import type { Range } from '../io/disk-queries.js';
import { comparisonStride, native, transferStride } from '../native.js';
import { pageBytes } from '../storage/page-bytes.js';
import type { FilePlan } from './file-plan.js';
import { withDescriptors } from './plain-file.js';
import { RowTable } from './row-table.js';

const noRows = new Float64Array(0);
const maxWorkers = 4;
const maxPieces = 16 * 1024;
/** Units of a job: of a hundred MiB or so, unless they are in very many pieces. */
const maxUnits = 256;

/** What was compared, up to `end`, and the units of it that have to be looked at closer: they differ, or cannot be read so. */
export interface Compared {
  readonly end: number;
  readonly suspects: Range[];
}

/** One unit after the other of both disks, as native jobs take them. */
interface Batch {
  readonly end: number;
  readonly ranges: Range[];
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
   * Compares [start, end) batch by batch; the next one is planned meanwhile. What neither disk has stored is not read. What
   * cannot be read is suspect: whoever looks closer finds out what is wrong, after what comes before it.
   */
  async *compare({ start, end }: Range, signal: AbortSignal | undefined): AsyncGenerator<Compared> {
    let batch = start < end ? await this.#plan(start, end) : null;
    while (batch !== null) {
      signal?.throwIfAborted();
      const { end: at }: Batch = batch;
      const [compared, next]: [Compared, Batch | null] = await Promise.all([
        this.#run(batch),
        at < end ? this.#plan(at, end) : null,
      ]);
      yield compared;
      batch = next;
    }
  }

  #withFiles<T>(work: (fds: readonly number[]) => Promise<T>): Promise<T> {
    return withDescriptors([...this.#a.files, ...this.#b.files], work);
  }

  async #plan(start: number, end: number): Promise<Batch> {
    try {
      return await this.#planUnits(start, end);
    } catch {
      return { end, ranges: [{ start, end }], units: noRows, pieces: noRows };
    }
  }

  #planUnits(start: number, end: number): Promise<Batch> {
    return this.#withFiles(async (fds) => {
      const ofA = fds.slice(0, this.#a.files.length);
      const ofB = fds.slice(this.#a.files.length);
      const ranges: Range[] = [];
      const units = new RowTable(comparisonStride);
      const pieces = new RowTable(transferStride.piece);
      let at = start;
      while (at < end && units.count < maxUnits && pieces.count < maxPieces) {
        at = Math.min(this.#a.skip(at, ofA), this.#b.skip(at, ofB), end);
        const stop = Math.min(at - (at % this.#unit) + this.#unit, end);
        if (at >= stop) break;
        const before = pieces.count;
        await this.#a.planUnit(pieces, at, stop, ofA);
        const between = pieces.count;
        await this.#b.planUnit(pieces, at, stop, ofB, ofA.length);
        if (pieces.count > before) {
          ranges.push({ start: at, end: stop });
          units.add(stop - at, between - before, pieces.count - between);
        }
        at = stop;
      }
      return { end: at, ranges, units: units.rows, pieces: pieces.rows };
    });
  }

  async #run({ end, ranges, units, pieces }: Batch): Promise<Compared> {
    if (units.length === 0) return { end, suspects: ranges };
    const differs = new Uint8Array(ranges.length);
    const isUnfit = await this.#withFiles(async (fds) => {
      const files = Float64Array.from(fds);
      const work = native.comparePieces(files, units, pieces, this.#scratch, differs, this.#workers);
      const results = await Promise.allSettled(work);
      return results.some((result) => result.status === 'rejected' || result.value === -1);
    });
    return { end, suspects: ranges.filter((_, index) => isUnfit || differs[index] === 1) };
  }
}
