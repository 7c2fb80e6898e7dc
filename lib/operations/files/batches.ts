/** Cuts the planned copying of a disk into batches, each of which one native job does. */
import type { FilePlan } from './plan.js';
import { withDescriptors, type PlainFile } from './plain-file.js';
import { UnitRows } from './unit-rows.js';

/** Units of the disk that have something to read, as {@link NativeCore.transfer} takes them. */
export interface Batch {
  /** Whether nothing follows. */
  readonly isLast: boolean;
  readonly units: Float64Array;
  readonly pieces: Float64Array;
  readonly files: readonly PlainFile[];
  /** What pieces name by the index behind the last of the files; it stays as it is until the batch is done. */
  readonly memory?: Uint8Array;
  /** Bytes of all blocks that may be written, where these are not whole units. */
  readonly roomBytes?: number;
}

/** A batch of a whole disk. */
export interface DiskBatch extends Batch {
  /** What has been looked at so far, bytes from the beginning of the disk. */
  readonly done: number;
}

/** Of a batch; its last window may bring some more. */
const maxPieces = 16 * 1024;
/** Bytes of the first batch, so that copying begins early. Each one after it is twice as long, up to what is asked for. */
const firstBatch = 16 * 1024 * 1024;

/**
 * Batches of up to `bytes` of units, in the order of the disk; the last may be empty.
 * @param unit bytes, as {@link FilePlan.of} had it
 * @throws the signal's reason when it is aborted
 */
export async function* copyBatches(
  plan: FilePlan,
  unit: number,
  bytes: number,
  signal?: AbortSignal,
): AsyncGenerator<DiskBatch> {
  let limit = Math.min(firstBatch, bytes);
  for (let at = 0; at < plan.size; limit = Math.min(limit * 2, bytes)) {
    const from = at;
    const batch = await withDescriptors(plan.files, (fds) => planBatch(plan, unit, from, limit, fds, signal));
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
  signal: AbortSignal | undefined,
): Promise<DiskBatch> {
  const rows = new UnitRows(unit, plan.size);
  let at = Math.min(plan.skip(start, fds), plan.size);
  while (at < plan.size && rows.units.count * unit < bytes && rows.pieces.count < maxPieces) {
    signal?.throwIfAborted();
    const done = await plan.planWindow(rows, at, plan.size, fds);
    at = Math.min(plan.skip(done, fds), plan.size);
  }
  const { units, pieces } = rows;
  return { done: at, isLast: at >= plan.size, units: units.rows, pieces: pieces.rows, files: plan.files };
}
