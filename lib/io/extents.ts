/** What a disk is made of, run by run. */
import type { Disk, Extent, ExtentQuery, ExtentType } from '../disk.js';
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
export async function* guestExtents(
  guest: GuestImage,
  start: number,
  end: number,
  query: Pick<ExtentQuery, 'layers' | 'signal'>,
): AsyncGenerator<Extent> {
  for await (const list of guestExtentLists(guest, start, end, query)) {
    for (const extent of list) yield extent;
  }
}

/** The same in lists, each of what one look at a table has told. */
export async function* guestExtentLists(
  guest: GuestImage,
  start: number,
  end: number,
  { layers = 'all', signal }: Pick<ExtentQuery, 'layers' | 'signal'>,
): AsyncGenerator<Extent[]> {
  const merged = new MergedExtents();
  const below = layers === 'all' ? guest.backing : null;
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
      if (run.kind === RunKind.invalid) {
        // What comes before it is good.
        yield merged.takeAll();
        throw invalidRun(run.start, run.aux);
      }
      if (run.kind === RunKind.unallocated || run.kind === RunKind.unallocatedInCluster) {
        const there = Math.min(run.length, Math.max(0, (below?.size ?? 0) - run.start));
        if (below !== null && there > 0) {
          for await (const list of extentsBelow(below, run.start, there, signal)) {
            for (const extent of list) merged.add(extent);
            yield merged.take();
          }
        }
        if (there < run.length) merged.add(nothing(run.start + there, run.length - there));
      } else {
        merged.add(extentOf(guest, run));
      }
    }
    const list = merged.take();
    if (list.length > 0) yield list;
    at = stop;
  }
  yield merged.takeAll();
}

/** The extents of any disk in lists: where there are many, that costs far less than one by one. */
export async function* extentLists(disk: Disk, query: ExtentQuery): AsyncGenerator<readonly Extent[]> {
  if (disk.extentLists !== undefined) yield* disk.extentLists(query);
  else for await (const extent of disk.extents(query)) yield [extent];
}

function extentOf(guest: GuestImage, run: Run): Extent {
  const type = typeOf[run.kind];
  // Invalid runs do not come here.
  if (type === undefined) throw invalidRun(run.start, run.aux);
  const placed = run.kind === RunKind.data || run.kind === RunKind.zeroAllocated;
  const hostOffset = placed && guest.cipher === null ? run.host : null;
  return { start: run.start, length: run.length, type, depth: 0, hostOffset };
}

/** What shows through where this layer has nothing. */
async function* extentsBelow(
  backing: Disk,
  start: number,
  length: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<readonly Extent[]> {
  const query = { start, length, ...(signal === undefined ? {} : { signal }) };
  for await (const list of extentLists(backing, query)) {
    yield list.map((extent) => ({ ...extent, depth: extent.depth + 1 }));
  }
}

const nothing = (start: number, length: number): Extent => ({
  start,
  length,
  type: 'unallocated',
  depth: 0,
  hostOffset: null,
});

/** Joins neighbours of one type and layer whose places, where they have any, are neighbours, too. */
class MergedExtents {
  #done: Extent[] = [];
  #last: Extent | undefined;

  /** The extent is this object's from now on. */
  add(extent: Extent): void {
    if (this.#last !== undefined && continues(this.#last, extent)) {
      this.#last.length += extent.length;
      return;
    }
    if (this.#last !== undefined) this.#done.push(this.#last);
    this.#last = extent;
  }

  /** All but the last, which may go on. */
  take(): Extent[] {
    const done = this.#done;
    this.#done = [];
    return done;
  }

  takeAll(): Extent[] {
    if (this.#last !== undefined) this.#done.push(this.#last);
    this.#last = undefined;
    return this.take();
  }
}

function continues(last: Extent, next: Extent): boolean {
  if (last.type !== next.type || last.depth !== next.depth) return false;
  if (last.hostOffset === null || next.hostOffset === null) return last.hostOffset === next.hostOffset;
  return last.hostOffset + last.length === next.hostOffset;
}
