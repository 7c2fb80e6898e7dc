/** Which blocks of a disk have stored bytes, found table by table without a record for each run. */
import type { Disk, Op } from '../disk.js';
import { guestOffset } from '../format/units.js';
import type { GuestImage } from '../io/guest-image.js';
import { invalidRun } from '../metadata/run.js';
import { RunKind } from '../native.js';
import { Qcow2 } from '../qcow2.js';
import { BlockSet } from './block-set.js';
import { pauses } from './jobs/pauses.js';

/** Where the runs found go. */
interface Sink {
  /** Bytes [start, end) are stored. */
  stored: (start: number, end: number) => void;
  pause: () => Promise<void> | undefined;
  signal: AbortSignal | undefined;
}

/**
 * The blocks of which any byte is stored in the disk, in any layer of it, compressed or not. The others read as zeros.
 * @param blockSize bytes, a multiple of 512
 * @throws as {@link BlockSet}; Qcow2Error `ERR_QCOW2_CORRUPT` for damaged tables; the signal's reason
 */
export async function storedBlocks(disk: Disk, blockSize: number, { signal }: Op = {}): Promise<BlockSet> {
  const blocks = new BlockSet(disk.size, blockSize);
  const sink: Sink = {
    stored: (start, end) => blocks.addBytes({ start, length: end - start }),
    pause: pauses(),
    signal,
  };
  await visitDisk(disk, 0, disk.size, sink);
  return blocks;
}

async function visitDisk(disk: Disk, start: number, end: number, sink: Sink): Promise<void> {
  if (disk instanceof Qcow2) {
    await visitGuest(disk.guest, start, end, sink);
    return;
  }
  const query = { start, length: end - start, ...(sink.signal === undefined ? {} : { signal: sink.signal }) };
  for await (const extent of disk.extents(query)) {
    if (extent.type === 'data' || extent.type === 'compressed') {
      sink.stored(extent.start, extent.start + extent.length);
    }
    await sink.pause();
  }
}

async function visitGuest(guest: GuestImage, start: number, end: number, sink: Sink): Promise<void> {
  for (let at = start; at < end;) {
    sink.signal?.throwIfAborted();
    await sink.pause();
    const from = guestOffset(at);
    // Asked for each time: some jobs put another mapping in its place.
    const before = guest.image.mapping;
    const table = before.nextTable(from, end);
    const stop = table > from ? table : Math.min(end, before.sliceEnd(from));
    for (const gap of await visitSlice(guest, at, stop, sink)) {
      const below = guest.backing === null ? 0 : Math.min(gap.end, guest.backing.size);
      if (guest.backing !== null && gap.start < below) await visitDisk(guest.backing, gap.start, below, sink);
    }
    at = stop;
  }
}

/** Hands on what this layer has stored; returns what it says nothing of, if there is something below. */
async function visitSlice(
  guest: GuestImage,
  start: number,
  end: number,
  sink: Sink,
): Promise<{ start: number; end: number }[]> {
  const gaps: { start: number; end: number }[] = [];
  /** Where a run of stored bytes that may go on begins and ends. */
  let open = start;
  let openEnd = start;
  const unlock = await guest.locks.shared(start, end);
  try {
    await guest.image.mapping.visit(guestOffset(start), end, false, (kind, at, length, _host, aux) => {
      if (kind === RunKind.data || kind === RunKind.compressed) {
        if (at !== openEnd) {
          if (open < openEnd) sink.stored(open, openEnd);
          open = at;
        }
        openEnd = at + length;
        return;
      }
      if (kind === RunKind.invalid) throw invalidRun(at, aux);
      const shows = kind === RunKind.unallocated || kind === RunKind.unallocatedInCluster;
      if (!shows || guest.backing === null) return;
      const last = gaps.at(-1);
      if (last?.end === at) last.end = at + length;
      else gaps.push({ start: at, end: at + length });
    });
  } finally {
    unlock();
  }
  if (open < openEnd) sink.stored(open, openEnd);
  return gaps;
}
