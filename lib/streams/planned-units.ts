/** Runs of a stream as the units and pieces that native jobs take. */
import { alignDown } from '../format/units.js';
import { transferStride, type Codec } from '../native.js';
import type { Batch } from '../operations/files/batches.js';
import type { PlainFile } from '../operations/files/plain-file.js';
import { RowTable } from '../operations/files/row-table.js';
import type { QueuedRun } from './run-queue.js';

/** A run, or a part of one, and where its bytes are now. */
export interface PlannedRun extends QueuedRun {
  /** The file that it was put aside in; null: the memory of the job. */
  readonly file: PlainFile | null;
  /** Where in that. */
  readonly position: number;
}

/**
 * Units in the order of the disk, each without gaps.
 * @param unit most bytes of one, a multiple of the cluster size
 */
export function plannedUnits(
  runs: readonly PlannedRun[],
  unit: number,
  clusterSize: number,
  codec: Codec,
): Pick<Batch, 'units' | 'pieces' | 'files'> {
  const units = new RowTable(transferStride.unit);
  const pieces = new RowTable(transferStride.piece);
  const files = [...new Set(runs.flatMap(({ file }) => (file === null ? [] : [file])))];
  let start = 0;
  let end = -1;
  for (const { guest, length, packed, file, position } of runs.toSorted((a, b) => a.guest - b.guest)) {
    // The memory is behind the files.
    const source = file === null ? files.length : files.indexOf(file);
    for (let at = guest; at < guest + length; at = end) {
      if (at !== end || at % unit === 0) {
        start = at;
        units.add(start, 0, 0);
      }
      const part = Math.min(guest + length, alignDown(at, unit) + unit) - at;
      const from = position + (at - guest);
      if (packed > 0) pieces.add(source, position, packed, at - start, part, clusterSize, 0, codec);
      else pieces.add(source, from, part, at - start, part);
      units.increase(1, part);
      units.increase(2, 1);
      end = at + part;
    }
  }
  return { units: units.rows, pieces: pieces.rows, files };
}
