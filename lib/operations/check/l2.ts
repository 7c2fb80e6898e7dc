/** Counting the references of all L2 tables, each read once whatever number of L1 entries share it. */
import { hex } from '../../format/text.js';
import { InvalidEntry, problemStride } from '../../native.js';
import { describeInvalidEntry } from '../../metadata/run.js';
import type { CheckContext } from './context.js';
import { readClusters, type ClusterBatch } from './reader.js';
import type { FindingKind } from './report.js';

/** Clusters of the active disk. */
export interface DiskStatistics {
  allocated: number;
  compressed: number;
  fragmented: number;
  /** Entries whose COPIED flag is wrong if no cluster is shared. */
  wrongIfUnshared: number;
}

const kinds: Partial<Record<InvalidEntry, FindingKind>> = {
  [InvalidEntry.reservedBits]: 'entry-reserved-bits',
  [InvalidEntry.unalignedOffset]: 'entry-unaligned',
  [InvalidEntry.pastEnd]: 'entry-out-of-file',
};

/** Counts the tables gathered in the context and what they refer to. */
export async function countL2Tables(context: CheckContext): Promise<DiskStatistics> {
  const { activeTables, snapshotTables } = context;
  const inActive = activeTables.offsets;
  const active: DiskStatistics = { allocated: 0, compressed: 0, fragmented: 0, wrongIfUnshared: 0 };
  await countTables(
    context,
    inActive,
    inActive.map((offset, i) => (activeTables.times[i] ?? 0) + snapshotTables.timesOf(offset)),
    active,
  );
  const others = snapshotTables.offsets.filter((offset) => activeTables.timesOf(offset) === 0);
  const times = others.map((offset) => snapshotTables.timesOf(offset));
  await countTables(context, others, times, null);
  return active;
}

async function countTables(
  context: CheckContext,
  offsets: Float64Array,
  times: Float64Array,
  statistics: DiskStatistics | null,
): Promise<void> {
  const { counts, image, progress } = context;
  const { clusterSize, l2EntrySize } = image.geometry;
  offsets.forEach((offset, i) => void counts.add(offset, clusterSize, times[i] ?? 0));
  const entriesPerTable = clusterSize / l2EntrySize;
  let problems = new Float64Array(0);
  for await (const batch of readClusters(image.storage, offsets, clusterSize, progress)) {
    const tables = batch.offsets.length;
    if (problems.length < tables * entriesPerTable * problemStride) {
      problems = new Float64Array(tables * entriesPerTable * problemStride);
    }
    const batchTimes = Uint32Array.from({ length: tables }, (_, i) =>
      batch.failures.has(i) ? 0 : (times[batch.first + i] ?? 0),
    );
    const summary = await counts.addL2Tables(batch.bytes, image.mapping.l2Flags, batchTimes, problems);
    reportFailures(context, batch);
    reportProblems(context, batch, batchTimes, problems.subarray(0, summary.problems * problemStride), {
      isActive: statistics !== null,
    });
    if (statistics === null) continue;
    // A compressed cluster is never next to its predecessor: it begins inside a host cluster.
    statistics.allocated += summary.allocated + summary.compressed;
    statistics.compressed += summary.compressed;
    statistics.fragmented += summary.fragmented + summary.compressed;
    statistics.wrongIfUnshared += summary.wrongIfUnshared;
  }
}

/** Reports the tables that could not be read, each once. */
export function reportFailures(context: CheckContext, { offsets, failures }: ClusterBatch): void {
  for (const [index, error] of failures) {
    const offset = offsets[index] ?? 0;
    if (context.unreadable.has(offset)) continue;
    context.unreadable.add(offset);
    context.unknown('table-unreadable', `the L2 table at ${hex(offset)}`, error, offset);
  }
}

function reportProblems(
  { findings }: CheckContext,
  { offsets }: ClusterBatch,
  times: Uint32Array,
  problems: Float64Array,
  { isActive }: { isActive: boolean },
): void {
  for (let at = 0; at < problems.length; at += problemStride) {
    const [table = 0, entry = 0, code = 0, host = 0] = problems.subarray(at, at + problemStride);
    const reason = code as InvalidEntry;
    // On the active disk this is one of the wrong COPIED flags, which are looked for later.
    if (isActive && reason === InvalidEntry.copiedWithoutHost) continue;
    if (!findings.hasRoom) {
      findings.count('corruption', times[table] ?? 0);
      continue;
    }
    const where = `entry ${entry} of the L2 table at ${hex(offsets[table] ?? 0)}`;
    findings.add(
      {
        kind: kinds[reason] ?? 'invalid-entry',
        severity: 'corruption',
        where,
        offset: host,
        message: `E${where.slice(1)} ${describeInvalidEntry(reason)} (host offset ${hex(host)})`,
      },
      times[table] ?? 0,
    );
  }
}
