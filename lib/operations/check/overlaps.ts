/** Metadata that shares its clusters with anything else, whatever the refcounts say of it. */
import { hex } from '../../format/text.js';
import type { ReferenceCounts } from '../../native.js';
import type { CheckContext } from './context.js';

/** Notes metadata that is referenced more often than it should be, and reports it where the refcounts hide it. */
export function reportOverlaps(context: CheckContext, refcounts: ReferenceCounts): void {
  const { areas, counts, clusters, image, activeTables, snapshotTables } = context;
  const { clusterSize } = image.geometry;
  for (const { what, start, length } of areas) {
    const first = Math.floor(start / clusterSize);
    const end = Math.min(clusters, Math.ceil((start + length) / clusterSize));
    for (let cluster = first; cluster < end; cluster++) {
      if (counts.get(cluster) !== 1) report(context, what, cluster, 1, refcounts);
    }
  }
  for (const [tables, others] of [
    [activeTables, snapshotTables],
    [snapshotTables, activeTables],
  ] as const) {
    for (const [i, offset] of tables.offsets.entries()) {
      const inOthers = others.timesOf(offset);
      if (tables === snapshotTables && inOthers > 0) continue;
      const expected = (tables.times[i] ?? 0) + inOthers;
      const cluster = offset / clusterSize;
      if (counts.get(cluster) === expected) continue;
      report(context, `the L2 table at ${hex(offset)}`, cluster, expected, refcounts);
    }
  }
}

function report(
  { findings, counts, image, overlapped }: CheckContext,
  what: string,
  cluster: number,
  expected: number,
  refcounts: ReferenceCounts,
): void {
  const found = counts.get(cluster);
  overlapped.add(cluster);
  // A refcount that does not know of the other reference was reported already.
  if (refcounts.get(cluster) < found) return;
  const offset = cluster * image.geometry.clusterSize;
  findings.add({
    kind: 'overlap',
    severity: 'corruption',
    where: what,
    offset,
    expected,
    found,
    message: `The cluster at ${hex(offset)} holds ${what} and is used for something else, too`,
  });
}
