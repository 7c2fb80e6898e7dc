/** Following the entries of an L1 table, the active one's or a snapshot's, to the L2 tables. */
import { tableEntrySize } from '../../format/geometry.js';
import {
  describeEntryProblem,
  EntryProblem,
  readL1Entry,
  tableLength,
  tableView,
} from '../../format/table-entry.js';
import { hex } from '../../format/text.js';
import type { CheckContext } from './context.js';
import type { FindingKind } from './report.js';
import type { L2TableSet } from './l2-tables.js';

const problemKinds: Record<EntryProblem, FindingKind> = {
  [EntryProblem.reservedBits]: 'entry-reserved-bits',
  [EntryProblem.unaligned]: 'entry-unaligned',
  [EntryProblem.tooFar]: 'entry-out-of-file',
};

/**
 * Gathers the L2 tables of a piece of an L1 table into `tables`.
 * @param what names the table in findings
 * @param firstIndex index of the first entry in `bytes`
 * @param times how many disks have this L1 table
 */
export function followL1(
  context: CheckContext,
  bytes: Uint8Array,
  what: string,
  firstIndex: number,
  tables: L2TableSet,
  times = 1,
): void {
  const { clusterSize } = context.image.geometry;
  const view = tableView(bytes);
  for (let index = 0; index < tableLength(view); index++) {
    const offset = readL1Entry(view, index, clusterSize);
    if (offset === 0) continue;
    if (offset > 0 && offset < context.fileEnd) {
      tables.add(offset, times);
      continue;
    }
    const place = maskedL1Offset(view, index);
    const followable = offset === EntryProblem.reservedBits && isPlaceOfTable(place, context);
    // What only has stray bits set still says where its table is; a repair must not take that for free.
    if (followable) tables.add(place, times);
    else if (offset === EntryProblem.unaligned) context.counts.add(place, clusterSize, times);
    if (!context.findings.hasRoom) {
      context.findings.count('corruption', times);
      continue;
    }
    context.findings.add(
      {
        kind: offset > 0 ? 'entry-out-of-file' : problemKinds[offset as EntryProblem],
        severity: 'corruption',
        where: `entry ${firstIndex + index} of ${what}`,
        offset: place,
        message:
          `Entry ${firstIndex + index} of ${what} ` +
          (offset > 0 ? `points past the end of the file, at ${hex(place)}` : describeEntryProblem(offset)),
      },
      times,
    );
  }
}

function isPlaceOfTable(offset: number, { fileEnd, image }: CheckContext): boolean {
  return offset > 0 && offset % image.geometry.clusterSize === 0 && offset < fileEnd;
}

/** The offset that an L1 entry holds in bits 9 to 55, whatever the others are. */
export function maskedL1Offset(view: DataView, index: number): number {
  const high = view.getUint32(index * tableEntrySize) & 0x00ff_ffff;
  const low = view.getUint32(index * tableEntrySize + 4);
  return high * 2 ** 32 + (low - (low % 512));
}
