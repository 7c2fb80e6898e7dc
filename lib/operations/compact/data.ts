/**
 * Moving the clusters that belong to the active disk alone, a few megabytes at a time, while requests go on: the lock on
 * the guest range of a batch keeps others away from it until its entries point to the new place. A write to a cluster that
 * is being moved waits that long. The order on the medium is that of every write: data, refcounts | entries | old clusters
 * free.
 */
import { moveL2Entry, tableView } from '../../format/table-entry.js';
import { alignDown, guestOffset, hostOffset, type GuestOffset } from '../../format/units.js';
import { native, RunKind } from '../../native.js';
import type { CompactJob } from './job.js';
import { moveStreams, tooFarStreams, type Stream } from './streams.js';
import { copyClusters } from './copy-clusters.js';

/** What is to be moved of a guest range. */
interface Candidates {
  /** Guest cluster numbers, ascending, and where each is, bytes. */
  readonly guest: number[];
  readonly host: number[];
  /** Those whose host cluster holds nothing that is ever read. */
  readonly blank: Set<number>;
  readonly streams: Stream[];
}

/** What came of {@link moveOwnData}. */
export interface OwnDataResult {
  /** Whether there is something past the limit that others may refer to as well. */
  readonly foreign: boolean;
}

/** Moves what it can. It stops when nothing below the limit is free any more. */
export async function moveOwnData(job: CompactJob): Promise<OwnDataResult> {
  const { image } = job;
  const result = { foreign: false };
  if (image.hasDataFile) return result;
  const end = image.mapping.l1Entries * image.geometry.l2Coverage;
  for (let at = image.mapping.nextTable(guestOffset(0), end); at < end;) {
    const stop = image.mapping.sliceEnd(at);
    const found = await findCandidates(job, at, stop, Infinity, result);
    const clusters = [...found.guest, ...found.streams.map(({ guest }) => guest)].sort((a, b) => a - b);
    for (let first = 0; first < clusters.length; first += job.batchClusters) {
      const batch = clusters.slice(first, first + job.batchClusters);
      if (!(await moveBatch(job, batch))) return result;
      await job.between();
    }
    if (clusters.length === 0) job.throwIfAborted();
    at = image.mapping.nextTable(stop, end);
  }
  return result;
}

/** Moves what is to be moved between the first and the last of some guest clusters. False when there is no room. */
async function moveBatch(job: CompactJob, clusters: readonly number[]): Promise<boolean> {
  const { guest, clusterSize } = job;
  const from = (clusters[0] ?? 0) * clusterSize;
  const to = ((clusters.at(-1) ?? -1) + 1) * clusterSize;
  const unlock = await guest.locks.exclusive(from, to);
  try {
    const found = await findCandidates(job, guestOffset(from), to, clusters.length, null);
    return (await moveClusters(job, found)) && (await moveStreams(job, found.streams));
  } finally {
    unlock();
  }
}

/** What is to be moved of guest bytes [start, end), which one L2 table describes, up to `max` clusters. */
async function findCandidates(
  job: CompactJob,
  start: GuestOffset,
  end: number,
  max: number,
  result: { foreign: boolean } | null,
): Promise<Candidates> {
  const { image, clusterSize } = job;
  const { extendedL2, l2Coverage } = image.geometry;
  const found: Candidates = { guest: [], host: [], blank: new Set(), streams: [] };
  const owned = image.mapping.ownsTable(Math.floor(start / l2Coverage));
  const streams: Omit<Stream, 'own'>[] = [];
  await image.mapping.visit(start, end, true, (kind, at, length, host, aux) => {
    if (kind === RunKind.compressed) {
      streams.push({ guest: Math.floor(at / clusterSize), host, length: aux });
      return;
    }
    if (kind !== RunKind.data && kind !== RunKind.zeroAllocated && kind !== RunKind.unallocatedInCluster)
      return;
    const guestStart = alignDown(at, clusterSize);
    const shift = host - at;
    for (let cluster = guestStart; cluster < at + length; cluster += clusterSize) {
      if (!job.isToMove(cluster + shift)) continue;
      const number = cluster / clusterSize;
      if (!owned || aux === 0) {
        if (result !== null) result.foreign = true;
      } else if (found.guest.at(-1) !== number && found.guest.length < max) {
        found.guest.push(number);
        found.host.push(cluster + shift);
        if (kind === RunKind.zeroAllocated && !extendedL2) found.blank.add(number);
      }
    }
  });
  const tooFar = job.movesStreams ? tooFarStreams(job, streams) : [];
  // Without snapshots nothing shares compressed data.
  if (owned && image.header.nbSnapshots === 0) found.streams.push(...tooFar.slice(0, max));
  else if (result !== null && tooFar.length > 0) result.foreign = true;
  return found;
}

/** The caller holds the lock on the guest range. False when not all found room. */
async function moveClusters(job: CompactJob, { guest, host, blank }: Candidates): Promise<boolean> {
  const { image, clusterSize } = job;
  const { committer } = image;
  const to: number[] = [];
  try {
    while (to.length < guest.length) {
      const run = await job.allocate(guest.length - to.length);
      if (run === null) break;
      for (let i = 0; i < run.count; i++) to.push((run.first + i) * clusterSize);
    }
    const stored = to.map((_, i) => i).filter((i) => !blank.has(guest[i] ?? -1));
    await copyClusters(
      job.guest,
      Float64Array.from(stored, (i) => host[i] ?? 0),
      Float64Array.from(stored, (i) => to[i] ?? 0),
    );
  } catch (error) {
    for (const place of to) committer.freeLater(hostOffset(place), clusterSize, false);
    throw error;
  }
  await repoint(job, guest, to);
  to.forEach((_, i) => committer.freeLater(hostOffset(host[i] ?? 0), clusterSize, true));
  job.moved(to.length * clusterSize, to.length);
  return to.length === guest.length;
}

/** Points the entries of guest clusters, ascending, at their new places: as many as there are places. */
async function repoint(job: CompactJob, guest: readonly number[], to: readonly number[]): Promise<void> {
  const { mapping, allocator, committer, geometry } = job.image;
  const { clusterSize, l2EntrySize } = geometry;
  const start = guest[0];
  const last = guest[to.length - 1];
  if (start === undefined || last === undefined) return;
  let next = 0;
  await mapping.modify(
    guestOffset(start * clusterSize),
    (last - start + 1) * clusterSize,
    allocator,
    committer,
    (table, from, length, at) => {
      const view = tableView(table);
      for (; next < to.length; next++) {
        const inTable = (guest[next] ?? 0) * clusterSize - at;
        if (inTable >= length) return;
        moveL2Entry(view, ((from + inTable) / clusterSize) * l2EntrySize, to[next] ?? 0);
      }
    },
  );
}

/** Drops L2 tables of the active disk that hold nothing. */
export async function dropEmptyTables(job: CompactJob): Promise<void> {
  const { image, guest } = job;
  const { l2Coverage, clusterSize } = image.geometry;
  const table = new Uint8Array(clusterSize);
  for (let index = 0; index < image.mapping.l1Entries; index++) {
    if (!image.mapping.ownsTable(index)) continue;
    const unlock = await guest.locks.exclusive(index * l2Coverage, (index + 1) * l2Coverage);
    try {
      const offset = image.mapping.tableAt(index);
      if (!image.mapping.ownsTable(index)) continue;
      await image.mapping.readTable(hostOffset(offset), table);
      if (native.isZero(table)) {
        image.mapping.dropTables(index, index + 1, image.committer);
        job.updated++;
      }
    } finally {
      unlock();
    }
    if (index % 64 === 63) await job.between();
  }
}
