/** What a disk is made of, run by run. */
import type { Disk, Extent, ExtentQuery } from '../disk.js';
import { guestOffset } from '../format/units.js';
import { invalidRun } from '../metadata/run.js';
import { invalidExtent } from '../native/extent-rows.js';
import { ExtentColumn, ExtentTypeIndex, extentsOf, extentStride, MergedRows, rowOf } from './extent-rows.js';
import type { GuestImage } from './guest-image.js';

/** The extents of guest bytes [start, end), merged, through the backing chain unless `layers` is `self`. */
export async function* guestExtents(
  guest: GuestImage,
  start: number,
  end: number,
  query: Pick<ExtentQuery, 'layers' | 'signal'>,
): AsyncGenerator<Extent> {
  for await (const rows of guestExtentRows(guest, start, end, query)) yield* extentsOf(rows);
}

/** The same as rows (`extent-rows.ts`), as many at a time as one look at a table has told. */
export async function* guestExtentRows(
  guest: GuestImage,
  start: number,
  end: number,
  { layers = 'all', signal }: Pick<ExtentQuery, 'layers' | 'signal'>,
): AsyncGenerator<Float64Array> {
  const merged = new MergedRows();
  const below = layers === 'all' ? guest.backing : null;
  for (let at = start; at < end;) {
    signal?.throwIfAborted();
    const from = guestOffset(at);
    // Asked for each time: some jobs put another mapping in its place.
    const before = guest.image.mapping;
    const table = before.nextTable(from, end);
    const stop = table > from ? table : Math.min(end, before.sliceEnd(from));
    // What shows the backing disk has to wait until that can be asked.
    const own = below === null ? merged : new MergedRows();
    const damage = await lookUp(guest, at, stop, own);
    if (below !== null) yield* throughHoles(own.takeAll(), below, merged, signal);
    if (damage !== undefined) {
      // What comes before it is good.
      yield merged.takeAll();
      throw damage;
    }
    const rows = merged.take();
    if (rows.length > 0) yield rows;
    at = stop;
  }
  yield merged.takeAll();
}

/** Adds the rows of this layer alone for guest bytes [start, end). Returns what is wrong with an entry; rows end before it. */
async function lookUp(
  guest: GuestImage,
  start: number,
  end: number,
  rows: MergedRows,
): Promise<Error | undefined> {
  let damage: Error | undefined;
  const unlock = await guest.locks.shared(start, end);
  try {
    const isPlain = guest.cipher === null;
    await guest.image.mapping.visitRows(guestOffset(start), end, isPlain, (found) => {
      const last = found.length - extentStride;
      if (found[last + ExtentColumn.type] === invalidExtent) {
        const at = guestOffset(Math.max(start, found[last] ?? 0));
        damage = invalidRun(at, found[last + ExtentColumn.hostOffset] ?? 0);
        found = found.subarray(0, last);
      }
      rows.addJoined(cut(found, start, end));
    });
  } finally {
    unlock();
  }
  return damage;
}

/** Those of these rows that are in guest bytes [start, end), of which the first and the last are changed so that they end there. */
function cut(all: Float64Array, start: number, end: number): Float64Array {
  let first = 0;
  while (first < all.length && (all[first] ?? 0) + (all[first + ExtentColumn.length] ?? 0) <= start)
    first += extentStride;
  let last = all.length;
  while (last > first && (all[last - extentStride] ?? 0) >= end) last -= extentStride;
  const rows = all.subarray(first, last);
  const before = start - (rows[0] ?? start);
  if (before > 0) {
    const hostOffset = rows[ExtentColumn.hostOffset] ?? -1;
    rows[ExtentColumn.start] = start;
    rows[ExtentColumn.length] = (rows[ExtentColumn.length] ?? 0) - before;
    rows[ExtentColumn.hostOffset] = hostOffset < 0 ? hostOffset : hostOffset + before;
  }
  const at = rows.length - extentStride;
  if (at >= 0) {
    const room = end - (rows[at] ?? 0);
    rows[at + ExtentColumn.length] = Math.min(rows[at + ExtentColumn.length] ?? 0, room);
  }
  return rows;
}

/** Adds rows of a layer to `merged`, and where it has nothing those of the disk below. */
async function* throughHoles(
  own: Float64Array,
  below: Disk,
  merged: MergedRows,
  signal: AbortSignal | undefined,
): AsyncGenerator<Float64Array> {
  for (let i = 0; i < own.length; i += extentStride) {
    const start = own[i] ?? 0;
    const length = own[i + ExtentColumn.length] ?? 0;
    const type = own[i + ExtentColumn.type] ?? 0;
    if (type !== ExtentTypeIndex.unallocated) {
      merged.add(start, length, type, 0, own[i + ExtentColumn.hostOffset] ?? -1);
      continue;
    }
    const there = Math.min(length, Math.max(0, below.size - start));
    if (there > 0) {
      const query = { start, length: there, ...(signal === undefined ? {} : { signal }) };
      for await (const rows of extentRows(below, query)) {
        addRows(merged, rows, 1);
        const taken = merged.take();
        if (taken.length > 0) yield taken;
      }
    }
    if (there < length) merged.add(start + there, length - there, type, 0, -1);
  }
}

/** Adds rows that were found `depth` layers further down. */
function addRows(merged: MergedRows, rows: Float64Array, depth: number): void {
  for (let i = 0; i < rows.length; i += extentStride) {
    merged.add(
      rows[i] ?? 0,
      rows[i + ExtentColumn.length] ?? 0,
      rows[i + ExtentColumn.type] ?? 0,
      (rows[i + ExtentColumn.depth] ?? 0) + depth,
      rows[i + ExtentColumn.hostOffset] ?? -1,
    );
  }
}

/** The extents of any disk as rows: where there are many, that costs far less than one by one. */
export async function* extentRows(disk: Disk, query: ExtentQuery): AsyncGenerator<Float64Array> {
  if (disk.extentRows !== undefined) yield* disk.extentRows(query);
  else for await (const extent of disk.extents(query)) yield rowOf(extent);
}
