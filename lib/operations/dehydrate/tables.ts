/**
 * What leaves an image of its tables: entries that say where something is. A table of a damaged image may hold anything, the
 * guest's data too; an entry that breaks the specification is replaced by one that breaks it in the same way and says no more.
 */
import { tableEntrySize, type Geometry } from '../../format/geometry.js';
import {
  EntryProblem,
  isL1EntryCopied,
  readBitmapTableEntry,
  readL1Entry,
  readRefcountTableEntry,
  tableLength,
  tableView,
} from '../../format/table-entry.js';
import {
  InvalidEntry,
  L2Flag,
  mismatchStride,
  native,
  RunKind,
  runStride,
  type ReferenceCounts,
} from '../../native.js';

/** How far past the end of the file an offset is still taken for one: files get cut off. */
const plausibleFactor = 16;
/** Refcounts that differ from what was counted by more than this are told as differing, no more. */
const plausibleExcess = 64;

const copied = 1n << 63n;
const compressed = 1n << 62n;
const offsetMask = 0x00ff_ffff_ffff_fe00n;
/** Reserved in entries of every kind of table. */
const reservedBit = 2n;
/** Extended L2 entries: a subcluster that is both allocated and zero. */
const contradiction = (1n << 32n) | 1n;

/** What is known of the image that tables belong to. */
export interface TableContext {
  readonly geometry: Geometry;
  readonly l2Flags: number;
  /** Length of the image file, bytes. */
  readonly fileSize: number;
}

type ReadEntry = (table: DataView, index: number, clusterSize: number) => number;

const withFlags: Record<'l1' | 'refcount table' | 'bitmap table', { read: ReadEntry; hasCopied: boolean }> = {
  l1: { read: readL1Entry, hasCopied: true },
  'refcount table': { read: readRefcountTableEntry, hasCopied: false },
  'bitmap table': { read: readBitmapTableEntry, hasCopied: false },
};

/** Cleans entries of a table of offsets, in place. */
export function cleanOffsets(
  table: Uint8Array,
  kind: 'l1' | 'refcount table' | 'bitmap table',
  { geometry, fileSize }: TableContext,
): void {
  const { read, hasCopied } = withFlags[kind];
  const view = tableView(table);
  for (let index = 0; index < tableLength(view); index++) {
    const offset = read(view, index, geometry.clusterSize);
    if (offset >= 0 && offset < fileSize * plausibleFactor) continue;
    const at = index * tableEntrySize;
    const flags = hasCopied && isL1EntryCopied(view, index) ? copied : 0n;
    const place = placeOf(view.getBigUint64(at), { geometry, fileSize });
    view.setBigUint64(at, flags | brokenOffset(offset, place, { geometry, fileSize }));
  }
}

/** An offset, with bits around it, that is wrong as the one that was read. */
function brokenOffset(
  problem: number,
  place: bigint,
  { geometry, fileSize }: Pick<TableContext, 'geometry' | 'fileSize'>,
): bigint {
  if (problem === EntryProblem.reservedBits) return place | reservedBit;
  if (problem === EntryProblem.unaligned) return place | BigInt(geometry.clusterSize / 2);
  if (problem === EntryProblem.tooFar) return 1n << 53n;
  return endOf({ geometry, fileSize });
}

/** The cluster that a word seems to refer to, if it is one of the file, else 0. */
function placeOf(word: bigint, { geometry, fileSize }: Pick<TableContext, 'geometry' | 'fileSize'>): bigint {
  const place = word & offsetMask & ~BigInt(geometry.clusterSize - 1);
  return place < BigInt(fileSize) ? place : 0n;
}

/** The first cluster past the end of the file. */
const endOf = ({ geometry, fileSize }: Pick<TableContext, 'geometry' | 'fileSize'>): bigint =>
  BigInt(Math.ceil(fileSize / geometry.clusterSize)) * BigInt(geometry.clusterSize);

/** Cleans an L2 table, in place. Returns how many entries were replaced. */
export function cleanL2Table(table: Uint8Array, context: TableContext): number {
  const { geometry, l2Flags, fileSize } = context;
  const { clusterSize, clusterBits, l2EntrySize } = geometry;
  const entries = table.length / l2EntrySize;
  const runs = new Float64Array(512 * runStride);
  const view = tableView(table);
  let replaced = 0;
  let guest = 0;
  while (guest < entries * clusterSize) {
    const first = guest / clusterSize;
    const count = native.mapL2(table, l2Flags, clusterBits, first, entries - first, runs);
    for (let i = 0; i < count * runStride; i += runStride) {
      const [kind, length = 0, host = 0, aux = 0] = runs.subarray(i, i + runStride);
      const from = Math.floor(guest / clusterSize);
      guest += length;
      const to = Math.ceil(guest / clusterSize);
      const reason = problemOf(kind as RunKind, host, length, aux, fileSize, l2Flags);
      if (reason === null) continue;
      for (let index = from; index < to; index++) replaceL2Entry(view, index * l2EntrySize, reason, context);
      replaced += to - from;
    }
  }
  return replaced;
}

/** Why the entries of a run are not to be believed, or null. */
function problemOf(
  kind: RunKind,
  host: number,
  length: number,
  aux: number,
  fileSize: number,
  l2Flags: number,
): InvalidEntry | null {
  if (kind === RunKind.invalid) return aux as InvalidEntry;
  if ((l2Flags & L2Flag.externalData) !== 0) return null;
  if (kind === RunKind.compressed) return host >= fileSize ? InvalidEntry.pastEnd : null;
  return host + length > Math.max(fileSize, 1) * plausibleFactor && host > 0 ? InvalidEntry.pastEnd : null;
}

function replaceL2Entry(view: DataView, at: number, reason: InvalidEntry, context: TableContext): void {
  const { geometry, l2Flags } = context;
  const word = view.getBigUint64(at);
  const isCompressed = (word & compressed) !== 0n;
  const flags = word & copied;
  const place = isCompressed ? 0n : placeOf(word, context);
  const half = BigInt(geometry.clusterSize / 2);
  const replacements: Record<InvalidEntry, bigint> = {
    // All bits of a compressed entry's offset, which goes further than any file.
    [InvalidEntry.reservedBits]: isCompressed ? brokenStream(geometry) : flags | place | reservedBit,
    [InvalidEntry.unalignedOffset]: flags | place | half,
    [InvalidEntry.zeroFlagInV2]: flags | place | 1n,
    [InvalidEntry.subclusterBitmap]: isCompressed ? compressed : flags | place,
    [InvalidEntry.compressedInDataFile]: compressed,
    [InvalidEntry.copiedWithoutHost]: copied,
    [InvalidEntry.pastEnd]: (isCompressed ? compressed : flags) | endOf(context),
  };
  view.setBigUint64(at, replacements[reason]);
  if ((l2Flags & L2Flag.extended) === 0) return;
  view.setBigUint64(at + 8, reason === InvalidEntry.subclusterBitmap ? contradiction : 0n);
}

function brokenStream({ clusterBits }: Geometry): bigint {
  const offsetBits = BigInt(62 - (clusterBits - 8));
  return offsetBits > 56n ? compressed | (1n << 56n) : compressed;
}

/** Cleans the refcounts of a block, in place: those that are far too high are told as too high, and no more. */
export function cleanRefcountBlock(
  block: Uint8Array,
  firstCluster: number,
  counts: ReferenceCounts,
  { refcountOrder, maxRefcount }: Geometry,
): void {
  const out = new Float64Array(1024 * mismatchStride);
  for (let from = 0; ;) {
    const found = counts.compareBlock(block, refcountOrder, firstCluster, from, out);
    for (let i = 0; i < found * mismatchStride; i += mismatchStride) {
      const [first = 0, count = 0, stored = 0, counted = 0] = out.subarray(i, i + mismatchStride);
      from = first + count - firstCluster;
      if (stored <= counted + plausibleExcess) continue;
      const value = Math.min(counted + 1, maxRefcount);
      native.refcountSet(block, refcountOrder, first - firstCluster, count, value);
    }
    if (found < 1024) return;
  }
}
