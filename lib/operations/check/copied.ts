/** COPIED flags of the active disk: each must say whether the refcount of what the entry refers to is exactly one. */
import { tableEntrySize } from '../../format/geometry.js';
import { isL1EntryCopied, tableLength, tableView } from '../../format/table-entry.js';
import { hex } from '../../format/text.js';
import { changedStride, copiedStride, type ReferenceCounts } from '../../native.js';
import type { CheckContext } from './context.js';
import { writeChanged } from '../snapshots/changed-tables.js';
import { maskedL1Offset } from './l1.js';
import { reportFailures } from './l2.js';
import { readClusters, type ClusterBatch } from './reader.js';
import { activeL1 } from './references.js';
import { pauses } from '../jobs/pauses.js';

/** COPIED in the first byte of a big-endian entry. */
const copiedBit = 0x80;
const maxMismatches = 1024;

/**
 * Reports the wrong flags; a table that several L1 entries share counts for each. Returns their number.
 * @param l2FlagsAreRight whether those of the L2 tables need no second look
 */
export async function reportCopied(
  context: CheckContext,
  refcounts: ReferenceCounts,
  l2FlagsAreRight: boolean,
): Promise<number> {
  const { findings, activeTables, progress } = context;
  let wrong = 0;
  const report = (place: () => string, right: boolean, times: number): void => {
    wrong += times;
    if (!findings.hasRoom) {
      findings.count('corruption', times);
      return;
    }
    const where = place();
    findings.add(
      {
        kind: 'copied-flag',
        severity: 'corruption',
        where,
        expected: right ? 'set' : 'clear',
        found: right ? 'clear' : 'set',
        message: right
          ? `The COPIED flag of ${where} is clear, though nothing shares its cluster`
          : `The COPIED flag of ${where} is set, but the refcount of its cluster is not 1: a write would not copy it first`,
      },
      times,
    );
  };
  const pause = pauses();
  for (const [index, right] of wrongL1Flags(context, refcounts)) {
    report(() => `entry ${index} of ${activeL1}`, right, 1);
    const turn = pause();
    if (turn === undefined) continue;
    await turn;
    progress.throwIfAborted();
  }
  if (l2FlagsAreRight) return wrong;
  await wrongL2Flags(context, refcounts, (offset, entries) => {
    for (const [index, right] of entries) {
      report(() => `entry ${index} of the L2 table at ${hex(offset)}`, right, activeTables.timesOf(offset));
    }
  });
  return wrong;
}

/**
 * Corrects wrong flags in the file, durably; entries of tables that overlap anything else are left.
 * @param which flags to set, or to clear
 * @param counts what the flags must agree with
 * @returns how many were corrected, counted as by {@link reportCopied}
 */
export async function correctCopied(
  context: CheckContext,
  which: 'set' | 'clear',
  counts = context.counts,
): Promise<number> {
  const { image, activeTables, progress } = context;
  const { mapping, storage, geometry } = image;
  const { clusterSize } = geometry;
  let corrected = correctL1Flags(context, which === 'set', counts);
  if (corrected > 0) await storage.write(mapping.l1Bytes, mapping.l1Offset);
  progress.expect(activeTables.offsets.length * clusterSize);
  for await (const batch of readClusters(storage, activeTables.offsets, clusterSize, progress)) {
    const times = timesOfUnshared(context, batch, counts);
    const changed = new Float64Array(times.length * changedStride);
    corrected += await counts.correctCopied(batch.bytes, mapping.l2Flags, times, which === 'set', changed);
    await writeChanged(storage, batch, changed, clusterSize);
  }
  if (corrected > 0) await image.committer.barrier();
  mapping.cache.forgetClean();
  return corrected;
}

/** How often the tables of a batch are referred to; 0 for those that something else refers to as well, or that are unreadable. */
function timesOfUnshared(
  { image, activeTables, snapshotTables, unreadable }: CheckContext,
  { offsets, failures, first }: ClusterBatch,
  counts: ReferenceCounts,
): Uint32Array {
  const { clusterSize } = image.geometry;
  return activeTables.times.slice(first, first + offsets.length).map((times, i) => {
    const offset = offsets[i] ?? 0;
    const references = times + snapshotTables.timesOf(offset);
    if (counts.get(offset / clusterSize) !== references) return 0;
    return failures.has(i) || unreadable.has(offset) ? 0 : times;
  });
}

function correctL1Flags(context: CheckContext, toSet: boolean, counts: ReferenceCounts): number {
  const view = tableView(context.image.mapping.l1Bytes);
  let corrected = 0;
  for (const [index, right] of wrongL1Flags(context, counts)) {
    if (right !== toSet) continue;
    const at = index * tableEntrySize;
    view.setUint8(at, view.getUint8(at) ^ copiedBit);
    corrected++;
  }
  return corrected;
}

function* wrongL1Flags(
  { image }: CheckContext,
  refcounts: ReferenceCounts,
): Generator<readonly [index: number, right: boolean]> {
  const { clusterSize } = image.geometry;
  const view = tableView(image.mapping.l1Bytes);
  for (let index = 0; index < tableLength(view); index++) {
    const copied = isL1EntryCopied(view, index);
    const offset = maskedL1Offset(view, index);
    if (offset === 0 ? !copied : offset % clusterSize !== 0) continue;
    const right = offset !== 0 && refcounts.get(offset / clusterSize) === 1;
    if (right !== copied) yield [index, right];
  }
}

type WrongEntries = (readonly [index: number, right: boolean])[];

/** Calls `visit` with each active L2 table that has wrong flags. */
async function wrongL2Flags(
  context: CheckContext,
  refcounts: ReferenceCounts,
  visit: (offset: number, entries: WrongEntries) => void,
): Promise<void> {
  const { image, activeTables, progress, unreadable } = context;
  const { clusterSize } = image.geometry;
  const out = new Float64Array(maxMismatches * copiedStride);
  progress.expect(activeTables.offsets.length * clusterSize);
  for await (const batch of readClusters(image.storage, activeTables.offsets, clusterSize, progress)) {
    reportFailures(context, batch);
    for (const [i, offset] of batch.offsets.entries()) {
      if (unreadable.has(offset)) continue;
      const table = batch.bytes.subarray(i * clusterSize, (i + 1) * clusterSize);
      const entries = wrongEntries(table, image.mapping.l2Flags, refcounts, out);
      if (entries.length > 0) visit(offset, entries);
    }
  }
}

function wrongEntries(
  table: Uint8Array,
  flags: number,
  refcounts: ReferenceCounts,
  out: Float64Array,
): WrongEntries {
  const entries: WrongEntries = [];
  for (let from = 0; ;) {
    const found = refcounts.copiedMismatches(table, flags, from, out);
    for (let i = 0; i < found * copiedStride; i += copiedStride) {
      entries.push([out[i] ?? 0, out[i + 1] === 1]);
      from = (out[i] ?? 0) + 1;
    }
    if (found < maxMismatches) return entries;
  }
}
