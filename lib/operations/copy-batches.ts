/** Cuts the planned copying of a disk into batches, each of which one native job does. */
import { transferStride } from '../native.js';
import type { FilePlan } from './file-plan.js';
import { withDescriptors, type PlainFile } from './plain-file.js';
import { RowTable } from './row-table.js';

/** Units of the disk that have something to read, as {@link NativeCore.transfer} takes them. */
export interface Batch {
  /** What has been looked at so far, bytes from the beginning of the disk. */
  readonly done: number;
  /** Whether nothing follows. */
  readonly isLast: boolean;
  readonly units: Float64Array;
  readonly pieces: Float64Array;
  readonly files: readonly PlainFile[];
}

/** Of a batch; its last unit may bring some more. */
const maxPieces = 16 * 1024;
/** Bytes of the first batch, so that copying begins early. Each one after it is twice as long, up to what is asked for. */
const firstBatch = 16 * 1024 * 1024;

/**
 * Batches of up to `bytes` of units, in the order of the disk; the last may be empty.
 * @param unit bytes, as {@link FilePlan.of} had it
 */
export async function* copyBatches(plan: FilePlan, unit: number, bytes: number): AsyncGenerator<Batch> {
  let limit = Math.min(firstBatch, bytes);
  for (let at = 0; at < plan.size; limit = Math.min(limit * 2, bytes)) {
    const from = at;
    const batch = await withDescriptors(plan.files, (fds) => planBatch(plan, unit, from, limit, fds));
    at = batch.done;
    yield batch;
  }
}

async function planBatch(
  plan: FilePlan,
  unit: number,
  start: number,
  bytes: number,
  fds: readonly number[],
): Promise<Batch> {
  const units = new RowTable(transferStride.unit);
  const pieces = new RowTable(transferStride.piece);
  let at = Math.min(plan.skip(start, fds), plan.size);
  while (at < plan.size && units.count * unit < bytes && pieces.count < maxPieces) {
    const end = Math.min(at + unit, plan.size);
    const before = pieces.count;
    await plan.planUnit(pieces, at, end, fds);
    if (pieces.count > before) units.add(at, end - at, pieces.count - before);
    at = Math.min(plan.skip(end, fds), plan.size);
  }
  return { done: at, isLast: at >= plan.size, units: units.rows, pieces: pieces.rows, files: plan.files };
}
