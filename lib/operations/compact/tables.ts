/**
 * Moving L2 tables and refcount blocks, and dropping what is not needed of the refcount structure. Changes wait meanwhile.
 *
 *   copied L2 tables, their refcounts | L1 tables | old tables free        (`|` is a barrier)
 */
import { readL1Entry, tableLength, tableView, writeL1Entry } from '../../format/table-entry.js';
import { tableEntrySize } from '../../format/geometry.js';
import { alignUp, hostOffset, type HostOffset } from '../../format/units.js';
import type { Image } from '../../metadata/image.js';
import { L2TableSet } from '../check/l2-tables.js';
import type { CompactJob } from './job.js';
import { snapshotL1s } from '../snapshots/l1.js';

/** A table on its way. */
interface Move {
  readonly from: HostOffset;
  readonly to: HostOffset;
  /** L1 entries that refer to it. */
  readonly times: number;
}

/** Moves L2 tables, those of snapshots too, until there is no room. */
export async function moveL2Tables(job: CompactJob): Promise<void> {
  for (let more = true; more;) {
    job.throwIfAborted();
    more = await job.quietly(() => moveSomeTables(job));
    await job.letOthersIn();
  }
}

/** Returns whether there may be more to be moved. */
async function moveSomeTables(job: CompactJob): Promise<boolean> {
  const { image, clusterSize } = job;
  const wanted = (await tablesBeyond(job)).slice(0, job.batchClusters);
  const moves: Move[] = [];
  for (const from of wanted) {
    const run = await job.allocate(1);
    if (run === null) break;
    const to = hostOffset(run.first * clusterSize);
    const times = await image.refcounts.get(from / clusterSize);
    moves.push({ from, to, times });
    const table = new Uint8Array(clusterSize);
    await image.mapping.readTable(from, table);
    image.mapping.cache.insertTable(to, table);
    image.reserved.addTable(to);
    if (times > 1) await image.refcounts.add(run.first, 1, times - 1);
  }
  if (moves.length === 0) return false;
  await image.committer.settle();
  await repointAll(job, new Map(moves.map((move) => [move.from, move.to])));
  for (const { from, times } of moves) {
    image.mapping.cache.forgetTable(from, clusterSize);
    image.committer.freeLater(from, clusterSize, true, times);
  }
  await image.committer.settle();
  return moves.length === wanted.length && wanted.length === job.batchClusters;
}

/** L2 tables past the limit, ascending. */
async function tablesBeyond(job: CompactJob): Promise<HostOffset[]> {
  const { image } = job;
  const tables = new L2TableSet();
  const add = (offset: number): void => {
    if (offset > 0 && job.isToMove(offset)) tables.add(offset);
  };
  for (const offset of image.mapping.l2Tables()) add(offset);
  for await (const { bytes } of snapshotL1s(image)) {
    const view = tableView(bytes);
    for (let i = 0; i < tableLength(view); i++) add(readL1Entry(view, i, image.geometry.clusterSize));
  }
  return Array.from(tables.offsets, hostOffset);
}

/** Makes every L1 table refer to where its tables are now, durably but for the active one, which the next commit writes. */
async function repointAll(job: CompactJob, places: ReadonlyMap<number, HostOffset>): Promise<void> {
  const { image, guest } = job;
  const { mapping, geometry, storage, committer } = image;
  let isWritten = false;
  for await (const { offset, bytes } of snapshotL1s(image)) {
    const view = tableView(bytes);
    const changed: number[] = [];
    for (let i = 0; i < tableLength(view); i++) {
      const to = places.get(readL1Entry(view, i, geometry.clusterSize));
      if (to === undefined) continue;
      writeL1Entry(view, i, to, false);
      changed.push(i);
    }
    const [first] = changed;
    const last = changed.at(-1);
    if (first === undefined || last === undefined) continue;
    const start = first * tableEntrySize;
    await storage.write(bytes.subarray(start, (last + 1) * tableEntrySize), offset + start);
    job.moved(0, changed.length);
    isWritten = true;
  }
  if (isWritten) await committer.barrier();
  // Nobody may be reading through a table that is about to be freed.
  const unlock = await guest.locks.exclusive(0, Infinity);
  try {
    for (let i = 0; i < mapping.l1Entries; i++) {
      const from = mapping.tableAt(i);
      const to = places.get(from);
      if (to === undefined) continue;
      mapping.repointTable(i, to);
      job.moved(geometry.clusterSize, 1);
    }
  } finally {
    unlock();
  }
}

/** Moves refcount blocks until there is no room. */
export async function moveRefcountBlocks(job: CompactJob): Promise<void> {
  await job.quietly(async () => {
    const { image, clusterSize } = job;
    for (const from of [...image.refcounts.blocks()]) {
      if (!job.isToMove(from)) continue;
      const run = await job.allocate(1);
      if (run === null) break;
      await image.refcounts.moveBlock(from, run.first);
      image.reserved.addTable(hostOffset(run.first * clusterSize));
      image.committer.freeLater(from, clusterSize, true);
      job.moved(clusterSize, 1);
      await image.committer.settle();
    }
  });
}

/** Drops the last refcount blocks, as long as nothing they count is in use but perhaps themselves. */
export async function dropLastBlocks({ refcounts, committer, geometry, reserved }: Image): Promise<void> {
  const { clusterSize, refcountBlockEntries } = geometry;
  for (let first = refcounts.capacity - refcountBlockEntries; first > 0; first -= refcountBlockEntries) {
    const block = refcounts.blockOffset(first);
    if (block === 0) continue;
    const end = first + refcountBlockEntries;
    const countsItself = block >= first * clusterSize && block < end * clusterSize;
    if ((await refcounts.countUsed(first, end)) > (countsItself ? 1 : 0)) break;
    refcounts.removeBlock(first / refcountBlockEntries);
    if (countsItself) reserved.removeTables(block, clusterSize);
    else committer.freeLater(block, clusterSize, true);
  }
  await committer.settle();
}

/** Cuts off the clusters of the refcount table that describe nothing. Order: header | the clusters are free. */
export async function shrinkRefcountTable(image: Image): Promise<void> {
  const { refcounts, committer, geometry, reserved } = image;
  const { clusterSize } = geometry;
  const table = refcounts.tableBytes;
  const used = table.findLastIndex((byte) => byte !== 0) + 1;
  const length = Math.max(clusterSize, alignUp(used, clusterSize));
  if (length >= table.length) return;
  const { tableOffset } = refcounts;
  await committer.exclusive(async () => {
    await image.patchHeader({ refcountTableClusters: length / clusterSize });
    await committer.barrier();
  });
  refcounts.replaceTable(table.slice(0, length), tableOffset);
  reserved.setArea('refcount table', tableOffset, length);
  committer.freeLater(hostOffset(tableOffset + length), table.length - length, true);
  await committer.settle();
}
