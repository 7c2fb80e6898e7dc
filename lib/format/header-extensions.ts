/** Header extensions: the list between the header and the backing file name, and the known ones among them. */
import { Qcow2Error } from '../errors.js';
import { encodeFeatureNameTable } from './features.js';
import { encodeName, hex } from './text.js';
import { alignUp, hostOffset, type HostOffset } from './units.js';

export const extensionTypes = {
  end: 0,
  backingFormat: 0xe2792aca,
  dataFile: 0x44415441,
  encryption: 0x0537be77,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
} as const;

const extensionNames = new Map<number, string>([
  [extensionTypes.end, 'end of the header extension area'],
  [extensionTypes.backingFormat, 'backing file format name'],
  [extensionTypes.dataFile, 'external data file name'],
  [extensionTypes.encryption, 'full disk encryption header pointer'],
  [extensionTypes.featureNames, 'feature name table'],
  [extensionTypes.bitmaps, 'bitmaps'],
]);

export interface HeaderExtension {
  readonly type: number;
  /** The data without its padding. */
  readonly data: Uint8Array;
}

/** An extension as it was found in an image. */
export interface FoundExtension extends HeaderExtension {
  /** Where its data begins in the file, bytes. */
  readonly offset: number;
}

export interface BitmapsExtension {
  readonly nbBitmaps: number;
  /** Bytes. */
  readonly directorySize: number;
  readonly directoryOffset: HostOffset;
}

/** Where the encryption header (of LUKS) is. */
export interface EncryptionPointer {
  readonly offset: HostOffset;
  /** Bytes. */
  readonly length: number;
}

const extensionHeaderSize = 8;
const bitmapsDataSize = 24;
const encryptionDataSize = 16;
export const maxBitmaps = 65535;
export const maxBitmapDirectoryBytes = 64 * 1024 * 1024;

/**
 * Collects the extensions between two offsets of the first cluster. The list ends with an end extension or with the
 * area. Damage does not throw but comes back beside what was found before it, because the feature names among that
 * are wanted for a better message.
 */
export function scanExtensions(
  cluster: Uint8Array,
  start: number,
  end: number,
): { extensions: FoundExtension[]; damage: Qcow2Error | null } {
  const view = new DataView(cluster.buffer, cluster.byteOffset, cluster.byteLength);
  const extensions: FoundExtension[] = [];
  const seen = new Set<number>();
  let at = start;
  while (at + extensionHeaderSize <= end) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    const offset = at + extensionHeaderSize;
    if (length > end - offset) {
      const finding = `is ${length} bytes long, but its area ends ${end - offset} bytes further at ${hex(end)}`;
      return { extensions, damage: extensionError(type, at, finding) };
    }
    if (type === extensionTypes.end) break;
    if (seen.has(type) && extensionNames.has(type)) {
      return { extensions, damage: extensionError(type, at, 'appears a second time; only one is allowed') };
    }
    seen.add(type);
    extensions.push({ type, offset, data: cluster.slice(offset, offset + length) });
    at = offset + alignUp(length, 8);
  }
  return { extensions, damage: null };
}

export function findExtension<E extends HeaderExtension>(
  extensions: readonly E[],
  name: Exclude<keyof typeof extensionTypes, 'end'>,
): E | undefined {
  return extensions.find((extension) => extension.type === extensionTypes[name]);
}

/** @throws Qcow2Error when the extension does not hold what the specification asks for */
export function decodeBitmapsExtension({ data, offset, type }: FoundExtension): BitmapsExtension {
  if (data.length !== bitmapsDataSize) {
    throw extensionError(type, offset, `has ${data.length} bytes of data; it must have ${bitmapsDataSize}`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const nbBitmaps = view.getUint32(0);
  const reserved = view.getUint32(4);
  const directorySize = view.getBigUint64(8);
  if (nbBitmaps === 0) throw extensionError(type, offset, 'counts 0 bitmaps; it must count at least 1');
  if (reserved !== 0) {
    throw extensionError(type, offset + 4, `has ${hex(reserved)} in its reserved field; it must be 0`);
  }
  if (directorySize === 0n) throw extensionError(type, offset + 8, 'has a bitmap directory of 0 bytes');
  if (nbBitmaps > maxBitmaps) {
    throw unsupported(type, offset, `counts ${nbBitmaps} bitmaps; at most ${maxBitmaps} are supported`);
  }
  if (directorySize > BigInt(maxBitmapDirectoryBytes)) {
    const finding = `has a bitmap directory of ${String(directorySize)} bytes; at most ${maxBitmapDirectoryBytes} are supported`;
    throw unsupported(type, offset + 8, finding);
  }
  return {
    nbBitmaps,
    directorySize: Number(directorySize),
    directoryOffset: hostOffset(safe(view.getBigUint64(16), type, offset + 16, 'bitmap directory offset')),
  };
}

export function encodeBitmapsExtension(bitmaps: BitmapsExtension): HeaderExtension {
  const data = new Uint8Array(bitmapsDataSize);
  const view = new DataView(data.buffer);
  view.setUint32(0, bitmaps.nbBitmaps);
  view.setBigUint64(8, BigInt(bitmaps.directorySize));
  view.setBigUint64(16, BigInt(bitmaps.directoryOffset));
  return { type: extensionTypes.bitmaps, data };
}

/** @throws Qcow2Error when the extension does not hold what the specification asks for */
export function decodeEncryptionPointer({ data, offset, type }: FoundExtension): EncryptionPointer {
  if (data.length !== encryptionDataSize) {
    throw extensionError(
      type,
      offset,
      `has ${data.length} bytes of data; it must have ${encryptionDataSize}`,
    );
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const length = safe(view.getBigUint64(8), type, offset + 8, 'length');
  if (length === 0) throw extensionError(type, offset + 8, 'points to an encryption header of 0 bytes');
  return { offset: hostOffset(safe(view.getBigUint64(0), type, offset, 'offset')), length };
}

export function encodeEncryptionPointer(pointer: EncryptionPointer): HeaderExtension {
  const data = new Uint8Array(encryptionDataSize);
  const view = new DataView(data.buffer);
  view.setBigUint64(0, BigInt(pointer.offset));
  view.setBigUint64(8, BigInt(pointer.length));
  return { type: extensionTypes.encryption, data };
}

export const backingFormatExtension = (format: string): HeaderExtension => ({
  type: extensionTypes.backingFormat,
  data: encodeName(format),
});

export const dataFileExtension = (name: string): HeaderExtension => ({
  type: extensionTypes.dataFile,
  data: encodeName(name),
});

export const featureNamesExtension = (): HeaderExtension => ({
  type: extensionTypes.featureNames,
  data: encodeFeatureNameTable(),
});

/** QEMU leaves the feature name table out of clusters this small, and of version 2 images. */
const largestClusterWithoutFeatureNames = 4096;
export const hasRoomForFeatureNames = (version: 2 | 3, clusterSize: number): boolean =>
  version === 3 && clusterSize > largestClusterWithoutFeatureNames;

const order: readonly number[] = [
  extensionTypes.backingFormat,
  extensionTypes.dataFile,
  extensionTypes.encryption,
  extensionTypes.featureNames,
  extensionTypes.bitmaps,
];

/** The bytes of an extension area with its end: known extensions in QEMU's order, then the unknown in theirs. */
export function encodeExtensions(extensions: readonly HeaderExtension[]): Uint8Array {
  const known = order.flatMap((type) => extensions.filter((extension) => extension.type === type));
  const unknown = extensions.filter((extension) => !order.includes(extension.type));
  const sorted = [...known, ...unknown];
  const size = sorted.reduce((sum, { data }) => sum + extensionHeaderSize + alignUp(data.length, 8), 0);
  const bytes = new Uint8Array(size + extensionHeaderSize);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { type, data } of sorted) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + extensionHeaderSize);
    at += extensionHeaderSize + alignUp(data.length, 8);
  }
  return bytes;
}

/** The error for an extension that breaks the specification. */
export function extensionError(type: number, offset: number, finding: string): Qcow2Error {
  return new Qcow2Error('ERR_QCOW2_INVALID_HEADER', message(type, offset, finding), details(type, offset));
}

function unsupported(type: number, offset: number, finding: string): Qcow2Error {
  return new Qcow2Error('ERR_QCOW2_UNSUPPORTED', message(type, offset, finding), details(type, offset));
}

function safe(value: bigint, type: number, offset: number, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw unsupported(type, offset, `has the ${what} ${hex(value)}, which is past 2^53`);
  }
  return Number(value);
}

const nameOf = (type: number): string => extensionNames.get(type) ?? `type ${hex(type)}`;
const message = (type: number, offset: number, finding: string): string =>
  `header extension "${nameOf(type)}" (byte ${offset}) ${finding}`;
const details = (type: number, offset: number): { offset: number; feature: string } => ({
  offset,
  feature: nameOf(type),
});
