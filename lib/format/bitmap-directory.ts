/** The bitmap directory: one entry per bitmap, kept with the extra data and flags that this package does not know. */
import { Qcow2Error } from '../errors.js';
import { tableEntrySize } from './geometry.js';
import { maxBitmapDirectoryBytes, maxBitmaps } from './header-extensions.js';
import { decodeName, encodeName, hex, quote } from './text.js';
import { alignUp, hostOffset, type HostOffset } from './units.js';

export const bitmapFlags = {
  /** Not saved correctly, may be inconsistent. */
  inUse: 1,
  /** Enabled: must record all writes. */
  auto: 2,
  /** May be used even though its extra data is not understood. */
  extraDataCompatible: 4,
} as const;
const knownFlags = bitmapFlags.inUse | bitmapFlags.auto | bitmapFlags.extraDataCompatible;

/** The only type there is. */
export const dirtyTrackingBitmap = 1;
export const minGranularityBits = 9;
export const maxGranularityBits = 31;
export const maxBitmapNameBytes = 1023;
const fixedSize = 24;

export interface BitmapEntry {
  readonly tableOffset: HostOffset;
  /** Entries of the bitmap table. */
  readonly tableSize: number;
  /** See {@link bitmapFlags}. */
  readonly flags: number;
  readonly type: number;
  /** A bit of the bitmap stands for 2^granularityBits guest bytes. */
  readonly granularityBits: number;
  readonly name: string;
  /** The name as stored, which need not be UTF-8. */
  readonly nameBytes: Uint8Array;
  readonly extraData: Uint8Array;
}

/**
 * Parses a bitmap directory.
 * @param bytes all of it: bitmap_directory_size bytes
 * @param count entries, from nb_bitmaps
 * @param offset where the directory begins in the file, for messages
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` or `ERR_QCOW2_UNSUPPORTED`. What concerns one bitmap alone is not thrown: see
 * {@link bitmapObstacle}.
 */
export function parseBitmapDirectory(bytes: Uint8Array, count: number, offset: HostOffset): BitmapEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const entries: BitmapEntry[] = [];
  const names = new Set<string>();
  let start = 0;
  for (let index = 0; index < count; index += 1) {
    const place: Place = { index, count, offset: offset + start };
    const end = start + entrySize(view, start, place);
    const entry = parseEntry(bytes, view, start, place);
    const key = Buffer.from(entry.nameBytes).toString('latin1');
    if (names.has(key)) throw corrupt(place, `repeats the name ${quote(entry.name)}`);
    names.add(key);
    entries.push(entry);
    start = alignUp(end, 8);
  }
  if (start !== bytes.length) {
    const message = `the bitmap directory at ${hex(offset)} has ${bytes.length} bytes, but its ${count} entries take ${start}`;
    throw new Qcow2Error('ERR_QCOW2_CORRUPT', message, { offset, feature: 'bitmap directory' });
  }
  return entries;
}

/**
 * The bytes of a bitmap directory, each entry padded to 8 bytes.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when a name, the number of entries or the whole is too large
 */
export function encodeBitmapDirectory(entries: readonly BitmapEntry[]): Uint8Array {
  if (entries.length > maxBitmaps) {
    throw limit(`an image holds at most ${maxBitmaps} bitmaps, not ${entries.length}`);
  }
  const sizes = entries.map(({ extraData, nameBytes }) =>
    alignUp(fixedSize + extraData.length + nameBytes.length, 8),
  );
  const size = sizes.reduce((sum, one) => sum + one, 0);
  if (size > maxBitmapDirectoryBytes) {
    throw limit(
      `the bitmap directory would take ${size} bytes; at most ${maxBitmapDirectoryBytes} are allowed`,
    );
  }
  const bytes = new Uint8Array(size);
  let start = 0;
  for (const [index, entry] of entries.entries()) {
    encodeEntry(bytes, start, entry);
    start += sizes[index] ?? 0;
  }
  return bytes;
}

/** Fills in both forms of the name of a new entry. */
export const bitmapName = (name: string): Pick<BitmapEntry, 'name' | 'nameBytes'> => ({
  name,
  nameBytes: encodeName(name),
});

/** Why a bitmap can be kept and listed, but not used, or null. Being in use is no such reason: see its flag. */
export function bitmapObstacle(entry: BitmapEntry): string | null {
  const { flags, type, granularityBits, extraData } = entry;
  if ((flags & ~knownFlags) !== 0) return `has the unknown flags ${hex((flags & ~knownFlags) >>> 0)}`;
  if (type !== dirtyTrackingBitmap) return `is of the unknown type ${type}`;
  if (granularityBits < minGranularityBits || granularityBits > maxGranularityBits) {
    return `has a granularity of 2^${granularityBits} bytes; 2^${minGranularityBits} to 2^${maxGranularityBits} are supported`;
  }
  if (extraData.length > 0 && (flags & bitmapFlags.extraDataCompatible) === 0) {
    return `has ${extraData.length} bytes of extra data that must be understood before it is used`;
  }
  return null;
}

/** Entries that the table of a bitmap needs for a virtual disk of `size` bytes. */
export function bitmapTableEntriesFor(size: number, granularityBits: number, clusterSize: number): number {
  const bits = Math.ceil(size / 2 ** granularityBits);
  return Math.ceil(Math.ceil(bits / 8) / clusterSize);
}

/**
 * What is wrong with the size or place of the table of a usable bitmap, or null. The size of a bitmap in use may be
 * out of date.
 */
export function checkBitmapTable(
  entry: BitmapEntry,
  diskSize: number,
  clusterSize: number,
  fileSize: number,
): Qcow2Error | null {
  const finding = tableFinding(entry, diskSize, clusterSize, fileSize);
  if (finding === null) return null;
  const message = `the table of bitmap ${quote(entry.name)} at ${hex(entry.tableOffset)} ${finding}`;
  return new Qcow2Error('ERR_QCOW2_CORRUPT', message, {
    offset: entry.tableOffset,
    feature: 'bitmap directory',
  });
}

function tableFinding(
  { tableOffset, tableSize, granularityBits, flags }: BitmapEntry,
  diskSize: number,
  clusterSize: number,
  fileSize: number,
): string | null {
  if (tableOffset % clusterSize !== 0) return `is not aligned to the cluster size, ${clusterSize}`;
  const needed = bitmapTableEntriesFor(diskSize, granularityBits, clusterSize);
  if (tableSize !== needed && (flags & bitmapFlags.inUse) === 0) {
    return `has ${tableSize} entries, but a disk of ${diskSize} bytes needs ${needed}`;
  }
  if (tableSize === 0) return null;
  if (tableOffset === 0) return 'lies over the header';
  const end = tableOffset + tableSize * tableEntrySize;
  const inside = tableOffset < fileSize && end <= alignUp(fileSize, clusterSize);
  return inside ? null : `ends at ${hex(end)}, past the end of the file at ${hex(fileSize)}`;
}

/** Which entry is being parsed, for messages. */
interface Place {
  readonly index: number;
  readonly count: number;
  /** Where the entry begins in the file. */
  readonly offset: number;
}

/** Bytes of an entry without its padding; the entry with its padding is inside the directory. */
function entrySize(view: DataView, start: number, place: Place): number {
  const room = view.byteLength - start;
  if (room < fixedSize) throw corrupt(place, `does not fit: ${room} bytes are left of the directory`);
  const nameSize = view.getUint16(start + 18);
  const size = fixedSize + view.getUint32(start + 20) + nameSize;
  if (nameSize === 0) throw corrupt(place, 'has no name');
  if (nameSize > maxBitmapNameBytes) {
    const finding = `has a name of ${nameSize} bytes; at most ${maxBitmapNameBytes} are supported`;
    throw new Qcow2Error('ERR_QCOW2_UNSUPPORTED', at(place, finding), details(place));
  }
  if (alignUp(size, 8) > room) {
    throw corrupt(place, `takes ${alignUp(size, 8)} bytes, but ${room} are left of the directory`);
  }
  return size;
}

function parseEntry(bytes: Uint8Array, view: DataView, start: number, place: Place): BitmapEntry {
  const tableOffset = view.getBigUint64(start);
  if (tableOffset > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw corrupt(place, `has its table at ${hex(tableOffset)}, past the end of any file`);
  }
  const nameAt = start + fixedSize + view.getUint32(start + 20);
  const nameBytes = bytes.slice(nameAt, nameAt + view.getUint16(start + 18));
  return {
    tableOffset: hostOffset(Number(tableOffset)),
    tableSize: view.getUint32(start + 8),
    flags: view.getUint32(start + 12),
    type: view.getUint8(start + 16),
    granularityBits: view.getUint8(start + 17),
    name: decodeName(nameBytes),
    nameBytes,
    extraData: bytes.slice(start + fixedSize, nameAt),
  };
}

function encodeEntry(bytes: Uint8Array, start: number, entry: BitmapEntry): void {
  const { nameBytes, extraData } = entry;
  if (nameBytes.length === 0 || nameBytes.length > maxBitmapNameBytes) {
    throw limit(`the name of a bitmap must have 1 to ${maxBitmapNameBytes} bytes, not ${nameBytes.length}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + start);
  view.setBigUint64(0, BigInt(entry.tableOffset));
  view.setUint32(8, entry.tableSize);
  view.setUint32(12, entry.flags);
  view.setUint8(16, entry.type);
  view.setUint8(17, entry.granularityBits);
  view.setUint16(18, nameBytes.length);
  view.setUint32(20, extraData.length);
  bytes.set(extraData, start + fixedSize);
  bytes.set(nameBytes, start + fixedSize + extraData.length);
}

const corrupt = (place: Place, finding: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CORRUPT', at(place, finding), details(place));
const limit = (finding: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_LIMIT', finding, { feature: 'bitmap directory' });
const at = ({ index, count, offset }: Place, finding: string): string =>
  `bitmap directory entry ${index + 1} of ${count} at ${hex(offset)} ${finding}`;
const details = ({ offset }: Place): { offset: number; feature: string } => ({
  offset,
  feature: 'bitmap directory',
});
