/**
 * Changing what kind of image an image is: version, refcount width, lazy refcounts, data file, size. Every step but the
 * last of each change only adds to the image, and the last is one write of the header within a sector (or, in small
 * clusters that are nearly full, of several: see first-cluster-switch.ts), so a crash leaves the image as it was or as it is
 * to be; at worst clusters leak.
 */
import { outOfRange, Qcow2Error } from '../errors.js';
import { hasFeature, noFeatures, withFeature, type FeatureFields } from '../format/features.js';
import { layoutFirstCluster, replaceExtensions } from '../format/first-cluster.js';
import { dataFileExtension, extensionTypes, type HeaderExtension } from '../format/header-extensions.js';
import { headerLengthV2, headerLengthV3 } from '../format/header-fields.js';
import type { Header } from '../format/header.js';
import { withFullExtraData } from '../format/snapshot-table.js';
import { toBytes } from '../format/units.js';
import type { GuestImage } from '../io/guest-image.js';
import { otherExtensions, switchFirstCluster } from '../metadata/first-cluster-switch.js';
import { readHeader } from '../metadata/header-io.js';
import { Image } from '../metadata/image.js';
import { readSnapshotTable, replaceSnapshotTable } from '../metadata/snapshot-table-io.js';
import { makeGuest } from '../open.js';
import { readExactly } from '../storage/storage.js';
import { expandZeroClusters } from './amend/expand-zero-clusters.js';
import { JobParts, type PartedJob } from './jobs/parts.js';
import { changeRefcountWidth } from './amend/refcount-width.js';
import { requireSound } from './repair/require-sound.js';
import { resizeGuest } from './resize.js';
import { refuseForVersion2 } from './amend/version-2-snapshots.js';

/**
 * A crash leaves the image as it was or as it is to be after each change. Only where the first cluster has no room for a
 * second copy of what changes (clusters of 1 to 4 KiB, nearly full of header, extensions and backing file name) may a write of
 * `version` or `dataFile` that is torn between two sectors of 512 bytes leave a mixture.
 */
export interface AmendOptions extends PartedJob {
  /**
   * 2 needs refcounts of 16 bits, and neither bitmaps nor anything else that only version 3 has; of snapshots only such as are
   * of the disk's present size and have no zero clusters.
   */
  version?: 2 | 3;
  /** 1, 2, 4, 8, 16, 32 or 64. */
  refcountBits?: number;
  /** Whether refcounts are written late; they are made anew after a crash. */
  lazyRefcounts?: boolean;
  /** The name of the external data file, for an image that has one. */
  dataFile?: string;
  /** `false` allows the external data file to mean nothing without the image. It cannot be set again. */
  dataFileRaw?: false;
  /** Virtual size, bytes; as with `resize`, no data may be past it. */
  size?: number | bigint;
}

const refcountWidths = [1, 2, 4, 8, 16, 32, 64];

/**
 * Amends an image. Nobody else changes it meanwhile, and the caller holds no lock.
 * @param cacheBytes for the tables, when they are opened again
 * @throws Qcow2Error `ERR_QCOW2_CONFLICT` for what does not go together, and `ERR_QCOW2_CORRUPT` for other refcounts in a
 * damaged image, before anything is changed; `ERR_QCOW2_LIMIT` when a refcount is too large for the new width
 */
export async function amendImage(
  guest: GuestImage,
  options: AmendOptions,
  cacheBytes: number,
): Promise<void> {
  refuseConflicts(guest.image.header, options);
  const size = options.size === undefined ? undefined : toBytes('size', options.size);
  const { version, refcountBits, lazyRefcounts } = options;
  const { image } = guest;
  // The new refcounts go behind the end of the file, where damaged entries may point.
  const isRecounted = refcountBits !== undefined && refcountBits !== image.header.geometry.refcountBits;
  if (isRecounted) await requireSound(guest, 'its refcounts are made wider or narrower', options.signal);
  const isDowngrade = version === 2 && image.header.version !== 2;
  const weight = image.header.size;
  const changes = [refcountBits !== undefined, isDowngrade, size !== undefined].filter((isDue) => isDue);
  const parts = new JobParts(options, weight * changes.length);
  if (isDowngrade) await refuseForVersion2(image, options.signal);
  const steps: ((image: Image) => Promise<void>)[] = [];
  if (version === 3) steps.push(upgrade);
  steps.push((image) => changeFields(image, options));
  if (refcountBits !== undefined) {
    steps.push((image) => changeRefcountWidth(image, Math.log2(refcountBits), parts.part(weight)));
  }
  if (lazyRefcounts !== undefined) steps.push((image) => setLazyRefcounts(image, lazyRefcounts));
  for (const step of steps) {
    options.signal?.throwIfAborted();
    await withFreshTables(guest, cacheBytes, step);
  }
  if (isDowngrade) {
    await expandZeroClusters(guest, parts.part(weight));
    await withFreshTables(guest, cacheBytes, downgrade);
  }
  if (size !== undefined) await resizeGuest(guest, size, parts.job(weight));
  parts.finish();
}

/** Lets a step change the image file while nothing of it is in memory only, and then opens the tables again. */
async function withFreshTables(
  guest: GuestImage,
  cacheBytes: number,
  step: (image: Image) => Promise<void>,
): Promise<void> {
  const unlock = await guest.locks.exclusive(0, Infinity);
  try {
    const { image, locks, backing, cipher } = guest;
    await image.committer.settle();
    await guest.bitmaps.save();
    await image.committer.settle();
    await image.markClean();
    await step(image);
    // From here on the tables in memory may be those of another image than the one in the file.
    await image.committer.decisive(async () => {
      const { storage } = image;
      const dataStorage = image.hasDataFile ? image.dataStorage : null;
      const header = await readHeader(storage, false);
      const fresh = await Image.open(storage, dataStorage, header, {
        writable: true,
        forRepair: false,
        cacheBytes,
      });
      Object.assign(guest, { ...makeGuest(fresh, backing, cipher), locks });
    });
  } finally {
    unlock();
  }
}

function refuseConflicts(header: Header, options: AmendOptions): void {
  const { refcountBits = header.geometry.refcountBits, lazyRefcounts, dataFile, dataFileRaw } = options;
  const version = options.version ?? header.version;
  if (!refcountWidths.includes(refcountBits)) {
    throw outOfRange('refcountBits', `one of ${refcountWidths.join(', ')}`, refcountBits);
  }
  // JavaScript callers may pass anything.
  if (![2, 3].includes(version)) throw outOfRange('version', '2 or 3', version);
  if (version === 2 && refcountBits !== 16) {
    throw conflict('refcounts of other widths than 16 bits need version 3', 'refcount_order');
  }
  if (version === 2 && lazyRefcounts === true)
    throw conflict('lazy refcounts need version 3', 'lazy refcounts');
  if ((dataFile !== undefined || dataFileRaw !== undefined) && !hasFeature(header, 'externalData')) {
    throw conflict(
      'the image has no external data file, and cannot get one afterwards',
      'external data file',
    );
  }
  if ((dataFileRaw as boolean | undefined) === true) {
    throw conflict('a data file cannot be made raw afterwards', 'raw external data');
  }
  if (version === 3 || header.version === 2) return;
  const incompatible = withFeature(header, 'dirty', false).incompatible;
  if (incompatible !== 0n) {
    throw conflict(
      `the image uses features of version 3 (0x${incompatible.toString(16)})`,
      'incompatible_features',
    );
  }
  if (header.bitmaps !== null) throw conflict('version 2 has no bitmaps; remove them first', 'bitmaps');
  if (header.nbSnapshots > 0 && options.size !== undefined) {
    throw conflict('version 2 cannot resize a disk that has snapshots', 'snapshots');
  }
}

function conflict(message: string, feature: string): Qcow2Error {
  return new Qcow2Error('ERR_QCOW2_CONFLICT', `The image cannot be amended: ${message}`, { feature });
}

/** Version 2 to 3. Snapshots get the fields that version 3 demands first; version 2 allows them. */
async function upgrade(image: Image): Promise<void> {
  if (image.header.version === 3) return;
  const entries = await readSnapshotTable(image);
  if (entries.length > 0) {
    await replaceSnapshotTable(
      image,
      entries,
      entries.map((entry) => withFullExtraData(entry, image.header.size)),
    );
    await image.committer.settle();
  }
  await writeVersion(image, 3, noFeatures);
}

/** Version 3 to 2, of an image that uses nothing of version 3 any more. */
async function downgrade(image: Image): Promise<void> {
  await writeVersion(image, 2, noFeatures);
}

async function writeVersion(image: Image, version: 2 | 3, features: FeatureFields): Promise<void> {
  const { header } = image;
  const before = await readFirstCluster(image);
  const headerLength = version === 2 ? headerLengthV2 : headerLengthV3;
  const { featureNames, bitmaps } = extensionTypes;
  const extensions = otherExtensions(header, ...(version === 3 ? [] : [featureNames, bitmaps]));
  const { backingFileOffset: start, backingFileSize: length } = header;
  const after = layoutFirstCluster({
    fields: {
      ...header,
      ...features,
      version,
      headerLength,
      unknownFields: new Uint8Array(Math.max(0, headerLength - 105)),
    },
    extensions,
    // The name keeps its bytes, be they UTF-8 or not.
    backingFile: header.backingFile === null ? null : before.slice(start, start + length),
  });
  await writeChanged(image, before, after, extensions);
}

/** The name of the data file, and whether it is raw. */
async function changeFields(image: Image, { dataFile, dataFileRaw }: AmendOptions): Promise<void> {
  if (dataFile !== undefined) {
    const { header } = image;
    const before = await readFirstCluster(image);
    const others = otherExtensions(header, extensionTypes.dataFile);
    const extensions = dataFile === '' ? others : [...others, dataFileExtension(dataFile)];
    await writeChanged(image, before, replaceExtensions(before, header, extensions), extensions);
  }
  if (dataFileRaw === undefined) return;
  await image.patchHeader({ autoclear: withFeature(image.header, 'rawExternal', dataFileRaw).autoclear });
  await image.committer.barrier();
}

async function setLazyRefcounts(image: Image, on: boolean): Promise<void> {
  if (hasFeature(image.header, 'lazyRefcounts') === on) return;
  await image.patchHeader({ compatible: withFeature(image.header, 'lazyRefcounts', on).compatible });
  await image.committer.barrier();
}

async function readFirstCluster({ header, storage }: Image): Promise<Uint8Array> {
  const cluster = new Uint8Array(header.geometry.clusterSize);
  await readExactly(storage, cluster, 0, 'the header');
  return cluster;
}

async function writeChanged(
  image: Image,
  before: Uint8Array,
  after: Uint8Array,
  extensions: readonly HeaderExtension[],
): Promise<void> {
  await image.committer.exclusive(async () => {
    await switchFirstCluster(image, before, after, extensions);
    await image.reloadHeader();
  });
}
