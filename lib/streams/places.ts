/** Where everything is in an uncompressed stream: header, refcounts, L1 table, L2 tables, data, in this order. */
import { l1EntriesFor, tableEntrySize, type Geometry } from '../format/geometry.js';
import { hostOffset } from '../format/units.js';
import { refuseLargeL1 } from '../operations/resize/l1-table.js';
import { refcountClusters } from '../operations/measure.js';
import type { TablePlaces } from '../operations/create.js';
import type { Contents } from './contents.js';

/** Places in clusters from the beginning of the stream. */
export interface Places {
  readonly refcountTable: number;
  readonly refcountBlocks: number;
  readonly l1: number;
  readonly l2: number;
  readonly data: number;
  /** Where the stream ends. */
  readonly end: number;
}

/** L1 entries looked at in one go. */
const entriesPerStep = 65536;

/**
 * The L2 tables that have anything in them, in order: the index of each.
 * @param first,end L1 entries
 */
export function* usedTables(
  { stored, zero }: Contents,
  { l2Entries }: Geometry,
  first: number,
  end: number,
): Generator<number> {
  const last = Math.min(stored.length, end * l2Entries);
  for (let at = first * l2Entries; at < last;) {
    const next = Math.min(stored.next(at, last), zero?.next(at, last) ?? last);
    if (next >= last) return;
    const table = Math.floor(next / l2Entries);
    yield table;
    at = (table + 1) * l2Entries;
  }
}

/** Counts the L2 tables, with a chance for others in between. */
export async function countTables(
  contents: Contents,
  shape: Geometry,
  pause: () => Promise<void> | undefined,
): Promise<number> {
  let count = 0;
  for (let at = 0; at < l1EntriesFor(contents.size, shape); at += entriesPerStep) {
    count += countTablesNow(contents, shape, at, at + entriesPerStep);
    await pause();
  }
  return count;
}

/** The same at once, for L1 entries [first, end). */
export function countTablesNow(contents: Contents, shape: Geometry, first = 0, end = Infinity): number {
  let count = 0;
  for (const table of usedTables(contents, shape, first, end)) count += Number(table >= 0);
  return count;
}

/**
 * @param tables how many L2 tables there are
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when the disk is too large for its clusters
 */
export function placeAll(contents: Contents, shape: Geometry, tables: number): Places {
  const entries = l1EntriesFor(contents.size, shape);
  refuseLargeL1(entries, shape);
  const l1Clusters = Math.ceil((entries * tableEntrySize) / shape.clusterSize);
  const others = 1 + l1Clusters + tables + contents.stored.count();
  const refcounts = refcountClusters(others, contents.size, shape);
  const blocks = Math.ceil((others + refcounts) / shape.refcountBlockEntries);
  const refcountTable = 1;
  const refcountBlocks = refcountTable + refcounts - blocks;
  const l1 = refcountTable + refcounts;
  const l2 = l1 + l1Clusters;
  return { refcountTable, refcountBlocks, l1, l2, data: l2 + tables, end: others + refcounts };
}

/** What the header says of these places. */
export function tablePlaces({ size }: Contents, shape: Geometry, places: Places): TablePlaces {
  const l1Size = l1EntriesFor(size, shape);
  return {
    size,
    l1Size,
    l1TableOffset: hostOffset(l1Size === 0 ? 0 : places.l1 * shape.clusterSize),
    refcountTableOffset: hostOffset(places.refcountTable * shape.clusterSize),
    refcountTableClusters: places.refcountBlocks - places.refcountTable,
  };
}
