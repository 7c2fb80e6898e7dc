/** Writing back what was changed of tables that were read in batches. */
import { changedStride } from '../../native.js';
import { settleAll } from '../../storage/settle.js';
import type { Storage } from '../../storage/storage.js';
import type { ClusterBatch } from '../check/reader.js';

const maxInFlight = 8;

/** Where the changes of a batch are, when all of all its tables is. */
export function wholeTables({ offsets }: ClusterBatch, clusterSize: number): Float64Array {
  const changed = new Float64Array(offsets.length * changedStride);
  for (let at = 1; at < changed.length; at += changedStride) changed[at] = clusterSize;
  return changed;
}

/**
 * Writes bytes [changed[2i], changed[2i + 1]) of table i, for all tables of a batch; changes of neighbours in the file go in
 * one write, with what lies between them.
 */
export async function writeChanged(
  storage: Storage,
  { offsets, bytes }: ClusterBatch,
  changed: Float64Array,
  clusterSize: number,
): Promise<void> {
  let inFlight: Promise<void>[] = [];
  for (let first = 0, next = 0; first < offsets.length; first = next) {
    next = first + 1;
    const [start = 0, end = 0] = changed.subarray(first * changedStride, next * changedStride);
    if (start === end) continue;
    let stop = first * clusterSize + end;
    while (next < offsets.length && offsets[next] === (offsets[next - 1] ?? 0) + clusterSize) {
      const [from = 0, to = 0] = changed.subarray(next * changedStride, (next + 1) * changedStride);
      if (from === to) break;
      stop = next * clusterSize + to;
      next++;
    }
    const at = first * clusterSize + start;
    inFlight.push(storage.write(bytes.subarray(at, stop), (offsets[first] ?? 0) + start));
    if (inFlight.length === maxInFlight) {
      await settleAll(inFlight);
      inFlight = [];
    }
  }
  await settleAll(inFlight);
}
