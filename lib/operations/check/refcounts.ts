/** Holding the refcounts that an image stores against the references that were counted. */
import { tableView } from '../../format/table-entry.js';
import { hex } from '../../format/text.js';
import { mismatchStride, native, type ReferenceCounts } from '../../native.js';
import type { CheckContext } from './context.js';
import { readClusters } from './reader.js';
import { blockPlace } from './refcount-table.js';

/** Contiguous clusters whose stored refcount and counted references are alike. */
export interface RefcountRun {
  readonly first: number;
  readonly count: number;
  readonly stored: number;
  readonly counted: number;
}

const maxRuns = 1024;

/**
 * Calls `visit` for all runs of clusters inside the file whose stored refcount is not what `counts` says.
 * @param unreadable called for each refcount block whose refcounts cannot be known
 * @returns one past the last cluster whose refcount is not 0
 */
export async function compareRefcounts(
  context: CheckContext,
  counts: ReferenceCounts,
  visit: (run: RefcountRun) => void | Promise<void>,
  unreadable: (block: number, clusters: number, error?: unknown) => void = () => undefined,
): Promise<number> {
  const { image, clusters } = context;
  const { refcountBlockEntries, refcountOrder, clusterSize } = image.geometry;
  const { present, missing, unaligned } = placedBlocks(context);
  const out = new Float64Array(maxRuns * mismatchStride);
  const zeros = new Uint8Array(clusterSize);
  const covered = (index: number): number => coveredBy(context, index);
  for (const index of unaligned) unreadable(index, covered(index));
  for (const index of missing) {
    const first = index * refcountBlockEntries;
    const end = first + covered(index);
    // A part of a sparse file that nothing refers to needs no block.
    if (counts.nextUsed(first, end) === end) continue;
    await compareBlock(counts, zeros, refcountOrder, first, clusters, out, visit);
  }
  let end = 0;
  for await (const { index, block } of readBlocks(context, present)) {
    if (!(block instanceof Uint8Array)) {
      unreadable(index, covered(index), block.failure);
      continue;
    }
    const first = index * refcountBlockEntries;
    await compareBlock(counts, block, refcountOrder, first, clusters, out, visit);
    if (first + covered(index) > end)
      end = Math.max(end, first + usedEnd(block, refcountOrder, covered(index)));
  }
  return end;
}

/** How many clusters of the file a refcount block counts. */
function coveredBy({ image, clusters }: CheckContext, index: number): number {
  const { refcountBlockEntries } = image.geometry;
  return Math.min(refcountBlockEntries, clusters - index * refcountBlockEntries);
}

/** A refcount block by its number, and where it is. */
interface PlacedBlock {
  readonly index: number;
  readonly offset: number;
}

/** The refcount blocks for the clusters of the file: those that can be read, and the numbers of the others. */
function placedBlocks(context: CheckContext): {
  present: PlacedBlock[];
  missing: number[];
  unaligned: number[];
} {
  const { image, clusters } = context;
  const table = tableView(image.refcounts.tableBytes);
  const present: PlacedBlock[] = [];
  const missing: number[] = [];
  const unaligned: number[] = [];
  for (let index = 0; index * image.geometry.refcountBlockEntries < clusters; index++) {
    const offset = blockPlace(context, table, index);
    if (offset === 'unaligned') unaligned.push(index);
    else if (offset === 0) missing.push(index);
    else present.push({ index, offset });
  }
  return { present, missing, unaligned };
}

/** Reads refcount blocks in the order of the file; what cannot be read comes as the reason why. */
async function* readBlocks(
  { image, progress }: CheckContext,
  blocks: readonly PlacedBlock[],
): AsyncGenerator<{ index: number; block: Uint8Array | { failure: unknown } }> {
  const { clusterSize } = image.geometry;
  const sorted = [...blocks].sort((a, b) => a.offset - b.offset);
  progress.expect(sorted.length * clusterSize);
  const offsets = Float64Array.from(sorted, ({ offset }) => offset);
  for await (const batch of readClusters(image.storage, offsets, clusterSize, progress)) {
    for (let i = 0; i < batch.offsets.length; i++) {
      const index = sorted[batch.first + i]?.index ?? 0;
      const block = batch.bytes.subarray(i * clusterSize, (i + 1) * clusterSize);
      yield { index, block: batch.failures.has(i) ? { failure: batch.failures.get(i) } : block };
    }
  }
}

async function compareBlock(
  counts: ReferenceCounts,
  block: Uint8Array,
  order: number,
  firstCluster: number,
  clusters: number,
  out: Float64Array,
  visit: (run: RefcountRun) => void | Promise<void>,
): Promise<void> {
  for (let from = 0; ;) {
    const found = counts.compareBlock(block, order, firstCluster, from, out);
    for (let at = 0; at < found * mismatchStride; at += mismatchStride) {
      const [first = 0, count = 0, stored = 0, counted = 0] = out.subarray(at, at + mismatchStride);
      from = first + count - firstCluster;
      // Refcounts of clusters past the end of the file are nobody's concern until it grows.
      if (first >= clusters) return;
      const pending = visit({ first, count: Math.min(count, clusters - first), stored, counted });
      if (pending !== undefined) await pending;
    }
    if (found < maxRuns) return;
  }
}

/** One past the last refcount of a block that is not 0, among its first `entries`. */
function usedEnd(block: Uint8Array, order: number, entries: number): number {
  const bits = 2 ** order;
  let byte = Math.ceil((entries * bits) / 8) - 1;
  while (byte >= 0 && block[byte] === 0) byte--;
  if (byte < 0) return 0;
  let last = Math.min(entries, Math.ceil(((byte + 1) * 8) / bits)) - 1;
  while (last >= 0 && native.refcountGet(block, order, last) === 0) last--;
  return last + 1;
}

/** What a comparison of all refcounts came to. */
export interface RefcountSummary {
  /** Clusters whose refcount is too low, and too high. */
  low: number;
  high: number;
  /** Blocks whose refcounts cannot be known. */
  unreadable: number;
  /** Whether a cluster in use has no refcount block at all. */
  blocksMissing: boolean;
  /** One past the last cluster that has a refcount or is referenced. */
  end: number;
}

/** Compares all refcounts and reports what differs. */
export async function reportRefcounts(context: CheckContext): Promise<RefcountSummary> {
  const { findings, image } = context;
  const { clusterSize, refcountBlockEntries, maxRefcount } = image.geometry;
  const table = tableView(image.refcounts.tableBytes);
  const summary: RefcountSummary = { low: 0, high: 0, unreadable: 0, blocksMissing: false, end: 0 };
  const report = ({ first, count, stored, counted }: RefcountRun): void => {
    const isLow = stored < counted;
    if (isLow) summary.low += count;
    else summary.high += count;
    if (counted > maxRefcount) noteUncountable(context, first, count);
    summary.blocksMissing ||= blockPlace(context, table, Math.floor(first / refcountBlockEntries)) === 0;
    const severity = isLow ? 'corruption' : 'leak';
    let reported = 0;
    for (; reported < count && findings.hasRoom; reported++) {
      const cluster = first + reported;
      findings.add({
        kind: isLow ? 'refcount-too-low' : 'refcount-too-high',
        severity,
        where: `host cluster ${cluster}`,
        offset: cluster * clusterSize,
        expected: counted,
        found: stored,
        message: `The cluster at ${hex(cluster * clusterSize)} has the refcount ${stored}, but ${counted} references`,
      });
    }
    findings.count(severity, count - reported);
  };
  const unreadable = (block: number, clusters: number, error?: unknown): void => {
    summary.unreadable++;
    reportUnreadable(context, block, clusters, error);
  };
  const end = await compareRefcounts(context, context.counts, report, unreadable);
  summary.end = Math.max(end, context.counts.usedEnd());
  return summary;
}

function reportUnreadable(context: CheckContext, block: number, clusters: number, error?: unknown): void {
  context.refcountDamage++;
  context.unreadableBlocks.add(block);
  const why = error instanceof Error ? error.message : 'it is not where a block can be';
  context.findings.add(
    {
      kind: error === undefined ? 'table-unreadable' : 'io-error',
      severity: 'error',
      repair: 'risky',
      where: `refcount block ${block}`,
      message: `Refcount block ${block} cannot be read (${why}): the refcounts of ${clusters} clusters are unknown`,
    },
    clusters,
  );
}

/** More than these have to wait for another repair. */
const maxUncountable = 100_000;

function noteUncountable({ uncountable }: CheckContext, first: number, count: number): void {
  for (let cluster = first; cluster < first + count && uncountable.size < maxUncountable; cluster++) {
    uncountable.add(cluster);
  }
}

/** The stored refcounts as counts of their own. A block that cannot be read counts nothing, and is reported once. */
export async function storedRefcounts(context: CheckContext): Promise<ReferenceCounts> {
  const { refcountBlockEntries, refcountOrder } = context.image.geometry;
  const stored = context.newCounts();
  for await (const { index, block } of readBlocks(context, placedBlocks(context).present)) {
    if (block instanceof Uint8Array) stored.countBlock(block, refcountOrder, index * refcountBlockEntries);
    else if (!context.unreadableBlocks.has(index))
      reportUnreadable(context, index, coveredBy(context, index), block.failure);
  }
  return stored;
}
