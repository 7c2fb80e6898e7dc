/** Moving compressed clusters, which share host clusters and begin at any byte: each by itself, packed one behind the other. */
import { guestOffset, type HostOffset } from '../../format/units.js';
import type { GuestImage } from '../../io/guest-image.js';
import { native } from '../../native.js';
import { settleAll } from '../../storage/settle.js';
import { readPadded, writeAll } from '../../storage/storage.js';
import type { CompactJob } from './job.js';

/** The data of a compressed cluster. */
export interface Stream {
  /** Guest cluster number. */
  readonly guest: number;
  /** Where it begins in the file, bytes. */
  readonly host: HostOffset;
  /** Bytes to the end of its last sector, as its entry tells. */
  readonly length: number;
  /** Bytes that are its own, as far as that is known. */
  readonly own: number;
}

/** A stream on its way. */
export interface MovedStream {
  readonly from: Stream;
  readonly to: HostOffset;
}

/** Reads under way at once. */
const maxInFlight = 16;
/** Unit in which entries tell the length of compressed data, bytes. */
const sectorSize = 512;

/**
 * Those that reach past the limit. Where the next one begins in the last sector of one, the rest is not its own: without
 * that, streams that are moved would grow by half a sector.
 */
export function tooFarStreams(
  { limit, clusterSize }: CompactJob,
  all: readonly Omit<Stream, 'own'>[],
): Stream[] {
  const end = limit * clusterSize;
  const sorted = [...all].sort((a, b) => a.host - b.host);
  const found: Stream[] = [];
  sorted.forEach((stream, i) => {
    const streamEnd = stream.host + stream.length;
    if (streamEnd <= end) return;
    const next = sorted[i + 1]?.host ?? Infinity;
    const ownEnd = next > streamEnd - sectorSize ? Math.min(next, streamEnd) : streamEnd;
    // What is compressed is never longer than what it becomes.
    found.push({ ...stream, own: Math.min(ownEnd - stream.host, clusterSize) });
  });
  return found.sort((a, b) => a.guest - b.guest);
}

/** Moves streams that nothing else refers to. The caller holds the lock on their guest range. False without room for all. */
export async function moveStreams(job: CompactJob, streams: readonly Stream[]): Promise<boolean> {
  const { guest, image } = job;
  const placed: MovedStream[] = [];
  try {
    for (const from of streams) {
      const to = await guest.compressedSpace.takeBelow(job.limit, from.own);
      if (to === null) break;
      placed.push({ from, to });
    }
    await copyStreams(guest, placed);
  } catch (error) {
    for (const { from, to } of placed) image.committer.freeLater(to, from.own, false);
    throw error;
  }
  let bytes = 0;
  for (const { from, to } of placed) {
    await repoint(job, from, to);
    image.committer.freeLater(from.host, from.length, true);
    bytes += from.own;
  }
  job.moved(bytes, placed.length);
  return placed.length === streams.length;
}

/** Copies streams; those that are neighbours at their new place are written together. Nothing is durable yet. */
export async function copyStreams(guest: GuestImage, placed: readonly MovedStream[]): Promise<void> {
  if (placed.length === 0) return;
  const { storage, committer } = guest.image;
  const buffers = placed.map(({ from }) => new Uint8Array(from.own));
  for (let first = 0; first < placed.length; first += maxInFlight) {
    const some = placed.slice(first, first + maxInFlight);
    await settleAll(
      some.map(({ from }, i) => readPadded(storage, buffers[first + i] ?? new Uint8Array(0), from.host)),
    );
  }
  guest.decoded.clear();
  for (let first = 0; first < placed.length;) {
    const start = placed[first]?.to ?? 0;
    let end = start;
    let last = first;
    for (; placed[last]?.to === end; last++) end += placed[last]?.from.own ?? 0;
    await writeAll(storage, buffers.slice(first, last), start);
    first = last;
  }
  guest.decoded.clear();
  committer.dataWritten();
}

async function repoint(job: CompactJob, from: Stream, to: HostOffset): Promise<void> {
  const { mapping, allocator, committer, geometry } = job.image;
  const { clusterSize, clusterBits } = geometry;
  const start = guestOffset(from.guest * clusterSize);
  await mapping.modify(start, clusterSize, allocator, committer, (table, at) => {
    native.l2SetCompressed(table, mapping.l2Flags, clusterBits, at / clusterSize, to, from.own);
  });
}
