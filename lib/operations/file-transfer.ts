/** Copies between plain files by native jobs of many megabytes, following a plan made here. */
import { availableParallelism } from 'node:os';
import { alignUp } from '../format/units.js';
import { native, transferStride } from '../native.js';
import { pageBytes } from '../storage/page-bytes.js';
import { settleAll } from '../storage/settle.js';
import { withDescriptors, type PlainFile } from './plain-file.js';
import type { Batch } from './file-plan.js';

/** A target that is one plain file. */
export interface FileTarget {
  readonly storage: PlainFile;
  /**
   * Room for data in the file, in the order in which it will be used, as host position and length: at least `bytes`, for
   * units as a {@link Batch} has them. Undefined where everything has its place already.
   */
  reserve?(bytes: number, units: readonly number[]): Promise<number[]>;
  /** Told which of the room was used for what: guest position, length, host position of each run. */
  placed?(runs: Float64Array): Promise<void>;
}

/** Bytes of a job: enough that its beginning and end do not count, few enough to stop soon. */
export const batchBytes = 64 * 1024 * 1024;
const maxWorkers = 4;

export class FileTransfer {
  readonly #target: FileTarget;
  readonly #granularity: number;
  readonly #workers: number;
  readonly #scratch: Uint8Array;
  #placed = new Float64Array(0);

  /** @param unit longest unit, bytes, a multiple of `granularity` */
  constructor(target: FileTarget, granularity: number, unit: number, concurrency: number) {
    this.#target = target;
    this.#granularity = granularity;
    this.#workers = Math.min(concurrency, maxWorkers, availableParallelism());
    this.#scratch = pageBytes(this.#workers * unit);
  }

  /** Copies a batch. False when the files are not as planned: nothing of the batch counts then. */
  async copy({ units, pieces, files }: Batch): Promise<boolean> {
    if (units.length === 0) return true;
    const places = (await this.#target.reserve?.(this.#bytesOf(units), units)) ?? [];
    const room = (this.#bytesOf(units) / this.#granularity + places.length) * transferStride.placed;
    if (places.length > 0 && this.#placed.length < room) this.#placed = new Float64Array(room);
    const results = await withDescriptors(
      [this.#target.storage, ...files],
      async ([target = -1, ...sources]) => {
        const work = native.transfer(
          target,
          Float64Array.from(units),
          withDescriptorsIn(pieces, sources),
          Float64Array.from(places),
          this.#granularity,
          this.#scratch,
          this.#placed,
          this.#workers,
        );
        await settleAll(work);
        return Promise.all(work);
      },
    );
    if (results.includes(-1)) return false;
    await this.#target.placed?.(this.#placed.subarray(0, Math.max(...results) * transferStride.placed));
    return true;
  }

  #bytesOf(units: readonly number[]): number {
    let bytes = 0;
    for (let i = 1; i < units.length; i += transferStride.unit) {
      bytes += alignUp(units[i] ?? 0, this.#granularity);
    }
    return bytes;
  }
}

/** The pieces of a batch, as {@link NativeCore.transfer} takes them: with descriptors in the place of the files' numbers. */
function withDescriptorsIn(pieces: readonly number[], fds: readonly number[]): Float64Array {
  const rows = Float64Array.from(pieces);
  for (let i = 0; i < rows.length; i += transferStride.piece) rows[i] = fds[rows[i] ?? -1] ?? -1;
  return rows;
}
