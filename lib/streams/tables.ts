/** The bytes of the tables of an uncompressed stream, made in pieces as they are wanted. */
import { l1EntriesFor, tableEntrySize, type Geometry } from '../format/geometry.js';
import { tableView, writeL1Entry, writeRefcountTableEntry } from '../format/table-entry.js';
import { L2Flag, native } from '../native.js';
import type { Contents } from './contents.js';
import { usedTables, type Places } from './places.js';

/** Bytes of a piece, unless clusters are larger. */
const pieceBytes = 1024 * 1024;

/** How entries of L2 tables are written. */
export const l2FlagsFor = (version: 2 | 3, { extendedL2 }: Geometry): number =>
  (version === 3 ? L2Flag.zeroFlag : 0) | (extendedL2 ? L2Flag.extended : 0);

/** The refcount table: the blocks lie one behind the other. */
export function* refcountTable(shape: Geometry, places: Places): Generator<Uint8Array> {
  const { clusterSize, refcountBlockEntries } = shape;
  const table = new Uint8Array((places.refcountBlocks - places.refcountTable) * clusterSize);
  const view = tableView(table);
  const blocks = Math.ceil(places.end / refcountBlockEntries);
  for (let i = 0; i < blocks; i++) {
    writeRefcountTableEntry(view, i, (places.refcountBlocks + i) * clusterSize);
  }
  yield table;
}

/** The refcount blocks: every cluster of the stream is in use once. */
export function* refcountBlocks(shape: Geometry, places: Places): Generator<Uint8Array> {
  const { clusterSize, refcountBlockEntries, refcountOrder } = shape;
  const perPiece = Math.max(1, pieceBytes / clusterSize);
  const blocks = places.l1 - places.refcountBlocks;
  for (let at = 0; at < blocks; at += perPiece) {
    const piece = new Uint8Array(Math.min(perPiece, blocks - at) * clusterSize);
    const first = at * refcountBlockEntries;
    const room = (piece.length / clusterSize) * refcountBlockEntries;
    native.refcountSet(piece, refcountOrder, 0, Math.max(0, Math.min(room, places.end - first)), 1);
    yield piece;
  }
}

/** The L1 table: the L2 tables in use lie one behind the other. */
export function* l1Table(contents: Contents, shape: Geometry, places: Places): Generator<Uint8Array> {
  const { clusterSize } = shape;
  const bytes = (places.l2 - places.l1) * clusterSize;
  const entries = l1EntriesFor(contents.size, shape);
  let next = places.l2;
  const piece = Math.max(pieceBytes, clusterSize);
  for (let at = 0; at < bytes; at += piece) {
    const part = new Uint8Array(Math.min(piece, bytes - at));
    const view = tableView(part);
    const first = at / tableEntrySize;
    const end = Math.min(entries, first + part.length / tableEntrySize);
    for (const table of usedTables(contents, shape, first, end)) {
      writeL1Entry(view, table - first, next * clusterSize, true);
      next += 1;
    }
    yield part;
  }
}

/** The L2 tables in use: the data clusters lie one behind the other in the order of the disk. */
export function* l2Tables(
  contents: Contents,
  shape: Geometry,
  flags: number,
  places: Places,
): Generator<Uint8Array> {
  const { clusterSize } = shape;
  const perPiece = Math.max(1, pieceBytes / clusterSize);
  let piece = new Uint8Array(0);
  let filled = 0;
  let left = places.data - places.l2;
  let host = places.data;
  for (const table of usedTables(contents, shape, 0, Infinity)) {
    if (filled === piece.length) {
      if (filled > 0) yield piece;
      piece = new Uint8Array(Math.min(perPiece, left) * clusterSize);
      filled = 0;
    }
    host += fillL2Table(piece.subarray(filled, filled + clusterSize), contents, shape, flags, table, host);
    filled += clusterSize;
    left -= 1;
  }
  if (filled > 0) yield piece;
}

/** Fills one table; returns how many data clusters it has, the first of which is host cluster `host`. */
function fillL2Table(
  bytes: Uint8Array,
  { stored, zero }: Contents,
  { clusterSize, clusterBits, l2Entries }: Geometry,
  flags: number,
  table: number,
  host: number,
): number {
  const first = table * l2Entries;
  const end = Math.min(stored.length, first + l2Entries);
  let placed = 0;
  for (const run of stored.runs(first, end)) {
    const start = (run.first - first) * clusterSize;
    const length = (run.end - run.first) * clusterSize;
    native.l2SetData(bytes, flags, clusterBits, start, length, (host + placed) * clusterSize);
    placed += run.end - run.first;
  }
  for (const run of zero?.runs(first, end) ?? []) {
    const start = (run.first - first) * clusterSize;
    native.l2SetZero(bytes, flags, clusterBits, start, (run.end - run.first) * clusterSize, false);
  }
  return placed;
}
