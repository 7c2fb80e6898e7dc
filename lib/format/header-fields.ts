/** The fixed fields of the header: where each is, how it is read, and the bytes to write when one of them changes. */
import { outOfRange, Qcow2Error } from '../errors.js';

interface Field {
  /** Byte offset in the file. */
  readonly offset: number;
  /** Bytes. */
  readonly size: 1 | 4 | 8;
  /** The name in the specification. */
  readonly spec: string;
}

export const headerFields = {
  magic: { offset: 0, size: 4, spec: 'magic' },
  version: { offset: 4, size: 4, spec: 'version' },
  backingFileOffset: { offset: 8, size: 8, spec: 'backing_file_offset' },
  backingFileSize: { offset: 16, size: 4, spec: 'backing_file_size' },
  clusterBits: { offset: 20, size: 4, spec: 'cluster_bits' },
  size: { offset: 24, size: 8, spec: 'size' },
  cryptMethod: { offset: 32, size: 4, spec: 'crypt_method' },
  l1Size: { offset: 36, size: 4, spec: 'l1_size' },
  l1TableOffset: { offset: 40, size: 8, spec: 'l1_table_offset' },
  refcountTableOffset: { offset: 48, size: 8, spec: 'refcount_table_offset' },
  refcountTableClusters: { offset: 56, size: 4, spec: 'refcount_table_clusters' },
  nbSnapshots: { offset: 60, size: 4, spec: 'nb_snapshots' },
  snapshotsOffset: { offset: 64, size: 8, spec: 'snapshots_offset' },
  incompatible: { offset: 72, size: 8, spec: 'incompatible_features' },
  compatible: { offset: 80, size: 8, spec: 'compatible_features' },
  autoclear: { offset: 88, size: 8, spec: 'autoclear_features' },
  refcountOrder: { offset: 96, size: 4, spec: 'refcount_order' },
  headerLength: { offset: 100, size: 4, spec: 'header_length' },
  compressionType: { offset: 104, size: 1, spec: 'compression_type' },
} as const satisfies Record<string, Field>;
export type HeaderField = keyof typeof headerFields;

/** "QFI\xfb" */
export const magic = 0x514649fb;
/** Bytes of a version 2 header. */
export const headerLengthV2 = 72;
/** Bytes a version 3 header has at least: up to and with header_length. */
export const minHeaderLengthV3 = 104;
/** Bytes of the version 3 header that this package (and QEMU) writes: with compression_type and its padding. */
export const headerLengthV3 = 112;

/** What the values of crypt_method stand for. */
export const cryptMethods = ['none', 'aes', 'luks'] as const;
export type CryptMethod = (typeof cryptMethods)[number];

/** What the values of compression_type stand for. */
export const compressionTypes = ['zlib', 'zstd'] as const;
export type CompressionType = (typeof compressionTypes)[number];

/**
 * The bytes of one field, to be written at `headerFields[field].offset`.
 * @throws RangeError `ERR_OUT_OF_RANGE` when the value does not fit the field
 */
export function encodeField(field: HeaderField, value: number | bigint): Uint8Array {
  const { size } = headerFields[field];
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    throw outOfRange(field, 'a safe integer', value);
  }
  const bits = BigInt(value);
  if (bits < 0n || bits >= 1n << BigInt(size * 8)) {
    throw outOfRange(field, `an unsigned integer of ${size} bytes`, value);
  }
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, bits);
  return bytes.subarray(8 - size);
}

/** The value of a field of 1 or 4 bytes. The view must reach that far. */
export function readField(view: DataView, field: HeaderField): number {
  const { offset, size } = headerFields[field];
  return size === 1 ? view.getUint8(offset) : view.getUint32(offset);
}

/** The value of a field of 8 bytes. The view must reach that far. */
export const readField64 = (view: DataView, field: HeaderField): bigint =>
  view.getBigUint64(headerFields[field].offset);

/** Names a field and where it is, to begin a message with. */
const fieldLabel = (field: HeaderField): string =>
  `${headerFields[field].spec} (byte ${headerFields[field].offset})`;

/** The error for a field whose value the specification forbids. */
export function invalidField(field: HeaderField, finding: string): Qcow2Error {
  return fieldError('ERR_QCOW2_INVALID_HEADER', field, finding);
}

/** The error for a field whose value is allowed but cannot be dealt with here. */
export function unsupportedField(field: HeaderField, finding: string): Qcow2Error {
  return fieldError('ERR_QCOW2_UNSUPPORTED', field, finding);
}

function fieldError(
  code: 'ERR_QCOW2_INVALID_HEADER' | 'ERR_QCOW2_UNSUPPORTED',
  field: HeaderField,
  finding: string,
): Qcow2Error {
  const { offset, spec } = headerFields[field];
  return new Qcow2Error(code, `${fieldLabel(field)} ${finding}`, { offset, feature: spec });
}
