/** The header: what the first cluster says of the image, checked against the specification and the file's length. */
import { Qcow2Error } from '../errors.js';
import { decodeFeatureNameTable, hasFeature, noFeatures, refuseUnknownFeatures } from './features.js';
import type { FeatureFields } from './features.js';
import {
  geometry,
  l1EntriesFor,
  maxClusterBits,
  maxL1TableBytes,
  minClusterBits,
  minExtendedL2ClusterBits,
  tableEntrySize,
  type Geometry,
} from './geometry.js';
import {
  decodeBitmapsExtension,
  decodeEncryptionPointer,
  extensionError,
  findExtension,
  scanExtensions,
} from './header-extensions.js';
import type { BitmapsExtension, EncryptionPointer, FoundExtension } from './header-extensions.js';
import {
  compressionTypes,
  cryptMethods,
  encodeField,
  headerFields,
  headerLengthV2,
  invalidField,
  magic,
  minHeaderLengthV3,
  readField,
  readField64,
  unsupportedField,
} from './header-fields.js';
import type { CompressionType, CryptMethod, HeaderField } from './header-fields.js';
import { checkTables } from './header-tables.js';
import { decodePath, hex } from './text.js';
import { hostOffset, type HostOffset } from './units.js';

/** The fixed fields of the header. */
export interface HeaderValues extends FeatureFields {
  /** Version of the format. */
  readonly version: 2 | 3;
  /** Offset in the file, bytes; 0 without a backing file name. */
  readonly backingFileOffset: number;
  /** Bytes; meaningless without a backing file name. */
  readonly backingFileSize: number;
  /** The cluster size is 1 << clusterBits bytes; 9 to 21. */
  readonly clusterBits: number;
  /** Virtual disk size, bytes. */
  readonly size: number;
  /** How guest data is encrypted. */
  readonly cryptMethod: CryptMethod;
  /** Entries of the active L1 table. */
  readonly l1Size: number;
  /** Of the active L1 table, bytes in the file. */
  readonly l1TableOffset: HostOffset;
  /** Of the refcount table, bytes in the file. */
  readonly refcountTableOffset: HostOffset;
  /** Clusters that the refcount table takes. */
  readonly refcountTableClusters: number;
  /** Entries of the snapshot table; 0 to 65536. */
  readonly nbSnapshots: number;
  /** Of the snapshot table, bytes in the file. Only meaningful when there are snapshots. */
  readonly snapshotsOffset: HostOffset;
  /** A refcount has 1 << refcountOrder bits; 0 to 6, and 4 in version 2. */
  readonly refcountOrder: number;
  /** Bytes: 72 in version 2. */
  readonly headerLength: number;
  /** How compressed clusters are compressed; zlib in version 2. */
  readonly compressionType: CompressionType;
  /** The bytes of the header after compression_type, kept as they are. */
  readonly unknownFields: Uint8Array;
}

/** A parsed header. */
export interface Header extends HeaderValues {
  /** Sizes that follow from the header, such as those of clusters and of table entries. */
  readonly geometry: Geometry;
  /** Name of the backing file, or null. Untrusted text. */
  readonly backingFile: string | null;
  /** Format the image gives for its backing file, or null. Untrusted text. */
  readonly backingFormat: string | null;
  /** Name of the external data file where the image has one and names it, or null. Untrusted text. */
  readonly dataFile: string | null;
  /** The bitmaps extension where it is to be trusted (its autoclear bit is set), or null. */
  readonly bitmaps: BitmapsExtension | null;
  /** Where the LUKS header is; null unless crypt_method is luks. */
  readonly encryption: EncryptionPointer | null;
  /** All extensions in their order, unknown ones too. */
  readonly extensions: readonly FoundExtension[];
  /** What is wrong with the refcount table, when it was tolerated. */
  readonly problems: readonly Qcow2Error[];
}

export interface ParseHeaderOptions {
  /** `refcounts`: what is wrong with the refcount table is put into `problems` instead of thrown, for check and repair. */
  tolerate?: 'refcounts';
}

const maxBackingNameBytes = 1023;

/**
 * How many bytes from the start of the file {@link parseHeader} needs: the first cluster, or the file if that is less.
 * @param start the first 72 bytes of the file or more, or all of a shorter one
 * @throws Qcow2Error when magic, version or cluster_bits are wrong
 */
export function headerBytesNeeded(start: Uint8Array, fileSize: number): number {
  const { clusterBits } = parsePreamble(viewOf(start));
  return Math.min(fileSize, 2 ** clusterBits);
}

/**
 * Parses and checks the header.
 * @param start as many bytes from the start of the file as {@link headerBytesNeeded} tells, or more
 * @param fileSize length of the file, bytes
 * @throws Qcow2Error `ERR_QCOW2_NOT_QCOW2`, `ERR_QCOW2_INVALID_HEADER`, `ERR_QCOW2_UNSUPPORTED`
 */
export function parseHeader(start: Uint8Array, fileSize: number, options: ParseHeaderOptions = {}): Header {
  const { version, clusterBits } = parsePreamble(viewOf(start));
  const cluster = firstCluster(start, fileSize, 2 ** clusterBits);
  const view = viewOf(cluster);
  const headerLength = parseHeaderLength(view, version, cluster.length, fileSize);
  const backingFileOffset = readField64(view, 'backingFileOffset');
  const { extensions, damage } = scanExtensions(
    cluster,
    headerLength,
    extensionAreaEnd(backingFileOffset, headerLength, cluster.length),
  );
  const featureFields = parseFeatureFields(view, version, extensions);
  if (damage !== null) throw damage;

  const refcountOrder = parseRefcountOrder(view, version);
  const shape = geometry(clusterBits, refcountOrder, hasFeature(featureFields, 'extendedL2'));
  const cryptMethod = parseCryptMethod(view);
  const backing = parseBackingFile(cluster, view, headerLength);
  const header: Header = {
    version,
    clusterBits,
    headerLength,
    refcountOrder,
    cryptMethod,
    ...featureFields,
    ...backing,
    size: safeField(view, 'size'),
    l1Size: readField(view, 'l1Size'),
    l1TableOffset: hostOffset(safeField(view, 'l1TableOffset')),
    refcountTableOffset: parseRefcountTableOffset(view, options),
    refcountTableClusters: readField(view, 'refcountTableClusters'),
    nbSnapshots: readField(view, 'nbSnapshots'),
    snapshotsOffset: parseSnapshotsOffset(view),
    compressionType: parseCompressionType(view, headerLength, featureFields),
    unknownFields: cluster.slice(
      Math.min(headerFields.compressionType.offset + 1, headerLength),
      headerLength,
    ),
    geometry: shape,
    backingFormat: parseName(extensions, 'backingFormat'),
    dataFile: hasFeature(featureFields, 'externalData') ? parseName(extensions, 'dataFile') : null,
    bitmaps: parseBitmaps(extensions, featureFields),
    encryption: parseEncryption(extensions, cryptMethod),
    extensions,
    problems: [],
  };
  checkL1Size(header);
  return { ...header, problems: checkTables(header, fileSize, options.tolerate === 'refcounts') };
}

/** The bytes of the fixed fields, `headerLength` of them. */
export function encodeHeader(header: HeaderValues): Uint8Array {
  const bytes = new Uint8Array(header.headerLength);
  const values: Record<HeaderField, number | bigint> = {
    ...header,
    magic,
    cryptMethod: cryptMethods.indexOf(header.cryptMethod),
    compressionType: compressionTypes.indexOf(header.compressionType),
  };
  for (const field of Object.keys(headerFields) as HeaderField[]) {
    const { offset, size } = headerFields[field];
    if (offset + size <= bytes.length) bytes.set(encodeField(field, values[field]), offset);
  }
  const unknownAt = headerFields.compressionType.offset + 1;
  if (bytes.length > unknownAt)
    bytes.set(header.unknownFields.subarray(0, bytes.length - unknownAt), unknownAt);
  return bytes;
}

/** Magic, version and cluster_bits: what must be known to read the rest. */
function parsePreamble(view: DataView): { version: 2 | 3; clusterBits: number } {
  if (view.byteLength < 4 || readField(view, 'magic') !== magic) {
    throw new Qcow2Error(
      'ERR_QCOW2_NOT_QCOW2',
      `no QCOW2 image: the file must begin with the bytes ${hex(magic)} ("QFI" and 0xfb)`,
      { offset: 0, feature: headerFields.magic.spec },
    );
  }
  if (view.byteLength < headerLengthV2) {
    throw headerCutShort(view.byteLength, headerLengthV2);
  }
  const version = readField(view, 'version');
  if (version !== 2 && version !== 3) {
    throw unsupportedField('version', `is ${version}; only versions 2 and 3 are supported`);
  }
  const clusterBits = readField(view, 'clusterBits');
  if (clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    const finding = `is ${clusterBits}; it must be ${minClusterBits} to ${maxClusterBits} (512 bytes to 2 MiB)`;
    if (clusterBits < minClusterBits) throw invalidField('clusterBits', finding);
    throw unsupportedField('clusterBits', finding);
  }
  return { version, clusterBits };
}

/** The first cluster, filled up with zeros where the file ends inside it. */
function firstCluster(start: Uint8Array, fileSize: number, clusterSize: number): Uint8Array {
  if (start.length < Math.min(fileSize, clusterSize)) {
    throw headerCutShort(start.length, Math.min(fileSize, clusterSize));
  }
  if (start.length >= clusterSize) return start.subarray(0, clusterSize);
  const padded = new Uint8Array(clusterSize);
  padded.set(start);
  return padded;
}

function headerCutShort(got: number, wanted: number): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_INVALID_HEADER',
    `the file ends inside its header: ${wanted} bytes wanted, ${got} there`,
    { offset: got, feature: 'header' },
  );
}

function parseHeaderLength(view: DataView, version: 2 | 3, clusterSize: number, fileSize: number): number {
  if (version === 2) return headerLengthV2;
  if (fileSize < minHeaderLengthV3) throw headerCutShort(fileSize, minHeaderLengthV3);
  const headerLength = readField(view, 'headerLength');
  if (headerLength < minHeaderLengthV3 || headerLength > clusterSize || headerLength % 8 !== 0) {
    const want = `a multiple of 8 from ${minHeaderLengthV3} to the cluster size, ${clusterSize}`;
    throw invalidField('headerLength', `is ${headerLength}; it must be ${want}`);
  }
  return headerLength;
}

/** Extensions end where the backing file name begins; a misplaced name is refused later. */
function extensionAreaEnd(backingFileOffset: bigint, headerLength: number, clusterSize: number): number {
  const bounded = backingFileOffset >= BigInt(headerLength) && backingFileOffset <= BigInt(clusterSize);
  return bounded ? Number(backingFileOffset) : clusterSize;
}

function parseFeatureFields(
  view: DataView,
  version: 2 | 3,
  extensions: readonly FoundExtension[],
): FeatureFields {
  if (version === 2) return noFeatures;
  const fields: FeatureFields = {
    incompatible: readField64(view, 'incompatible'),
    compatible: readField64(view, 'compatible'),
    autoclear: readField64(view, 'autoclear'),
  };
  const names = findExtension(extensions, 'featureNames');
  refuseUnknownFeatures(
    fields.incompatible,
    names === undefined ? [] : decodeFeatureNameTable(names.data),
    headerFields.incompatible.offset,
  );
  if (hasFeature(fields, 'rawExternal') && !hasFeature(fields, 'externalData')) {
    throw invalidField('autoclear', 'has "raw external data" set, but the image has no external data file');
  }
  if (hasFeature(fields, 'extendedL2') && readField(view, 'clusterBits') < minExtendedL2ClusterBits) {
    const want = `extended L2 entries need ${minExtendedL2ClusterBits} or more`;
    throw invalidField('clusterBits', `is ${readField(view, 'clusterBits')}; ${want}`);
  }
  return fields;
}

function parseRefcountOrder(view: DataView, version: 2 | 3): number {
  if (version === 2) return 4;
  const order = readField(view, 'refcountOrder');
  if (order > 6) throw invalidField('refcountOrder', `is ${order}; it must be 0 to 6 (1 to 64 bits)`);
  return order;
}

function parseCryptMethod(view: DataView): CryptMethod {
  const value = readField(view, 'cryptMethod');
  const method = cryptMethods[value];
  if (method === undefined) {
    throw unsupportedField('cryptMethod', `is ${value}; known are 0 (none), 1 (AES) and 2 (LUKS)`);
  }
  return method;
}

function parseCompressionType(view: DataView, headerLength: number, fields: FeatureFields): CompressionType {
  const value = headerLength > headerFields.compressionType.offset ? readField(view, 'compressionType') : 0;
  const bit = hasFeature(fields, 'compressionType');
  if (bit !== (value !== 0)) {
    const said = bit ? 'set, which needs a compression type other than 0' : 'clear, which needs it to be 0';
    throw invalidField('compressionType', `is ${value}, but incompatible feature bit 3 is ${said}`);
  }
  const type = compressionTypes[value];
  if (type === undefined) {
    throw unsupportedField('compressionType', `is ${value}; known are 0 (zlib) and 1 (zstd)`);
  }
  return type;
}

function parseBackingFile(
  cluster: Uint8Array,
  view: DataView,
  headerLength: number,
): Pick<Header, 'backingFile' | 'backingFileOffset' | 'backingFileSize'> {
  const offset = safeField(view, 'backingFileOffset');
  const size = readField(view, 'backingFileSize');
  if (offset === 0) return { backingFile: null, backingFileOffset: 0, backingFileSize: size };
  if (size > maxBackingNameBytes) {
    throw invalidField('backingFileSize', `is ${size}; it must be ${maxBackingNameBytes} or less`);
  }
  if (offset < headerLength || offset + size > cluster.length) {
    throw invalidField(
      'backingFileOffset',
      `puts the backing file name at ${hex(offset)}..${hex(offset + size)}; ` +
        `it must be between the header (${hex(headerLength)}) and the end of the first cluster (${hex(cluster.length)})`,
    );
  }
  const name = decodePath(cluster.subarray(offset, offset + size));
  return { backingFile: name === '' ? null : name, backingFileOffset: offset, backingFileSize: size };
}

function parseName(extensions: readonly FoundExtension[], name: 'backingFormat' | 'dataFile'): string | null {
  const extension = findExtension(extensions, name);
  return extension === undefined ? null : decodePath(extension.data);
}

function parseBitmaps(extensions: readonly FoundExtension[], fields: FeatureFields): BitmapsExtension | null {
  const extension = findExtension(extensions, 'bitmaps');
  // Without the bit the extension is out of date: someone who does not know bitmaps wrote to the image.
  if (extension === undefined || !hasFeature(fields, 'bitmaps')) return null;
  return decodeBitmapsExtension(extension);
}

function parseEncryption(
  extensions: readonly FoundExtension[],
  method: CryptMethod,
): EncryptionPointer | null {
  const extension = findExtension(extensions, 'encryption');
  if (method === 'luks') {
    if (extension !== undefined) return decodeEncryptionPointer(extension);
    throw invalidField(
      'cryptMethod',
      'is 2 (LUKS), but the header extension that points to the LUKS header is missing',
    );
  }
  if (extension === undefined) return null;
  throw extensionError(extension.type, extension.offset, 'is only allowed with crypt_method 2 (LUKS)');
}

function parseRefcountTableOffset(view: DataView, options: ParseHeaderOptions): HostOffset {
  // Past 2^53 is past the end of any file: tolerated, it becomes a problem of the table's place.
  if (options.tolerate === 'refcounts') return hostOffset(Number(readField64(view, 'refcountTableOffset')));
  return hostOffset(safeField(view, 'refcountTableOffset'));
}

function parseSnapshotsOffset(view: DataView): HostOffset {
  return hostOffset(readField(view, 'nbSnapshots') === 0 ? 0 : safeField(view, 'snapshotsOffset'));
}

function safeField(view: DataView, field: HeaderField): number {
  const value = readField64(view, field);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw unsupportedField(field, `is ${hex(value)}; values past 2^53 - 1 are not supported`);
  }
  return Number(value);
}

function checkL1Size({ l1Size, size, geometry: shape }: Header): void {
  const needed = l1EntriesFor(size, shape);
  if (l1Size < needed) {
    throw invalidField('l1Size', `is ${l1Size}; a disk of ${size} bytes needs ${needed} L1 entries`);
  }
  if (l1Size * tableEntrySize > maxL1TableBytes) {
    const most = maxL1TableBytes / tableEntrySize;
    throw unsupportedField('l1Size', `is ${l1Size}; at most ${most} entries (32 MiB) are supported`);
  }
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
