/** Making guest ranges read as zeros, by changing entries where whole (sub)clusters are concerned. */
import { hasFeature } from '../format/features.js';
import { alignDown, alignUp, guestOffset, type GuestOffset } from '../format/units.js';
import type { Run } from '../metadata/run.js';
import { L2Flag, native, RunKind } from '../native.js';
import { writeZeros as writeStorageZeros } from '../storage/storage.js';
import type { GuestImage } from './guest-image.js';
import { releaseRuns } from './release.js';
import { assertInside, checkRuns, writeLocked } from './write.js';

const zeroBlock = new Uint8Array(64 * 1024);

export interface ZeroOptions {
  /** Gives the space back to the file system, too. */
  punch: boolean;
  /**
   * Keeps the host clusters that belong to the range alone, where the format can say that one reads as zeros: what is
   * written there later goes to the same place.
   */
  keepAllocated?: boolean;
  /** Forgets whole clusters even where a backing disk shows through then: for what lies past the end of the disk. */
  forget?: boolean;
}

/** Makes guest bytes [start, end) zeros. The caller holds no lock. */
export async function zeroGuest(
  guest: GuestImage,
  start: number,
  end: number,
  options: ZeroOptions,
): Promise<void> {
  const { geometry, mapping, committer } = guest.image;
  // Without a backing disk there is nothing to do where there is no L2 table.
  const skipsEmpty = guest.backing === null && !hasFeature(guest.image.header, 'rawExternal');
  let at = start;
  while (at < end) {
    if (skipsEmpty) at = mapping.nextTable(guestOffset(at), end);
    if (at >= end) return;
    await committer.relieve();
    const stop = Math.min(end, mapping.sliceEnd(guestOffset(at)));
    const unlock = await guest.locks.exclusive(
      alignDown(at, geometry.clusterSize),
      alignUp(stop, geometry.clusterSize),
    );
    try {
      assertInside(guest, at, stop - at);
      await zeroLocked(guest, at, stop, options);
    } finally {
      unlock();
    }
    at = stop;
  }
}

/** Makes guest bytes [start, end) zeros. The caller holds the exclusive lock on their clusters. */
export async function zeroLocked(
  guest: GuestImage,
  start: number,
  end: number,
  options: ZeroOptions,
): Promise<void> {
  const { clusterSize, subclusterSize } = guest.image.geometry;
  const { header } = guest.image;
  if (end <= start) return;
  if (hasFeature(header, 'rawExternal')) await zeroDataFile(guest, start, end, options);
  // The part of the last cluster past the end of the disk belongs to nobody: zero it along.
  const diskEnd = end === header.size ? alignUp(end, clusterSize) : end;
  const from = Math.min(alignUp(start, subclusterSize), diskEnd);
  const to = Math.max(alignDown(diskEnd, subclusterSize), from);
  const wholeFrom = Math.min(alignUp(from, clusterSize), to);
  const wholeTo = Math.max(alignDown(to, clusterSize), wholeFrom);
  await writeZeros(guest, start, Math.min(from, end));
  await zeroSubclusters(guest, from, wholeFrom);
  await zeroClusters(guest, wholeFrom, wholeTo, end, options);
  await zeroSubclusters(guest, wholeTo, to);
  await writeZeros(guest, to, end);
}

/** Zeros a part of one extended cluster, which keeps its host cluster for the rest. */
async function zeroSubclusters(guest: GuestImage, start: number, end: number): Promise<void> {
  if (start >= end) return;
  const runs = await guest.image.mapping.collect(guestOffset(start), end);
  for (const run of runs.filter((each) => !isZeroAlready(guest, each))) {
    await checkRuns(guest, [run]);
    if (run.kind === RunKind.compressed) await writeZeros(guest, run.start, run.start + run.length);
    else await setZero(guest, run.start, run.length, 'keep-host');
  }
}

/** Zeros whole clusters and lets go of what they had. Where zeros must be stored, none are stored past `limit`. */
async function zeroClusters(
  guest: GuestImage,
  start: number,
  end: number,
  limit: number,
  options: ZeroOptions,
): Promise<void> {
  if (start >= end) return;
  const treatment = options.forget === true ? 'forget' : wholeTreatment(guest);
  const runs = await guest.image.mapping.collect(guestOffset(start), end);
  const keeps = (run: Run): boolean => options.keepAllocated === true && isKept(guest, run);
  const groups = groupsToZero(guest, runs, keeps);
  await checkRuns(guest, groups.flat());
  const hasOwnDataFile = guest.image.hasDataFile && !hasFeature(guest.image.header, 'rawExternal');
  const emptied: Run[] = [];
  for (const group of groups) {
    const last = group.at(-1);
    const [first] = group;
    if (first === undefined || last === undefined) continue;
    const length = last.start + last.length - first.start;
    if (treatment === 'write') {
      await writeZeros(guest, first.start, Math.min(first.start + length, limit));
    } else if (keeps(first)) {
      await setZero(guest, first.start, length, 'keep-host');
      emptied.push(...group);
    } else {
      await setZero(guest, first.start, length, treatment);
      releaseRuns(guest, group, options.punch);
      if (hasOwnDataFile) emptied.push(...group.filter(hasPlace));
    }
  }
  if (options.punch && emptied.length > 0) await punchInPlace(guest, emptied);
}

/**
 * Gives back the space of clusters that stay where they are, or in an external data file. Nothing can be written there
 * before that is done, as the caller holds the lock; so the entries become durable at once.
 */
async function punchInPlace({ image }: GuestImage, runs: readonly Run[]): Promise<void> {
  await image.committer.flush();
  for (const { host, length } of runs) await image.dataStorage.punch?.(host, length);
}

const hasPlace = ({ kind }: Run): boolean =>
  kind === RunKind.data || kind === RunKind.zeroAllocated || kind === RunKind.unallocatedInCluster;

/** Whether a run's host clusters are its own (COPIED) and can be said to be zeros. */
function isKept({ image }: GuestImage, run: Run): boolean {
  const canTell = (image.mapping.l2Flags & (L2Flag.zeroFlag | L2Flag.extended)) !== 0;
  return canTell && !image.hasDataFile && hasPlace(run) && run.aux === 1;
}

/**
 * Neighbouring runs that do not read as zeros yet, those whose clusters are kept apart from others. A cluster with a place
 * in the file has no run that counts as zero already, so groups that have something to let go of begin and end at clusters.
 */
function groupsToZero(guest: GuestImage, runs: readonly Run[], keeps: (run: Run) => boolean): Run[][] {
  const groups: Run[][] = [];
  let last: Run | undefined;
  for (const run of runs) {
    if (isZeroAlready(guest, run)) {
      last = undefined;
      continue;
    }
    if (last !== undefined && keeps(last) === keeps(run)) groups.at(-1)?.push(run);
    else groups.push([run]);
    last = run;
  }
  return groups;
}

function isZeroAlready(guest: GuestImage, run: Run): boolean {
  if (run.kind === RunKind.zero) return true;
  return run.kind === RunKind.unallocated && !(guest.backing !== null && run.start < guest.backing.size);
}

/** What becomes of an entry; `write` is for version 2, which cannot say that a cluster hides its backing with zeros. */
type Treatment = 'forget' | 'drop-host' | 'keep-host';

function wholeTreatment(guest: GuestImage): Treatment | 'write' {
  if (guest.backing === null) return 'forget';
  return (guest.image.mapping.l2Flags & (L2Flag.zeroFlag | L2Flag.extended)) !== 0 ? 'drop-host' : 'write';
}

async function setZero(
  guest: GuestImage,
  start: GuestOffset,
  length: number,
  treatment: Treatment,
): Promise<void> {
  const { mapping, allocator, committer, geometry } = guest.image;
  const flags = mapping.l2Flags;
  await mapping.modify(start, length, allocator, committer, (table, at, part) => {
    if (treatment === 'forget') native.l2SetUnallocated(table, flags, geometry.clusterBits, at, part);
    else native.l2SetZero(table, flags, geometry.clusterBits, at, part, treatment === 'keep-host');
  });
}

/** Stores zeros in [start, end), where they are not there already. */
async function writeZeros(guest: GuestImage, start: number, end: number): Promise<void> {
  if (start >= end || (await readsAsZeros(guest, start, end))) return;
  for (let at = start; at < end; at += zeroBlock.length) {
    await writeLocked(guest, zeroBlock.subarray(0, Math.min(zeroBlock.length, end - at)), guestOffset(at));
  }
}

async function readsAsZeros(guest: GuestImage, start: number, end: number): Promise<boolean> {
  const runs = await guest.image.mapping.collect(guestOffset(start), end);
  return runs.every((run) => run.kind === RunKind.zeroAllocated || isZeroAlready(guest, run));
}

/** A raw data file must read the same without the image, so the zeros go there as well. */
async function zeroDataFile(
  guest: GuestImage,
  start: number,
  end: number,
  { punch }: ZeroOptions,
): Promise<void> {
  const { dataStorage, committer } = guest.image;
  committer.dataWritten();
  if (punch && (await dataStorage.punch?.(start, end - start)) === true) return;
  await writeStorageZeros(dataStorage, start, end - start);
}
