/** Looking for clusters of the active disk that hold nothing but zeros, and dropping them. */
import { hasFeature } from '../../format/features.js';
import { alignDown, alignUp, guestOffset, type GuestOffset } from '../../format/units.js';
import { readGuest } from '../../io/read.js';
import { zeroLocked } from '../../io/zero.js';
import { native, RunKind } from '../../native.js';
import type { CompactJob } from './job.js';

/** Bytes looked at while requests for them wait. */
const pieceBytes = 1024 * 1024;

/** Drops zeros of the whole disk. */
export async function dropZeroes(job: CompactJob): Promise<void> {
  const { image } = job;
  const { header } = image;
  // Version 2 can hide a backing file only by stored zeros, and a raw data file has a place for all of them.
  if (hasFeature(header, 'rawExternal') || (header.version < 3 && header.backingFile !== null)) return;
  const piece = Math.max(pieceBytes, job.clusterSize);
  for (let at = image.mapping.nextTable(guestOffset(0), header.size); at < header.size;) {
    const stop = Math.min(header.size, image.mapping.sliceEnd(at));
    for (const { start, end } of await storedRanges(job, at, stop)) {
      for (let from = start; from < end; from += piece) {
        await dropZeroesIn(job, guestOffset(from), Math.min(end, from + piece));
        await job.between();
      }
    }
    job.throwIfAborted();
    at = image.mapping.nextTable(guestOffset(stop), header.size);
  }
}

/** What is stored of guest bytes [at, stop): ranges of whole clusters, the last of which may end with the disk. */
async function storedRanges(
  { image, clusterSize }: CompactJob,
  at: GuestOffset,
  stop: number,
): Promise<{ start: number; end: number }[]> {
  const ranges: { start: number; end: number }[] = [];
  await image.mapping.visit(at, stop, false, (kind, start, length) => {
    if (kind !== RunKind.data && kind !== RunKind.compressed) return;
    const from = alignDown(start, clusterSize);
    const to = Math.min(stop, alignUp(start + length, clusterSize));
    const last = ranges.at(-1);
    if (last !== undefined && from <= last.end) last.end = to;
    else ranges.push({ start: from, end: to });
  });
  return ranges;
}

async function dropZeroesIn(
  { guest, clusterSize }: CompactJob,
  start: GuestOffset,
  end: number,
): Promise<void> {
  const unlock = await guest.locks.exclusive(start, alignUp(end, clusterSize));
  try {
    const bytes = new Uint8Array(end - start);
    await readGuest(guest, bytes, start);
    const ends = new Float64Array(Math.ceil(bytes.length / clusterSize) + 1);
    const runs = native.zeroRuns(bytes, clusterSize, ends);
    for (let i = 1; i < runs; i += 2) {
      await zeroLocked(guest, start + (ends[i - 1] ?? 0), start + (ends[i] ?? 0), { punch: true });
    }
  } finally {
    unlock();
  }
}
