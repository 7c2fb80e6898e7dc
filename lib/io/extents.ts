/** What a disk is made of, run by run. */
import type { Extent, ExtentQuery, ExtentType } from '../disk.js';
import { guestOffset } from '../format/units.js';
import { invalidRun, type Run } from '../metadata/run.js';
import { RunKind } from '../native.js';
import type { GuestImage } from './guest-image.js';

const typeOf: Record<RunKind, ExtentType | undefined> = {
  [RunKind.unallocated]: 'unallocated',
  [RunKind.unallocatedInCluster]: 'unallocated',
  [RunKind.zero]: 'zero',
  [RunKind.zeroAllocated]: 'zero',
  [RunKind.data]: 'data',
  [RunKind.compressed]: 'compressed',
  [RunKind.invalid]: undefined,
};

/** The extents of guest bytes [start, end), merged, through the backing chain unless `layers` is `self`. */
export function guestExtents(
  guest: GuestImage,
  start: number,
  end: number,
  { layers = 'all', signal }: Pick<ExtentQuery, 'layers' | 'signal'>,
): AsyncGenerator<Extent> {
  return mergeExtents(layerExtents(guest, start, end, layers, signal));
}

async function* layerExtents(
  guest: GuestImage,
  start: number,
  end: number,
  layers: 'all' | 'self',
  signal: AbortSignal | undefined,
): AsyncGenerator<Extent> {
  for (let at = start; at < end;) {
    signal?.throwIfAborted();
    const from = guestOffset(at);
    // Asked for each time: some jobs put another mapping in its place.
    const before = guest.image.mapping;
    const table = before.nextTable(from, end);
    const stop = table > from ? table : Math.min(end, before.sliceEnd(from));
    const unlock = await guest.locks.shared(at, stop);
    let runs: Run[];
    try {
      runs = await guest.image.mapping.collect(from, stop);
    } finally {
      unlock();
    }
    for (const run of runs) {
      if (run.kind === RunKind.unallocated || run.kind === RunKind.unallocatedInCluster) {
        yield* extentsBelow(guest, run, layers, signal);
      } else {
        yield extentOf(guest, run);
      }
    }
    at = stop;
  }
}

function extentOf(guest: GuestImage, run: Run): Extent {
  const type = typeOf[run.kind];
  if (type === undefined) throw invalidRun(run.start, run.aux);
  const placed = run.kind === RunKind.data || run.kind === RunKind.zeroAllocated;
  const hostOffset = placed && guest.cipher === null ? run.host : null;
  return { start: run.start, length: run.length, type, depth: 0, hostOffset };
}

/** What shows through where this layer has nothing. */
async function* extentsBelow(
  guest: GuestImage,
  { start, length }: Run,
  layers: 'all' | 'self',
  signal: AbortSignal | undefined,
): AsyncGenerator<Extent> {
  const backingEnd = layers === 'all' && guest.backing !== null ? guest.backing.size : 0;
  const there = Math.min(length, Math.max(0, backingEnd - start));
  if (guest.backing !== null && there > 0) {
    const query = { start, length: there, ...(signal === undefined ? {} : { signal }) };
    for await (const extent of guest.backing.extents(query)) yield { ...extent, depth: extent.depth + 1 };
  }
  if (there < length) {
    yield { start: start + there, length: length - there, type: 'unallocated', depth: 0, hostOffset: null };
  }
}

/** Joins neighbours of one type and layer whose places, where they have any, are neighbours, too. */
async function* mergeExtents(extents: AsyncIterable<Extent>): AsyncGenerator<Extent> {
  let last: Extent | undefined;
  for await (const extent of extents) {
    if (last !== undefined && continues(last, extent)) last.length += extent.length;
    else {
      if (last !== undefined) yield last;
      last = { ...extent };
    }
  }
  if (last !== undefined) yield last;
}

function continues(last: Extent, next: Extent): boolean {
  if (last.type !== next.type || last.depth !== next.depth) return false;
  if (last.hostOffset === null || next.hostOffset === null) return last.hostOffset === next.hostOffset;
  return last.hostOffset + last.length === next.hostOffset;
}
