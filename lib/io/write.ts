/** The way of a guest write: in place where a range has clusters of its own, else into new ones, old content filled in. */
import { alignDown, alignUp, guestOffset, hostOffset, type GuestOffset } from '../format/units.js';
import { hasPlace, invalidRun, misplacedRun, type Run } from '../metadata/run.js';
import { native, RunKind } from '../native.js';
import { InFlight } from '../storage/settle.js';
import { checkRange } from './disk-queries.js';
import type { GuestImage } from './guest-image.js';
import { checkPlace, readGuest } from './read.js';
import { releaseRuns } from './release.js';
import { isStorable, storeData } from './store.js';

/** A piece of a write with the position it goes to. */
interface Piece {
  readonly start: GuestOffset;
  readonly end: number;
}

/** Clusters one behind the other that are written alike. */
interface Group extends Piece {
  /** Whether the clusters the image has for them may be written to; else new ones are needed. */
  readonly inPlace: boolean;
  readonly runs: Run[];
}

/** Writes `data` at `position`. The caller holds no lock. */
export async function writeGuest(guest: GuestImage, data: Uint8Array, position: GuestOffset): Promise<void> {
  const { geometry } = guest.image;
  const start = alignDown(position, geometry.clusterSize);
  const end = alignUp(position + data.length, geometry.clusterSize);
  if (isStorable(guest, position, data.length)) {
    const unlock = await guest.locks.shared(start, end);
    try {
      assertInside(guest, position, data.length);
      const runs = await guest.image.mapping.collect(position, position + data.length);
      if (runs.every((run) => run.kind === RunKind.data && run.aux === 1)) {
        await overwrite(guest, data, position, runs);
        return;
      }
    } finally {
      unlock();
    }
  }
  const unlock = await guest.locks.exclusive(start, end);
  try {
    assertInside(guest, position, data.length);
    await writeLocked(guest, data, position);
  } finally {
    unlock();
  }
}

/** Looks again under the lock whether a range is inside the disk, which may have shrunk since the caller asked. */
export function assertInside(guest: GuestImage, position: number, length: number): void {
  checkRange(guest.image.header.size, position, length);
}

/** Writes to clusters that belong to their range alone. The caller holds a lock on it. */
async function overwrite(
  guest: GuestImage,
  data: Uint8Array,
  position: GuestOffset,
  runs: readonly Run[],
): Promise<void> {
  const checked = checkRuns(guest, runs);
  if (checked !== undefined) await checked;
  const [only] = runs;
  if (runs.length === 1 && only !== undefined) return storeData(guest, [data], only.start, only.host);
  const requests = new InFlight();
  for (const { start, length, host } of runs) {
    requests.add(storeData(guest, [slice(data, position, start, start + length)], start, host));
  }
  return requests.settled();
}

/** Writes any range. The caller holds the exclusive lock on its clusters. */
export async function writeLocked(guest: GuestImage, data: Uint8Array, position: GuestOffset): Promise<void> {
  const { geometry, mapping } = guest.image;
  const start = guestOffset(alignDown(position, geometry.clusterSize));
  const end = alignUp(position + data.length, geometry.clusterSize);
  const runs = await mapping.collect(start, end);
  await checkRuns(guest, runs);
  for (const group of groupByTreatment(runs)) {
    if (group.inPlace) await writeIntoOwn(guest, data, position, group);
    else await writeIntoNew(guest, data, position, group);
  }
}

/** Refuses runs that cannot be replaced, as what they refer to is no place for guest data; a promise where the file has to be asked. */
export function checkRuns(guest: GuestImage, runs: readonly Run[]): Promise<void> | undefined {
  const { image } = guest;
  let last: Run | undefined;
  for (const run of runs) {
    if (run.kind === RunKind.invalid) throw invalidRun(run.start, run.aux);
    const compressed = run.kind === RunKind.compressed;
    if (!compressed && !hasPlace(run.kind)) continue;
    checkPlace(guest, run.start, run.host, compressed ? run.aux : run.length);
    if (last === undefined || lastCluster(guest, run) > lastCluster(guest, last)) last = run;
  }
  if (last === undefined || image.hasDataFile) return undefined;
  // Writing behind the end would make the file as long as the damaged entry says.
  const there = image.fileEnd.reaches(lastCluster(guest, last));
  return there === true ? undefined : refuseUnlessThere(there, last);
}

async function refuseUnlessThere(there: boolean | Promise<boolean>, { start, host }: Run): Promise<void> {
  if (!(await there)) throw misplacedRun(start, host, 'past the end of the file');
}

/** Where the last host cluster of a run begins; of a cut-off one that much must be there. */
function lastCluster({ image: { geometry } }: GuestImage, run: Run): number {
  if (run.kind === RunKind.compressed) return run.host;
  return alignDown(run.host + run.length - 1, geometry.clusterSize);
}

/** Runs that may be written in place stay single; those that need new clusters join, by whole clusters. */
function groupByTreatment(runs: readonly Run[]): Group[] {
  const groups: { start: GuestOffset; end: number; inPlace: boolean; runs: Run[] }[] = [];
  for (const run of runs) {
    const inPlace = hasPlace(run.kind) && run.aux === 1;
    const last = groups.at(-1);
    const end = run.start + run.length;
    if (last !== undefined && !inPlace && !last.inPlace) {
      last.end = end;
      last.runs.push(run);
    } else {
      groups.push({ start: run.start, end, inPlace, runs: [run] });
    }
  }
  return groups;
}

/** Writes into a run whose host clusters belong to this range alone. */
async function writeIntoOwn(
  guest: GuestImage,
  data: Uint8Array,
  position: GuestOffset,
  group: Group,
): Promise<void> {
  const { geometry } = guest.image;
  const [run] = group.runs;
  if (run === undefined) return;
  const from = Math.max(position, run.start);
  const to = Math.min(position + data.length, run.start + run.length);
  if (from >= to) return;
  const isData = run.kind === RunKind.data;
  const unit = isData ? (isStorable(guest, from, to - from) ? 1 : 512) : geometry.subclusterSize;
  const piece: Piece = { start: guestOffset(alignDown(from, unit)), end: alignUp(to, unit) };
  const buffers = await filled(guest, data, position, piece);
  await storeData(guest, buffers, piece.start, hostOffset(run.host + (piece.start - run.start)));
  if (isData) return;
  const clusterStart = alignDown(piece.start, geometry.clusterSize);
  const host = run.host + (clusterStart - run.start);
  await setData(guest, piece, clusterStart, host);
}

/** Writes into new clusters and then lets go of the old ones. */
async function writeIntoNew(
  guest: GuestImage,
  data: Uint8Array,
  position: GuestOffset,
  group: Group,
): Promise<void> {
  const { clusterSize } = guest.image.geometry;
  const piece = extended(guest, position, position + data.length, group);
  const { mapping, allocator, committer } = guest.image;
  await mapping.ensureTables(group.start, group.end - group.start, allocator, committer);
  const requests = new InFlight();
  const placed: { start: number; count: number; host: number }[] = [];
  try {
    for (let at: number = group.start; at < group.end;) {
      const { host, count } = await placeFor(guest, at, (group.end - at) / clusterSize);
      placed.push({ start: at, count, host });
      const part: Piece = {
        start: guestOffset(Math.max(at, piece.start)),
        end: Math.min(at + count * clusterSize, piece.end),
      };
      requests.add(storePart(guest, data, position, part, host + (part.start - at)));
      at += count * clusterSize;
    }
    await requests.settled();
  } catch (error) {
    await requests.settled().catch(() => undefined);
    for (const { host, count } of placed) giveBack(guest, host, count);
    throw error;
  }
  for (const { start, count, host } of placed) {
    const end = Math.min(start + count * clusterSize, piece.end);
    await setData(guest, { start: guestOffset(Math.max(start, piece.start)), end }, start, host);
  }
  releaseRuns(guest, group.runs, false);
}

async function storePart(
  guest: GuestImage,
  data: Uint8Array,
  position: GuestOffset,
  part: Piece,
  host: number,
): Promise<void> {
  await storeData(guest, await filled(guest, data, position, part), part.start, hostOffset(host));
}

/** Host clusters for `count` guest clusters from `start` on, or for the first few of them. */
async function placeFor(
  guest: GuestImage,
  start: number,
  count: number,
): Promise<{ host: number; count: number }> {
  const { image } = guest;
  if (image.hasDataFile) return { host: start, count };
  const run = await image.allocator.allocate(count);
  return { host: run.first * image.geometry.clusterSize, count: run.count };
}

function giveBack(guest: GuestImage, host: number, count: number): void {
  const { image } = guest;
  if (image.hasDataFile) return;
  image.committer.freeLater(hostOffset(host), count * image.geometry.clusterSize, false);
}

/**
 * What of a group is to be stored: the written range, extended at both ends to what its cluster cannot do without. That
 * is the subcluster where nothing is stored yet, and the whole cluster where old content has to move along.
 */
function extended(guest: GuestImage, start: number, end: number, group: Group): Piece {
  const { clusterSize, subclusterSize } = guest.image.geometry;
  const from = Math.max(start, group.start);
  const to = Math.min(end, group.end);
  const unitAt = (at: number): number => {
    const cluster = alignDown(at, clusterSize);
    const stored = group.runs.some(
      (run) =>
        run.start < cluster + clusterSize &&
        run.start + run.length > cluster &&
        (run.kind === RunKind.data || run.kind === RunKind.compressed),
    );
    return stored ? clusterSize : subclusterSize;
  };
  return { start: guestOffset(alignDown(from, unitAt(from))), end: alignUp(to, unitAt(to - 1)) };
}

/** The bytes of a piece: written data where there is some, old content around it. */
async function filled(
  guest: GuestImage,
  data: Uint8Array,
  position: GuestOffset,
  piece: Piece,
): Promise<Uint8Array[]> {
  const dataEnd = position + data.length;
  const head = new Uint8Array(Math.max(0, position - piece.start));
  const tail = new Uint8Array(Math.max(0, piece.end - dataEnd));
  if (head.length > 0) await readGuest(guest, head, piece.start);
  if (tail.length > 0) await readGuest(guest, tail, guestOffset(dataEnd));
  const body = slice(data, position, Math.max(position, piece.start), Math.min(dataEnd, piece.end));
  return [head, body, tail].filter((buffer) => buffer.length > 0);
}

/** Points the L2 entries of a piece at its new place: `host` is where guest cluster `clusterStart` begins. */
async function setData(guest: GuestImage, piece: Piece, clusterStart: number, host: number): Promise<void> {
  const { mapping, allocator, committer, geometry } = guest.image;
  await mapping.modify(
    piece.start,
    piece.end - piece.start,
    allocator,
    committer,
    (table, start, length, at) => {
      const place = host + alignDown(at - clusterStart, geometry.clusterSize);
      native.l2SetData(table, mapping.l2Flags, geometry.clusterBits, start, length, place);
    },
  );
}

function slice(data: Uint8Array, position: number, start: number, end: number): Uint8Array {
  return data.subarray(start - position, end - position);
}
