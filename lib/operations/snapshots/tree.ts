/** What one L1 table refers to, directly and through its L2 tables, and changing the refcounts of all of it. */
import { Qcow2Error } from '../../errors.js';
import { tableEntrySize } from '../../format/geometry.js';
import { describeEntryProblem, readL1Entry, tableLength, tableView } from '../../format/table-entry.js';
import type { HostOffset } from '../../format/units.js';
import type { Image } from '../../metadata/image.js';
import {
  changedStride,
  clusterRunStride,
  native,
  problemStride,
  type ReferenceCounts,
} from '../../native.js';
import { wholeTables, writeChanged } from './changed-tables.js';
import { L2TableSet } from '../check/l2-tables.js';
import { CheckProgress, readClusters, type ClusterBatch } from '../check/reader.js';

/** Memory for counting, bytes. */
const memoryLimit = 1024 * 1024 * 1024;
/** Runs of clusters that are looked for at once. */
const maxRuns = 1024;

export interface SnapshotTree {
  /** Offsets of the L2 tables, ascending, each once. */
  readonly tables: Float64Array;
  /** How often each cluster of the file is referenced by the tree; the L1 table itself does not count. */
  readonly counts: ReferenceCounts;
  readonly clusters: number;
}

/** A refcount block. */
interface CountedBlock {
  /** The cluster that its first refcount is for. */
  readonly firstCluster: number;
  readonly offset: HostOffset;
}

/**
 * Follows an L1 table, all of whose tables are in the file as they are in memory.
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when something in it breaks the specification
 */
export async function countTree(
  image: Image,
  l1: Uint8Array,
  what: string,
  progress: CheckProgress,
): Promise<SnapshotTree> {
  const { geometry, storage, reserved } = image;
  const { clusterSize } = geometry;
  const clusters = Math.ceil((await storage.size()) / clusterSize);
  const counts = new native.ReferenceCounts(clusters, geometry.clusterBits, memoryLimit);
  const tables = new L2TableSet();
  const view = tableView(l1);
  for (let index = 0; index < tableLength(view); index++) {
    const offset = readL1Entry(view, index, clusterSize);
    if (offset === 0) continue;
    const problem =
      offset < 0
        ? describeEntryProblem(offset)
        : reserved.overlappedArea(offset, clusterSize) !== undefined
          ? 'points at other metadata'
          : counts.add(offset, clusterSize, 1)
            ? null
            : 'points past the end of the file';
    if (problem !== null) throw damaged(`Entry ${index} of ${what} ${problem}`);
    tables.add(offset);
  }
  const { offsets, times } = tables;
  const problems = new Float64Array(problemStride);
  const { l2Flags } = image.mapping;
  progress.expect(offsets.length * clusterSize);
  for await (const batch of readClusters(storage, offsets, clusterSize, progress)) {
    for (const failure of batch.failures.values()) throw failure;
    const part = times.slice(batch.first, batch.first + batch.offsets.length);
    const summary = await counts.addL2Tables(batch.bytes, l2Flags, part, problems);
    if (summary.problems > 0) {
      const table = batch.offsets[problems[0] ?? 0] ?? 0;
      throw damaged(
        `Entry ${problems[1] ?? 0} of the L2 table at ${table}, which ${what} refers to, is invalid`,
      );
    }
  }
  assertApart(image, counts, tables, what);
  return { tables: offsets, counts, clusters };
}

/** Refuses a tree that refers to metadata as data: counted down, that would be taken for free. */
function assertApart(
  { geometry, reserved, refcounts, mapping }: Image,
  counts: ReferenceCounts,
  tables: L2TableSet,
  what: string,
): void {
  const { clusterSize } = geometry;
  const refuse = (finding: string): never => {
    throw damaged(`${what} leads to an L2 entry that takes ${finding} for guest data`);
  };
  for (const [name, area] of reserved.areas()) {
    const end = Math.ceil(area.end / clusterSize);
    if (counts.nextUsed(Math.floor(area.start / clusterSize), end) < end) refuse(`the ${name}`);
  }
  for (const offset of refcounts.blocks()) {
    if (counts.get(offset / clusterSize) !== 0) refuse(`the refcount block at ${offset}`);
  }
  for (const list of [mapping.l2Tables(), tables.offsets]) {
    for (const offset of list) {
      if (counts.get(offset / clusterSize) !== tables.timesOf(offset)) refuse(`the L2 table at ${offset}`);
    }
  }
}

/**
 * Counts one more owner for all that a tree refers to, in the file. On failure nothing is counted. The committer has settled.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when a refcount would not fit into its bits
 */
export async function raiseRefcounts(
  image: Image,
  tree: SnapshotTree,
  progress: CheckProgress,
): Promise<void> {
  const { geometry, storage, refcounts } = image;
  const { clusterSize } = geometry;
  const blocks = blocksOf(image, tree);
  const offsets = Float64Array.from(blocks, ({ offset }) => offset);
  let done = 0;
  progress.expect(offsets.length * clusterSize);
  try {
    for await (const batch of readClusters(storage, offsets, clusterSize, progress)) {
      await raiseBatch(image, tree, batch, blocks);
      done = batch.first + batch.offsets.length;
    }
  } catch (error) {
    const raised = offsets.subarray(0, done);
    for await (const batch of readClusters(storage, raised, clusterSize, new CheckProgress({}))) {
      for (const failure of batch.failures.values()) throw failure;
      addToBatch(image, tree, batch, blocks, true);
      await writeChanged(storage, batch, wholeTables(batch, clusterSize), clusterSize);
    }
    throw error;
  } finally {
    refcounts.cache.forgetClean();
  }
}

/** The refcount blocks for the clusters that a tree refers to, in the order of the file. */
function blocksOf({ geometry, refcounts }: Image, { counts, clusters }: SnapshotTree): CountedBlock[] {
  const { refcountBlockEntries } = geometry;
  const blocks: CountedBlock[] = [];
  for (let at = counts.nextUsed(0, clusters); at < clusters;) {
    const firstCluster = at - (at % refcountBlockEntries);
    const offset = refcounts.blockOffset(at);
    if (offset === 0) throw refcounts.badCount(at, 1, 'it has no refcount block');
    blocks.push({ firstCluster, offset });
    at = counts.nextUsed(Math.min(clusters, firstCluster + refcountBlockEntries), clusters);
  }
  return blocks.sort((a, b) => a.offset - b.offset);
}

async function raiseBatch(
  image: Image,
  tree: SnapshotTree,
  batch: ClusterBatch,
  blocks: readonly CountedBlock[],
): Promise<void> {
  const { storage, geometry } = image;
  for (const failure of batch.failures.values()) throw failure;
  addToBatch(image, tree, batch, blocks, false);
  const changed = wholeTables(batch, geometry.clusterSize);
  try {
    await writeChanged(storage, batch, changed, geometry.clusterSize);
  } catch (error) {
    addToBatch(image, tree, batch, blocks, true);
    // What stays too high where this fails as well is leaked, no more; the first failure is the one to tell.
    await writeChanged(storage, batch, changed, geometry.clusterSize).catch(() => undefined);
    throw error;
  }
}

/** Changes the refcounts of the blocks of a batch in memory; all of them or, when it throws, none. */
function addToBatch(
  image: Image,
  { counts }: SnapshotTree,
  { bytes, offsets, first }: ClusterBatch,
  blocks: readonly CountedBlock[],
  subtract: boolean,
): void {
  const { clusterSize, refcountOrder } = image.geometry;
  const add = (index: number, down: boolean): number => {
    const block = bytes.subarray(index * clusterSize, (index + 1) * clusterSize);
    return counts.addToBlock(block, refcountOrder, blocks[first + index]?.firstCluster ?? 0, down);
  };
  for (let index = 0; index < offsets.length; index++) {
    const misfit = add(index, subtract);
    if (misfit < 0) continue;
    while (--index >= 0) add(index, !subtract);
    throw outOfRange(image, misfit, subtract);
  }
}

/**
 * Drops the tree, in the file: each cluster loses the references it has from it, of which nothing durable has any. What was not
 * done when it fails is leaked.
 */
export async function dropTree(image: Image, tree: SnapshotTree, progress: CheckProgress): Promise<void> {
  const { committer, geometry, storage, refcounts } = image;
  const { clusterSize } = geometry;
  // Late refcounts have to be in the file as well.
  await committer.settle();
  const blocks = blocksOf(image, tree);
  const offsets = Float64Array.from(blocks, ({ offset }) => offset);
  progress.expect(offsets.length * clusterSize);
  try {
    for await (const batch of readClusters(storage, offsets, clusterSize, progress)) {
      for (const failure of batch.failures.values()) throw failure;
      for (let index = 0; index < batch.offsets.length; index++) {
        const block = batch.bytes.subarray(index * clusterSize, (index + 1) * clusterSize);
        await giveUpLast(image, tree, block, blocks[batch.first + index]?.firstCluster ?? 0);
      }
      addToBatch(image, tree, batch, blocks, true);
      await writeChanged(storage, batch, wholeTables(batch, clusterSize), clusterSize);
    }
  } finally {
    refcounts.cache.forgetClean();
  }
}

/** Gives up the clusters of a refcount block that nothing but the tree refers to, while their refcounts keep others away. */
async function giveUpLast(
  { committer, geometry }: Image,
  { counts }: SnapshotTree,
  block: Uint8Array,
  firstCluster: number,
): Promise<void> {
  const { refcountOrder } = geometry;
  const runs = new Float64Array(maxRuns * clusterRunStride);
  for (let from = 0; ;) {
    const found = counts.lastReferences(block, refcountOrder, firstCluster, from, runs);
    for (let i = 0; i < found * clusterRunStride; i += clusterRunStride) {
      const [first = 0, count = 0] = runs.subarray(i, i + clusterRunStride);
      await committer.giveUp(first, count);
      from = first + count - firstCluster;
    }
    if (found < maxRuns) return;
  }
}

/** Clears COPIED in all L2 tables of a tree, in the file. Not durable before a barrier. */
export async function clearCopiedInTables(
  image: Image,
  { tables }: SnapshotTree,
  progress: CheckProgress,
): Promise<void> {
  const { geometry, storage, mapping } = image;
  const { clusterSize, l2EntrySize } = geometry;
  progress.expect(tables.length * clusterSize);
  for await (const batch of readClusters(storage, tables, clusterSize, progress)) {
    for (const failure of batch.failures.values()) throw failure;
    const changed = new Float64Array(batch.offsets.length * changedStride);
    native.clearCopied(batch.bytes, clusterSize, l2EntrySize, changed);
    await writeChanged(storage, batch, changed, clusterSize);
  }
  mapping.cache.forgetClean();
}

/** Clears COPIED in an L1 table. Returns the bytes of it that hold the entries that had it, or null when none had. */
export function clearCopiedInL1(table: Uint8Array): { start: number; end: number } | null {
  const changed = new Float64Array(changedStride);
  if (table.length > 0) native.clearCopied(table, table.length, tableEntrySize, changed);
  const [start = 0, end = 0] = changed;
  return start === end ? null : { start, end };
}

/** The L1 table without COPIED, as a snapshot holds it. */
export function sharedL1(l1: Uint8Array): Uint8Array {
  const copy = l1.slice();
  clearCopiedInL1(copy);
  return copy;
}

function outOfRange(image: Image, cluster: number, subtract: boolean): Qcow2Error {
  const { maxRefcount, refcountBits } = image.geometry;
  const error = image.refcounts.badCount(cluster, subtract ? -1 : 1, 'the count would leave its range');
  // With wide refcounts it takes more snapshots than the format has.
  if (subtract || maxRefcount > 65535) return error;
  return new Qcow2Error(
    'ERR_QCOW2_LIMIT',
    `A cluster would be shared more often than refcounts of ${refcountBits} bits can count (${maxRefcount}). ` +
      'Nothing was changed; delete snapshots, or use an image with wider refcounts',
    { feature: 'refcount_order', cause: error },
  );
}

const damaged = (finding: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CORRUPT', `${finding}. Nothing was changed; check and repair the image`, {
    feature: 'snapshots',
  });
