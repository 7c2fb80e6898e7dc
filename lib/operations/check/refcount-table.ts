/** The refcount table and where its entries say the refcount blocks are. */
import { tableEntrySize } from '../../format/geometry.js';
import {
  describeEntryProblem,
  EntryProblem,
  readRefcountTableEntry,
  tableLength,
  tableView,
} from '../../format/table-entry.js';
import { hex } from '../../format/text.js';
import type { CheckContext } from './context.js';
import type { FindingKind } from './report.js';

/** Where a refcount block can be read; `unaligned` when nobody can tell, which leaves its refcounts unknown. */
export type BlockPlace = number | 'unaligned';

/** Counts refcount table and blocks. Call it last: a block that anything else refers to, too, is a finding. */
export function countRefcountStructure(context: CheckContext): void {
  const { image, counts, findings } = context;
  const { header, geometry, refcounts } = image;
  for (const problem of header.problems)
    damaged(context, 'refcount-table', 'the refcount table', problem.message);
  if (header.problems.length > 0) return;
  context.addArea('the refcount table', refcounts.tableOffset, refcounts.tableBytes.length);
  const table = tableView(refcounts.tableBytes);
  for (let index = 0; index < tableLength(table); index++) {
    const offset = readRefcountTableEntry(table, index, geometry.clusterSize);
    if (offset === 0) continue;
    const where = `entry ${index} of the refcount table`;
    if (offset > 0 && counts.add(offset, geometry.clusterSize, 1)) continue;
    if (offset > 0)
      damaged(context, 'entry-out-of-file', where, `points past the end of the file, at ${hex(offset)}`);
    else
      damaged(
        context,
        offset === EntryProblem.unaligned ? 'entry-unaligned' : 'entry-reserved-bits',
        where,
        describeEntryProblem(offset),
      );
  }
  for (let index = 0; index < tableLength(table); index++) {
    const offset = readRefcountTableEntry(table, index, geometry.clusterSize);
    if (offset <= 0 || offset >= context.fileEnd) continue;
    const references = counts.get(offset / geometry.clusterSize);
    if (references === 1) continue;
    context.refcountDamage++;
    findings.add({
      kind: 'overlap',
      severity: 'corruption',
      where: `refcount block ${index}`,
      offset,
      expected: 1,
      found: references,
      message: `Refcount block ${index} at ${hex(offset)} is used ${references} times`,
    });
  }
}

function damaged(context: CheckContext, kind: FindingKind, where: string, finding: string): void {
  context.refcountDamage++;
  // The refcounts are made anew from what the other tables say.
  const repair = 'risky';
  context.findings.add({ kind, severity: 'corruption', repair, where, message: `${where}: ${finding}` });
}

/** Where refcount block `index` can be read; 0 when there is none. Stray reserved bits are left out of account. */
export function blockPlace(context: CheckContext, table: DataView, index: number): BlockPlace {
  if (index >= tableLength(table)) return 0;
  const { clusterSize } = context.image.geometry;
  const high = table.getUint32(index * tableEntrySize);
  const low = table.getUint32(index * tableEntrySize + 4);
  const offset = high * 2 ** 32 + (low - (low % 512));
  if (offset % clusterSize !== 0) return 'unaligned';
  return offset < context.fileEnd ? offset : 0;
}
