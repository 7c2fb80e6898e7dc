/**
 * Moving what snapshots have, alone or together with the active disk. Something is copied once; then every entry that refers
 * to it is changed, table by table, and takes its share of the refcount along:
 *
 *   copy, refcount of the new place raised | entries | refcount of the old place lowered        (`|` is a barrier)
 *
 * Until all are changed the new place has one reference more than entries, so that no COPIED flag is due that is not set.
 * The tables of the active disk come first, for the same reason. Snapshots do not change meanwhile; the active disk only
 * lets go of what it shares. Changes wait while a batch of tables is under way.
 */
import { moveL2Entry, readL1Entry, tableLength, tableView } from '../../format/table-entry.js';
import { hostOffset, type HostOffset } from '../../format/units.js';
import type { Slice } from '../../metadata/table-cache.js';
import { native, RunKind, runStride } from '../../native.js';
import { L2TableSet } from '../check/l2-tables.js';
import type { CompactJob } from './job.js';
import { copyStreams, tooFarStreams, type MovedStream, type Stream } from './streams.js';
import { copyClusters } from './copy-clusters.js';
import { MovedPlaces } from './moved-places.js';
import { snapshotL1s } from '../snapshots/l1.js';

/** L2 tables looked at while changes wait. */
const tablesPerBatch = 16;

/** An L2 table to be looked through. */
interface Table {
  readonly offset: HostOffset;
  /** Whether it belongs to the active disk alone, so that what its entries with COPIED refer to is nobody else's. */
  readonly owned: boolean;
}

/** An entry that refers to something past the limit. */
interface Reference {
  readonly table: HostOffset;
  /** Index of the entry in the table. */
  readonly index: number;
  readonly compressed: boolean;
  /** What it refers to; a cluster is one whole stream. */
  readonly from: Stream;
}

/** One way through all tables. */
interface Sweep {
  readonly job: CompactJob;
  readonly moves: MovedPlaces;
  /** Whether more is to be moved; when not, what was moved is followed to the end. */
  open: boolean;
  failure: Error | undefined;
}

/** Moves what it can, in as many ways through the tables as it takes. */
export async function moveSharedData(job: CompactJob): Promise<void> {
  if (job.image.hasDataFile) return;
  for (let again = true; again;) {
    const sweep: Sweep = { job, moves: new MovedPlaces(), open: true, failure: undefined };
    await sweepTables(sweep);
    again = sweep.moves.isFull;
  }
}

async function sweepTables(sweep: Sweep): Promise<void> {
  const { job, moves } = sweep;
  const { mapping, committer } = job.image;
  for (let index = 0; index < mapping.l1Entries; index += tablesPerBatch) {
    await moveBatches(sweep, () => activeTables(job, index));
  }
  const { offsets } = await snapshotTables(job);
  for (let first = 0; first < offsets.length; first += tablesPerBatch) {
    const tables = Array.from(offsets.subarray(first, first + tablesPerBatch), (offset) => ({
      offset: hostOffset(offset),
      owned: false,
    }));
    await moveBatches(sweep, () => tables);
  }
  // With something left behind the references in excess stay, too: at worst they are leaks.
  if (sweep.failure !== undefined) throw sweep.failure;
  await job.quietly(async () => {
    moves.forEach((to, length) => committer.freeLater(hostOffset(to), length, false));
    await committer.settle();
  });
  job.throwIfAborted();
}

function activeTables({ image: { mapping } }: CompactJob, first: number): Table[] {
  const tables: Table[] = [];
  for (let index = first; index < Math.min(first + tablesPerBatch, mapping.l1Entries); index++) {
    const offset = mapping.tableAt(index);
    if (offset > 0) tables.push({ offset: hostOffset(offset), owned: mapping.ownsTable(index) });
  }
  return tables;
}

/** The L2 tables of all snapshots. */
async function snapshotTables({ image }: CompactJob): Promise<L2TableSet> {
  const tables = new L2TableSet();
  for await (const { bytes } of snapshotL1s(image)) {
    const view = tableView(bytes);
    for (let index = 0; index < tableLength(view); index++) {
      const offset = readL1Entry(view, index, image.geometry.clusterSize);
      if (offset > 0) tables.add(offset);
    }
  }
  return tables;
}

/** Moves what the tables refer to, a batch at a time. A failure stops what is new, but not what was begun. */
async function moveBatches(sweep: Sweep, tables: () => readonly Table[]): Promise<void> {
  const { job, moves } = sweep;
  for (let more = true; more;) {
    if (job.aborted || moves.isFull) sweep.open = false;
    if (!sweep.open && moves.size === 0) return;
    try {
      more = await job.quietly(() => moveBatch(sweep, tables()));
    } catch (error) {
      sweep.failure ??= error instanceof Error ? error : new Error(String(error));
      sweep.open = false;
      more = false;
    }
    await job.letOthersIn();
  }
}

/** Nothing else changes the image meanwhile. Returns whether there is more to be moved. */
async function moveBatch(sweep: Sweep, tables: readonly Table[]): Promise<boolean> {
  const { job, moves } = sweep;
  const references: Reference[] = [];
  for (const table of tables) references.push(...(await findReferences(job, table)));
  const more = sweep.open && (await moveTargets(sweep, references));
  const followed = references.filter(({ from }) => moves.get(from.host) !== undefined);
  if (followed.length === 0) return more;
  // Nobody may be reading where an entry pointed when it changes.
  const unlock = await job.guest.locks.exclusive(0, Infinity);
  try {
    for (const reference of followed) await follow(sweep, reference);
  } finally {
    unlock();
  }
  return more;
}

/** The entries of a table that refer to something past the limit and possibly shared. */
async function findReferences(job: CompactJob, { offset, owned }: Table): Promise<Reference[]> {
  const { cache } = job.image.mapping;
  const { clusterSize, l2EntrySize } = job.image.geometry;
  const found: Reference[] = [];
  for (let at = 0; at < clusterSize; at += cache.sliceSize) {
    await cache.use(hostOffset(offset + at), (slice) => {
      findInSlice(job, { offset, owned }, slice, at / l2EntrySize, found);
    });
  }
  return found;
}

function findInSlice(
  job: CompactJob,
  { offset: table, owned }: Table,
  { bytes }: Slice,
  base: number,
  found: Reference[],
): void {
  const { clusterBits, clusterSize, l2EntrySize } = job.image.geometry;
  const entries = bytes.length / l2EntrySize;
  const runs = new Float64Array(512 * runStride);
  const streams: Omit<Stream, 'own'>[] = [];
  let guest = 0;
  while (guest < entries * clusterSize) {
    const first = guest / clusterSize;
    const count = native.mapL2(bytes, job.image.mapping.l2Flags, clusterBits, first, entries - first, runs);
    for (let i = 0; i < count * runStride; i += runStride) {
      const [kind, length = 0, host = 0, aux = 0] = runs.subarray(i, i + runStride);
      const index = Math.floor(guest / clusterSize);
      if (kind === RunKind.compressed) streams.push({ guest: index, host: hostOffset(host), length: aux });
      else if (hasPlace(kind) && !(owned && aux === 1)) clustersOf(guest, length, host);
      guest += length;
    }
  }
  for (const from of tooFarStreams(job, streams)) {
    found.push({ table, index: base + from.guest, compressed: true, from });
  }

  function clustersOf(start: number, length: number, host: number): void {
    const inCluster = start % clusterSize;
    for (let at = start - inCluster; at < start + length; at += clusterSize) {
      const place = hostOffset(host - inCluster + (at - (start - inCluster)));
      const index = base + at / clusterSize;
      // With extended entries a cluster shows up as several runs.
      const last = found.at(-1);
      if (!job.isToMove(place) || (last?.table === table && last.index === index)) continue;
      const from = { guest: index, host: place, length: clusterSize, own: clusterSize };
      found.push({ table, index, compressed: false, from });
    }
  }
}

const hasPlace = (kind: number | undefined): boolean =>
  kind === RunKind.data || kind === RunKind.zeroAllocated || kind === RunKind.unallocatedInCluster;

/** Copies what references refer to and nobody has copied yet, up to a batch of it. Returns whether there is more. */
async function moveTargets(sweep: Sweep, references: readonly Reference[]): Promise<boolean> {
  const { job, moves } = sweep;
  const { committer } = job.image;
  const clusters: MovedStream[] = [];
  const streams: MovedStream[] = [];
  const known = new Set<number>();
  let bytes = 0;
  let more = false;
  try {
    for (const { from, compressed } of references) {
      if (moves.get(from.host) !== undefined || known.has(from.host)) continue;
      if (bytes > 0 && bytes + from.own > job.batchClusters * job.clusterSize) {
        more = true;
        break;
      }
      if (!compressed && !(await hasRoomForOneMore(job, from.host))) continue;
      const to = await placeFor(job, from, compressed);
      if (to === null) {
        sweep.open = false;
        break;
      }
      known.add(from.host);
      (compressed ? streams : clusters).push({ from, to });
      bytes += from.own;
    }
    await copyClusters(
      job.guest,
      Float64Array.from(clusters, ({ from }) => from.host),
      Float64Array.from(clusters, ({ to }) => to),
    );
    await copyStreams(job.guest, streams);
  } catch (error) {
    for (const { from, to } of [...clusters, ...streams]) committer.freeLater(to, from.own, false);
    throw error;
  }
  for (const { from, to } of [...clusters, ...streams]) moves.add(from.host, to, from.own);
  job.moved(bytes, 0);
  return more;
}

/** Whether all references to a cluster and one in excess can be counted. */
async function hasRoomForOneMore({ image, clusterSize }: CompactJob, host: HostOffset): Promise<boolean> {
  return (await image.refcounts.get(host / clusterSize)) < image.geometry.maxRefcount;
}

async function placeFor(job: CompactJob, from: Stream, compressed: boolean): Promise<HostOffset | null> {
  if (compressed) return job.guest.compressedSpace.takeBelow(job.limit, from.own);
  const run = await job.allocate(1);
  return run === null ? null : hostOffset(run.first * job.clusterSize);
}

/** Makes an entry refer to where its data is now. */
async function follow({ job, moves }: Sweep, reference: Reference): Promise<void> {
  const { table, index, compressed, from } = reference;
  const { mapping, refcounts, committer, geometry } = job.image;
  const to = moves.get(from.host);
  if (to === undefined) return;
  // Of a stream another table may tell better where it ends.
  const length = moves.lengthOf(from.host);
  // As many disks as have the table refer to what is in it.
  const times = await refcounts.get(table / geometry.clusterSize);
  if (!(await raise(job, to, length, times))) return;
  const position = index * geometry.l2EntrySize;
  const sliceStart = position - (position % mapping.cache.sliceSize);
  await mapping.cache.use(hostOffset(table + sliceStart), (slice) => {
    const at = position - sliceStart;
    if (compressed) {
      const inSlice = at / geometry.l2EntrySize;
      native.l2SetCompressed(slice.bytes, mapping.l2Flags, geometry.clusterBits, inSlice, to, length);
    } else {
      moveL2Entry(tableView(slice.bytes), at, to);
    }
    mapping.cache.markDirty(slice, at, at + geometry.l2EntrySize);
  });
  committer.freeLater(from.host, from.length, true, times);
  job.moved(0, 1);
}

/** Counts more references of a place, if they can be counted. */
async function raise(job: CompactJob, to: number, length: number, times: number): Promise<boolean> {
  const { refcounts, geometry } = job.image;
  const first = Math.floor(to / geometry.clusterSize);
  const count = Math.ceil((to + length) / geometry.clusterSize) - first;
  for (let i = 0; i < count; i++) {
    if ((await refcounts.get(first + i)) + times > geometry.maxRefcount) return false;
  }
  await refcounts.add(first, count, times);
  return true;
}
