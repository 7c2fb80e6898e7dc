/** Making a new image: an empty one first, then everything that grows from it. */
import { invalidArgValue, outOfRange, Qcow2Error } from '../errors.js';
import { noFeatures, withFeature, type FeatureFields } from '../format/features.js';
import { layoutFirstCluster } from '../format/first-cluster.js';
import {
  geometry,
  l1EntriesFor,
  maxClusterBits,
  minClusterBits,
  minExtendedL2ClusterBits,
} from '../format/geometry.js';
import {
  backingFormatExtension,
  dataFileExtension,
  encodeEncryptionPointer,
  featureNamesExtension,
  hasRoomForFeatureNames,
  type EncryptionPointer,
  type HeaderExtension,
} from '../format/header-extensions.js';
import { headerLengthV2, headerLengthV3, type CryptMethod } from '../format/header-fields.js';
import type { Header } from '../format/header.js';
import { encodeName } from '../format/text.js';
import { hostOffset } from '../format/units.js';
import type { Image } from '../metadata/image.js';
import { native } from '../native.js';
import type { CreateOptions } from '../options.js';
import type { Storage } from '../storage/storage.js';
import { refuseLargeL1 } from './resize/l1-table.js';
import type { Preallocation } from './preallocate.js';

const refcountWidths = [1, 2, 4, 8, 16, 32, 64];
const maxBackingNameBytes = 1023;
/** Where a new image has its first tables, in clusters: header, refcount table, refcount block. */
const place = { refcountTable: 1, refcountBlock: 2, end: 3 } as const;

/** The options of a new image, checked, with the defaults filled in. */
export interface Layout {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly features: FeatureFields;
  readonly compressionType: 'zlib' | 'zstd';
  readonly preallocation: Preallocation;
  readonly options: CreateOptions;
}

/**
 * Checks the options of a new image, before anything is written.
 * @throws TypeError, RangeError for options out of range; Qcow2Error `ERR_QCOW2_CONFLICT` for those that do not go together
 */
export function planLayout(options: CreateOptions): Layout {
  const {
    version = 3,
    clusterSize = 65536,
    refcountBits = 16,
    extendedL2 = false,
    compressionType = 'zlib',
  } = options;
  const clusterBits = Math.log2(clusterSize);
  if (!Number.isInteger(clusterBits) || clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    throw outOfRange('clusterSize', 'a power of two from 512 to 2097152', clusterSize);
  }
  const refcountOrder = refcountWidths.indexOf(refcountBits);
  if (refcountOrder < 0)
    throw outOfRange('refcountBits', `one of ${refcountWidths.join(', ')}`, refcountBits);
  const { raw = false } = options.dataFile ?? {};
  const wanted = {
    lazyRefcounts: options.lazyRefcounts ?? false,
    compressionType: compressionType === 'zstd',
    extendedL2,
    externalData: options.dataFile !== undefined,
    rawExternal: raw,
  };
  refuseConflicts(version, clusterBits, refcountBits, wanted, options);
  let features = noFeatures;
  for (const name of Object.keys(wanted) as (keyof typeof wanted)[]) {
    features = withFeature(features, name, wanted[name]);
  }
  // A raw data file may be changed by others, so every cluster must be looked for there from the start.
  const preallocation =
    raw && options.preallocation === undefined ? 'metadata' : (options.preallocation ?? 'off');
  return { version, clusterBits, refcountOrder, features, compressionType, preallocation, options };
}

function refuseConflicts(
  version: 2 | 3,
  clusterBits: number,
  refcountBits: number,
  wanted: Record<
    'lazyRefcounts' | 'compressionType' | 'extendedL2' | 'externalData' | 'rawExternal',
    boolean
  >,
  { backing, preallocation = 'off', encryption }: CreateOptions,
): void {
  if (version === 2 && (Object.values(wanted).includes(true) || refcountBits !== 16)) {
    throw conflict(
      'version 2 has neither lazy refcounts, zstd, extended L2 entries, external data files nor refcounts of other widths ' +
        'than 16 bits; use version 3',
    );
  }
  if (wanted.extendedL2 && clusterBits < minExtendedL2ClusterBits) {
    throw conflict(`extended L2 entries need clusters of ${2 ** minExtendedL2ClusterBits} bytes or more`);
  }
  if (wanted.rawExternal && backing !== undefined) {
    throw conflict(
      'a raw external data file cannot have a backing file: it must be readable without the image',
    );
  }
  if (version === 2 && preallocation !== 'off' && encryption !== undefined) {
    throw conflict('preallocated clusters of an encrypted image read as zeros only in version 3');
  }
  if (preallocation !== 'off' && backing !== undefined && !wanted.extendedL2) {
    throw conflict(
      'preallocated clusters would hide the backing file; with extended L2 entries they need not',
    );
  }
  if (backing === undefined) return;
  const length = encodeName(backing.name).length;
  if (length === 0 || length > maxBackingNameBytes) {
    throw invalidArgValue('backing.name', `must have 1 to ${maxBackingNameBytes} bytes`, backing.name);
  }
}

/**
 * Refuses what only shows when the image is laid out, before anything is written.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when the disk or its header does not fit
 */
export function refuseUnfitting(layout: Layout, size: number): void {
  const shape = geometry(layout.clusterBits, layout.refcountOrder, layout.options.extendedL2 ?? false);
  refuseLargeL1(l1EntriesFor(size, shape), shape);
  const encryption = layout.options.encryption === undefined ? null : { offset: hostOffset(0), length: 1 };
  firstCluster(layout, 'final', undefined, encryption);
}

function conflict(message: string): Qcow2Error {
  return new Qcow2Error('ERR_QCOW2_CONFLICT', `The options do not go together: ${message}`, {
    feature: 'options',
  });
}

/** Writes an image without a disk: header, refcount table and one refcount block, in the places `qemu-img` has them. */
export async function writeEmptyImage(storage: Storage, layout: Layout): Promise<void> {
  const { clusterSize } = geometry(layout.clusterBits, layout.refcountOrder, false);
  const table = new Uint8Array(clusterSize);
  new DataView(table.buffer).setBigUint64(0, BigInt(place.refcountBlock * clusterSize));
  const block = new Uint8Array(clusterSize);
  native.refcountSet(block, layout.refcountOrder, 0, place.end, 1);
  await storage.write(table, place.refcountTable * clusterSize);
  await storage.write(block, place.refcountBlock * clusterSize);
  await storage.write(firstCluster(layout, 'empty', undefined, null), 0);
}

/** Writes the encryption header of a new image into clusters of its own. */
export async function writeEncryption(image: Image, { options }: Layout): Promise<EncryptionPointer | null> {
  if (options.encryption === undefined) return null;
  const { clusterSize } = image.geometry;
  // Most images have no encryption, and `node:crypto` takes long to load.
  const { createLuksHeader } = await import('../io/encryption/luks-create.js');
  const { headerArea, masterKey } = await createLuksHeader(options.encryption);
  masterKey.fill(0);
  const clusters = Math.ceil(headerArea.length / clusterSize);
  const offset = hostOffset((await image.allocator.allocateContiguous(clusters)) * clusterSize);
  const padded = new Uint8Array(clusters * clusterSize);
  padded.set(headerArea);
  await image.storage.write(padded, offset);
  image.committer.dataWritten();
  return { offset, length: headerArea.length };
}

/** Replaces the first cluster by its final form, once everything it points at is durable. */
export async function writeFinalHeader(
  image: Image,
  layout: Layout,
  encryption: EncryptionPointer | null,
): Promise<void> {
  await image.committer.settle();
  await image.storage.write(firstCluster(layout, 'final', image.header, encryption), 0);
  await image.committer.barrier();
}

/** The size of the disk and where the tables are. */
export type TablePlaces = Pick<
  Header,
  'size' | 'l1Size' | 'l1TableOffset' | 'refcountTableOffset' | 'refcountTableClusters'
>;

/** @param stage until the rest is there the image is an empty one without references */
export function firstCluster(
  layout: Layout,
  stage: 'empty' | 'final',
  header: TablePlaces | undefined,
  encryption: EncryptionPointer | null,
): Uint8Array {
  const { version, clusterBits, refcountOrder, features, compressionType, options } = layout;
  const clusterSize = 2 ** clusterBits;
  const cryptMethod: CryptMethod = encryption === null ? 'none' : 'luks';
  return layoutFirstCluster({
    fields: {
      ...features,
      version,
      clusterBits,
      refcountOrder,
      compressionType,
      size: header?.size ?? 0,
      cryptMethod,
      l1Size: header?.l1Size ?? 0,
      l1TableOffset: header?.l1TableOffset ?? hostOffset(0),
      refcountTableOffset: header?.refcountTableOffset ?? hostOffset(place.refcountTable * clusterSize),
      refcountTableClusters: header?.refcountTableClusters ?? 1,
      nbSnapshots: 0,
      snapshotsOffset: hostOffset(0),
      headerLength: version === 2 ? headerLengthV2 : headerLengthV3,
      unknownFields: new Uint8Array(version === 2 ? 0 : headerLengthV3 - 105),
    },
    extensions: stage === 'final' ? extensions(layout, encryption) : [],
    backingFile: stage === 'final' ? (options.backing?.name ?? null) : null,
  });
}

function extensions(
  { version, clusterBits, options }: Layout,
  encryption: EncryptionPointer | null,
): HeaderExtension[] {
  const list: HeaderExtension[] = [];
  if (options.backing?.format !== undefined) list.push(backingFormatExtension(options.backing.format));
  if (options.dataFile !== undefined) list.push(dataFileExtension(options.dataFile.name));
  if (encryption !== null) list.push(encodeEncryptionPointer(encryption));
  if (hasRoomForFeatureNames(version, 2 ** clusterBits)) list.push(featureNamesExtension());
  return list;
}
