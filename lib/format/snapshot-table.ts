/** The snapshot table: entries of variable length, kept with everything in them that this package does not know. */
import { Qcow2Error } from '../errors.js';
import { l1EntriesFor, maxL1TableBytes, tableEntrySize, type Geometry } from './geometry.js';
import { decodeName, encodeName, hex, quote } from './text.js';
import { alignUp, hostOffset, type HostOffset } from './units.js';

export const maxSnapshots = 65536;
export const maxSnapshotTableBytes = 64 * 1024 * 1024;
const maxExtraDataBytes = 1024;
const maxStringBytes = 0xffff;
/** Bytes of an entry without extra data and strings. */
export const minSnapshotEntrySize = 40;
/** Extra data with every field of the specification: VM state size, disk size, icount. */
export const fullExtraDataSize = 24;

const icountDisabled = 0xffff_ffff_ffff_ffffn;

export interface SnapshotEntry {
  readonly l1TableOffset: HostOffset;
  /** Entries. */
  readonly l1Size: number;
  readonly id: string;
  readonly name: string;
  /** The names as stored, which need not be UTF-8. */
  readonly idBytes: Uint8Array;
  readonly nameBytes: Uint8Array;
  /** Seconds since the Epoch, and nanoseconds. */
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  /** Nanoseconds the guest had run. */
  readonly vmClockNanoseconds: bigint;
  /** Bytes. */
  readonly vmStateSize: number;
  /** Virtual disk size, bytes; null where the entry does not tell, which means that of the image. */
  readonly diskSize: number | null;
  /** Instructions counted by record/replay; null when not counted or not told. */
  readonly icount: bigint | null;
  /** The extra data as stored; its length decides which of the three fields above are in it. */
  readonly extraData: Uint8Array;
}

export interface SnapshotTable {
  readonly entries: readonly SnapshotEntry[];
  /** Bytes from the start of the table to the end of its last entry with padding. */
  readonly length: number;
}

/**
 * Parses a snapshot table of which nothing but the number of entries is known beforehand.
 * @param bytes the start of the table, as much as the caller has read
 * @param count entries, from nb_snapshots
 * @param offset where the table begins in the file, for messages
 * @param available bytes between `offset` and the end of the file
 * @returns null when the table goes on past `bytes`: come back with more, up to `available`
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` or `ERR_QCOW2_UNSUPPORTED`
 */
export function parseSnapshotTable(
  bytes: Uint8Array,
  count: number,
  offset: HostOffset,
  available: number,
): SnapshotTable | null {
  const entries: SnapshotEntry[] = [];
  const view = viewOf(bytes);
  let start = 0;
  for (let index = 0; index < count; index += 1) {
    const place: Place = { index, count, offset: offset + start };
    checkEnd(place, start + minSnapshotEntrySize, available);
    if (start + minSnapshotEntrySize > bytes.length) return null;
    const fixed = new DataView(view.buffer, view.byteOffset + start, minSnapshotEntrySize);
    // The padding of the last entry may be missing: QEMU does not write it.
    const end = start + entrySize(fixed, place);
    checkEnd(place, end, available);
    if (end > bytes.length) return null;
    entries.push(parseEntry(bytes.subarray(start, end), place));
    start = alignUp(end, 8);
  }
  return { entries, length: start };
}

/**
 * The bytes of a snapshot table, each entry padded to 8 bytes.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when an entry or the table is larger than the format or QEMU allows
 */
export function encodeSnapshotTable(entries: readonly SnapshotEntry[]): Uint8Array {
  if (entries.length > maxSnapshots) {
    throw limit(`an image holds at most ${maxSnapshots} snapshots, not ${entries.length}`);
  }
  const encoded = entries.map(encodeEntry);
  const size = encoded.reduce((sum, { length }) => sum + length, 0);
  if (size > maxSnapshotTableBytes) {
    throw limit(`the snapshot table would take ${size} bytes; at most ${maxSnapshotTableBytes} are allowed`);
  }
  const table = new Uint8Array(size);
  let offset = 0;
  for (const entry of encoded) {
    table.set(entry, offset);
    offset += entry.length;
  }
  return table;
}

/** An entry with room for every field of the specification, as version 3 demands, and the disk size written out. */
export function withFullExtraData(entry: SnapshotEntry, diskSize: number): SnapshotEntry {
  const extraData = new Uint8Array(Math.max(entry.extraData.length, fullExtraDataSize));
  extraData.set(entry.extraData);
  return { ...entry, extraData, diskSize: entry.diskSize ?? diskSize };
}

/** Fills in the strings of a new entry from its id and name. */
export const snapshotNames = (
  id: string,
  name: string,
): Pick<SnapshotEntry, 'id' | 'name' | 'idBytes' | 'nameBytes'> => ({
  id,
  name,
  idBytes: encodeName(id),
  nameBytes: encodeName(name),
});

/**
 * What is wrong with the L1 table of a snapshot, or null. Such an entry can be listed but not opened or applied.
 * @param imageSize virtual size of the image, bytes, for entries that do not tell their own
 */
export function checkSnapshotL1(
  entry: SnapshotEntry,
  imageSize: number,
  shape: Geometry,
  fileSize: number,
): Qcow2Error | null {
  const finding = l1Finding(entry, imageSize, shape, fileSize);
  if (finding === null) return null;
  const message = `the L1 table of snapshot ${quote(entry.id)} at ${hex(entry.l1TableOffset)} ${finding}`;
  return new Qcow2Error('ERR_QCOW2_CORRUPT', message, {
    offset: entry.l1TableOffset,
    feature: 'snapshot table',
  });
}

function l1Finding(
  { l1TableOffset, l1Size, diskSize }: SnapshotEntry,
  imageSize: number,
  shape: Geometry,
  fileSize: number,
): string | null {
  const { clusterSize } = shape;
  if (l1TableOffset % clusterSize !== 0) return `is not aligned to the cluster size, ${clusterSize}`;
  const bytes = l1Size * tableEntrySize;
  if (bytes > maxL1TableBytes) return `has ${l1Size} entries, which is more than 32 MiB`;
  const needed = l1EntriesFor(diskSize ?? imageSize, shape);
  if (l1Size < needed) return `has ${l1Size} entries, but its disk needs ${needed}`;
  if (l1Size === 0) return null;
  if (l1TableOffset === 0) return 'lies over the header';
  const end = l1TableOffset + bytes;
  const inside = l1TableOffset < fileSize && end <= alignUp(fileSize, clusterSize);
  return inside ? null : `ends at ${hex(end)}, past the end of the file at ${hex(fileSize)}`;
}

/** Which entry is being parsed, for messages. */
interface Place {
  readonly index: number;
  readonly count: number;
  /** Where the entry begins in the file. */
  readonly offset: number;
}

function checkEnd(place: Place, end: number, available: number): void {
  if (end > available) {
    throw corrupt(place, `runs past the end of the file, ${available} bytes after the start of the table`);
  }
  if (end > maxSnapshotTableBytes) {
    throw unsupported(
      place,
      `ends ${end} bytes into the table; at most ${maxSnapshotTableBytes} are supported`,
    );
  }
}

/** Bytes of an entry without its padding. */
function entrySize(fixed: DataView, place: Place): number {
  const extraDataSize = fixed.getUint32(36);
  if (extraDataSize > maxExtraDataBytes) {
    const finding = `has ${extraDataSize} bytes of extra data; at most ${maxExtraDataBytes} are supported`;
    throw unsupported(place, finding);
  }
  return minSnapshotEntrySize + extraDataSize + fixed.getUint16(12) + fixed.getUint16(14);
}

function parseEntry(bytes: Uint8Array, place: Place): SnapshotEntry {
  const view = viewOf(bytes);
  const idAt = minSnapshotEntrySize + view.getUint32(36);
  const nameAt = idAt + view.getUint16(12);
  const extraData = bytes.slice(minSnapshotEntrySize, idAt);
  const extra = viewOf(extraData);
  const idBytes = bytes.slice(idAt, nameAt);
  const nameBytes = bytes.slice(nameAt);
  const icount = extraData.length >= 24 ? extra.getBigUint64(16) : icountDisabled;
  return {
    l1TableOffset: hostOffset(safe(view.getBigUint64(0), place, 'L1 table offset')),
    l1Size: view.getUint32(8),
    id: decodeName(idBytes),
    name: decodeName(nameBytes),
    idBytes,
    nameBytes,
    dateSeconds: view.getUint32(16),
    dateNanoseconds: view.getUint32(20),
    vmClockNanoseconds: view.getBigUint64(24),
    vmStateSize:
      extraData.length >= 8 ? safe(extra.getBigUint64(0), place, 'VM state size') : view.getUint32(32),
    diskSize: extraData.length >= 16 ? safe(extra.getBigUint64(8), place, 'disk size') : null,
    icount: icount === icountDisabled ? null : icount,
    extraData,
  };
}

function encodeEntry(entry: SnapshotEntry): Uint8Array {
  const { idBytes, nameBytes, extraData, vmStateSize, diskSize } = entry;
  if (idBytes.length > maxStringBytes || nameBytes.length > maxStringBytes) {
    throw limit(`id and name of a snapshot must be at most ${maxStringBytes} bytes long`);
  }
  if (extraData.length > maxExtraDataBytes) {
    throw limit(`the extra data of a snapshot must be at most ${maxExtraDataBytes} bytes long`);
  }
  if (vmStateSize > 0xffff_ffff && extraData.length < 8) {
    throw limit(`a VM state of ${vmStateSize} bytes needs extra data in the snapshot table entry`);
  }
  const idAt = minSnapshotEntrySize + extraData.length;
  const nameAt = idAt + idBytes.length;
  const bytes = new Uint8Array(alignUp(nameAt + nameBytes.length, 8));
  const view = viewOf(bytes);
  view.setBigUint64(0, BigInt(entry.l1TableOffset));
  view.setUint32(8, entry.l1Size);
  view.setUint16(12, idBytes.length);
  view.setUint16(14, nameBytes.length);
  view.setUint32(16, entry.dateSeconds);
  view.setUint32(20, entry.dateNanoseconds);
  view.setBigUint64(24, entry.vmClockNanoseconds);
  // Ignored where the extra data has the size in 64 bits.
  view.setUint32(32, vmStateSize > 0xffff_ffff ? 0 : vmStateSize);
  view.setUint32(36, extraData.length);
  bytes.set(extraData, minSnapshotEntrySize);
  if (extraData.length >= 8) view.setBigUint64(40, BigInt(vmStateSize));
  if (extraData.length >= 16 && diskSize !== null) view.setBigUint64(48, BigInt(diskSize));
  if (extraData.length >= 24) view.setBigUint64(56, entry.icount ?? icountDisabled);
  bytes.set(idBytes, idAt);
  bytes.set(nameBytes, nameAt);
  return bytes;
}

function safe(value: bigint, place: Place, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw unsupported(place, `has the ${what} ${hex(value)}, which is past 2^53`);
  }
  return Number(value);
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const corrupt = (place: Place, finding: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CORRUPT', at(place, finding), details(place));
const unsupported = (place: Place, finding: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_UNSUPPORTED', at(place, finding), details(place));
const limit = (finding: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_LIMIT', finding, { feature: 'snapshot table' });

const at = ({ index, count, offset }: Place, finding: string): string =>
  `snapshot table entry ${index + 1} of ${count} at ${hex(offset)} ${finding}`;
const details = ({ offset }: Place): { offset: number; feature: string } => ({
  offset,
  feature: 'snapshot table',
});
