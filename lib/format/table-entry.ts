/**
 * Entries of the L1 table, the refcount table and bitmap tables, read from and written to big-endian bytes as plain
 * numbers: no allocation and no BigInt per entry.
 *
 * Readers answer with a host offset (0 means unallocated) or with one of the negative {@link EntryProblem} values.
 */
import { native } from '../native.js';
import { alignDown } from './units.js';
import { tableEntrySize } from './geometry.js';

/** Why an entry breaks the specification. */
export const EntryProblem = {
  reservedBits: -1,
  /** The offset is no multiple of the cluster size. */
  unaligned: -2,
  /** The offset is past 2^53 - 1, further than this package can address. */
  tooFar: -3,
} as const;
export type EntryProblem = (typeof EntryProblem)[keyof typeof EntryProblem];

const two32 = 0x1_0000_0000;
const bit63 = 0x8000_0000;
/** Bits 0 to 8 of an entry: below any cluster size, so no offset has them. */
const lowReserved = 0x1ff;
/** Bits 56 to 62, in the upper word: L1 entries end their offset at bit 55. */
const highReserved = 0x7f00_0000;
/** Bits 32 to 55 of an entry, in the upper word: the upper part of its offset. */
const offsetHigh = 0x00ff_ffff;
/** Upper words from here on make an offset past 2^53 - 1. */
const tooFarHigh = 0x20_0000;

/** A view for the functions below; make one per table, not per entry. */
export function tableView(table: Uint8Array): DataView {
  return new DataView(table.buffer, table.byteOffset, alignDown(table.byteLength, tableEntrySize));
}

/** How many entries a view holds. */
export const tableLength = (table: DataView): number => table.byteLength / tableEntrySize;

const runEnds = new Float64Array(2);

/** The index of the first entry from `index` on that is not 0; {@link tableLength} when there is none. */
export function nextEntry(table: DataView, index: number): number {
  const length = tableLength(table);
  if (index >= length) return length;
  const at = index * tableEntrySize;
  if (table.getUint32(at) !== 0 || table.getUint32(at + 4) !== 0) return index;
  // Most tables of new images are zeros but for a few entries.
  const rest = new Uint8Array(table.buffer, table.byteOffset + at, table.byteLength - at);
  native.zeroRuns(rest, tableEntrySize, runEnds);
  return index + (runEnds[1] ?? 0) / tableEntrySize;
}

/** Host offset of the L2 table of an L1 entry, or an {@link EntryProblem}. */
export function readL1Entry(table: DataView, index: number, clusterSize: number): number {
  const high = table.getUint32(index * tableEntrySize);
  const low = table.getUint32(index * tableEntrySize + 4);
  if ((high & highReserved) !== 0) return EntryProblem.reservedBits;
  return offsetOf(high & ~bit63, low, clusterSize);
}

/** Whether an L1 entry has COPIED (bit 63) set: the refcount of its L2 table is exactly one. */
export function isL1EntryCopied(table: DataView, index: number): boolean {
  return (table.getUint32(index * tableEntrySize) & bit63) !== 0;
}

export function writeL1Entry(table: DataView, index: number, offset: number, copied: boolean): void {
  table.setUint32(index * tableEntrySize, (highOf(offset) | (copied ? bit63 : 0)) >>> 0);
  table.setUint32(index * tableEntrySize + 4, offset % two32);
}

/** Points the standard L2 entry at byte `position` of a table at another host cluster; its flags stay as they are. */
export function moveL2Entry(table: DataView, position: number, offset: number): void {
  table.setUint32(position, ((table.getUint32(position) & ~offsetHigh) | highOf(offset)) >>> 0);
  table.setUint32(position + 4, (table.getUint32(position + 4) & lowReserved) + (offset % two32));
}

/** Host offset of the refcount block of a refcount table entry, or an {@link EntryProblem}. */
export function readRefcountTableEntry(table: DataView, index: number, clusterSize: number): number {
  const high = table.getUint32(index * tableEntrySize);
  const low = table.getUint32(index * tableEntrySize + 4);
  return offsetOf(high, low, clusterSize);
}

export function writeRefcountTableEntry(table: DataView, index: number, offset: number): void {
  table.setUint32(index * tableEntrySize, highOf(offset));
  table.setUint32(index * tableEntrySize + 4, offset % two32);
}

/** Host offset of the bitmap data of a bitmap table entry (0: none, see {@link isBitmapAllOnes}), or an {@link EntryProblem}. */
export function readBitmapTableEntry(table: DataView, index: number, clusterSize: number): number {
  const high = table.getUint32(index * tableEntrySize);
  const low = table.getUint32(index * tableEntrySize + 4);
  if (high === 0 && low === 1) return 0;
  if ((high & (highReserved | bit63)) !== 0) return EntryProblem.reservedBits;
  return offsetOf(high, low, clusterSize);
}

/** Whether a bitmap table entry without data stands for a cluster of ones (else it stands for zeros). */
export function isBitmapAllOnes(table: DataView, index: number): boolean {
  return table.getUint32(index * tableEntrySize) === 0 && table.getUint32(index * tableEntrySize + 4) === 1;
}

/** Points a bitmap table entry at bitmap data, or, with offset 0, makes it a cluster of zeros. */
export const writeBitmapTableEntry = writeRefcountTableEntry;

/** Makes a bitmap table entry stand for a cluster of ones without storing it. */
export function writeBitmapAllOnes(table: DataView, index: number): void {
  table.setUint32(index * tableEntrySize, 0);
  table.setUint32(index * tableEntrySize + 4, 1);
}

/** What to say of an {@link EntryProblem}, after the name of the entry. */
export function describeEntryProblem(problem: number): string {
  if (problem === EntryProblem.reservedBits) return 'has reserved bits set';
  if (problem === EntryProblem.unaligned) return 'is not aligned to a cluster';
  return 'points past 2^53, further than this package can address';
}

function offsetOf(high: number, low: number, clusterSize: number): number {
  if ((low & lowReserved) !== 0) return EntryProblem.reservedBits;
  // Clusters are at most 2 MiB, so the lower word alone tells the alignment.
  if ((low & (clusterSize - 1)) !== 0) return EntryProblem.unaligned;
  if (high >>> 0 >= tooFarHigh) return EntryProblem.tooFar;
  return high * two32 + low;
}

const highOf = (offset: number): number => Math.floor(offset / two32);
