/** How large an image of a disk will be, before it is made: the numbers of `qemu-img measure`. */
import type { Disk, Job } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import {
  geometry,
  maxL1TableBytes,
  maxRefcountTableBytes,
  tableEntrySize,
  type Geometry,
} from '../format/geometry.js';
import { alignUp, toBytes } from '../format/units.js';
import type { CipherNames } from '../io/encryption/algorithms.js';
import { ExtentTypeIndex, extentStride } from '../io/extent-rows.js';
import { extentRows } from '../io/extents.js';
import type { CreateOptions, ImageFormat } from '../options.js';
import { planLayout } from './create.js';
import { withHoles } from './holes.js';
import type { BitmapInfo, ImageInfo } from './info-report.js';

/** What the new image will be like; the defaults are those of `create`. */
export interface MeasureOptions
  extends
    Pick<
      CreateOptions,
      | 'version'
      | 'clusterSize'
      | 'refcountBits'
      | 'lazyRefcounts'
      | 'extendedL2'
      | 'compressionType'
      | 'preallocation'
      | 'dataFile'
      | 'backing'
    >,
    Pick<Job, 'signal' | 'onProgress'> {
  /** qcow2 by default. */
  format?: ImageFormat;
  /** LUKS encryption with this cipher. */
  encryption?: CipherNames;
}

/** Bytes of the file that will hold the image. */
export interface Measurement {
  /**
   * With the data there is now, stored uncompressed. It counts the metadata of a disk full of data, so the file may get
   * smaller by that, and by zeros among the data: it is exact for raw, for full and falloc preallocation, and where each L2
   * table gets something. With a backing file all of the disk counts, because nobody knows what the two will share.
   * `toQcow2Stream` knows the very length of what it sends.
   */
  required: number;
  /** With all of the disk written. */
  fullyAllocated: number;
  /** To keep the source's persistent bitmaps as well; null where the source or the new image cannot have any. */
  bitmaps: number | null;
}

/** A disk without content of a given size, bytes. */
export interface EmptyDisk {
  /** Bytes. */
  readonly size: number | bigint;
}

/** A raw image has whole sectors for QEMU. */
const rawUnit = 512;
/** Bytes of a bitmap directory entry without its name, which is padded to 8 bytes together with it. */
const bitmapEntryBytes = 24;

/**
 * Measures what storing a disk, or an empty one of a given size, will take.
 * @throws as `create` for the options; Qcow2Error `ERR_QCOW2_LIMIT` when the disk is too large for the cluster size
 */
export async function measure(source: Disk | EmptyDisk, options: MeasureOptions = {}): Promise<Measurement> {
  const size = alignUp(toBytes('size', source.size), rawUnit);
  if (options.format === 'raw') return { required: size, fullyAllocated: size, bitmaps: null };
  const { encryption, ...create } = options;
  const layout = planLayout(create);
  const shape = geometry(layout.clusterBits, layout.refcountOrder, options.extendedL2 ?? false);
  const allocated = fullSize(size, shape) + (await encryptionSize(encryption, shape));
  const disk = alignUp(size, shape.clusterSize);
  const stored = await storedBytes(source, size, options, shape);
  return {
    required: allocated - disk + stored,
    fullyAllocated: allocated,
    bitmaps: layout.version === 2 ? null : await bitmapsSize(source, size, shape),
  };
}

/** Bytes of an image of which every guest cluster has a host cluster. */
function fullSize(size: number, shape: Geometry): number {
  const { clusterSize, l2EntrySize, l2Entries } = shape;
  const guestClusters = Math.ceil(size / clusterSize);
  const l2Bytes = alignUp(guestClusters, l2Entries) * l2EntrySize;
  const l1Bytes = alignUp((l2Bytes / clusterSize) * tableEntrySize, clusterSize);
  if ((l2Bytes / clusterSize) * tableEntrySize > maxL1TableBytes) {
    throw tooLarge(size, 'an L1 table', maxL1TableBytes, shape);
  }
  const clusters = 1 + (l1Bytes + l2Bytes) / clusterSize + guestClusters;
  return (clusters + refcountClusters(clusters, size, shape)) * clusterSize;
}

/** Clusters of the refcount table and blocks that count `clusters` and themselves. */
export function refcountClusters(clusters: number, size: number, shape: Geometry): number {
  const tableEntries = shape.clusterSize / tableEntrySize;
  let own = 0;
  for (;;) {
    const blocks = Math.ceil((clusters + own) / shape.refcountBlockEntries);
    const table = Math.ceil(blocks / tableEntries);
    if (table * shape.clusterSize > maxRefcountTableBytes) {
      throw tooLarge(size, 'a refcount table', maxRefcountTableBytes, shape);
    }
    if (blocks + table === own) return own;
    own = blocks + table;
  }
}

function tooLarge(size: number, what: string, limit: number, { clusterSize }: Geometry): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_LIMIT',
    `A disk of ${size} bytes needs ${what} of more than ${limit} bytes with clusters of ${clusterSize} bytes: ` +
      'use larger clusters',
    { feature: 'size' },
  );
}

async function encryptionSize(names: CipherNames | undefined, { clusterSize }: Geometry): Promise<number> {
  if (names === undefined) return 0;
  const { luksAreaSize } = await import('../io/encryption/luks-create.js');
  return alignUp(luksAreaSize(names), clusterSize);
}

/** Bytes of the host clusters that the source's data needs. */
async function storedBytes(
  source: Disk | EmptyDisk,
  size: number,
  { preallocation = 'off', backing, signal, onProgress }: MeasureOptions,
  { clusterSize }: Geometry,
): Promise<number> {
  const all = alignUp(size, clusterSize);
  if (preallocation === 'full' || preallocation === 'falloc') return all;
  if (!isDisk(source)) return 0;
  if (backing !== undefined) return all;
  let stored = 0;
  let countedTo = 0;
  for await (const rows of withHoles(source, extentRows(source, signal === undefined ? {} : { signal }))) {
    for (let i = 0; i < rows.length; i += extentStride) {
      const [start = 0, length = 0, type] = rows.subarray(i, i + extentStride);
      onProgress?.({ done: start + length, total: source.size });
      if (type !== ExtentTypeIndex.data && type !== ExtentTypeIndex.compressed) continue;
      const from = Math.max(countedTo, start - (start % clusterSize));
      const to = alignUp(start + length, clusterSize);
      if (to <= from) continue;
      stored += to - from;
      countedTo = to;
    }
  }
  return stored;
}

async function bitmapsSize(
  source: Disk | EmptyDisk,
  size: number,
  { clusterSize }: Geometry,
): Promise<number | null> {
  if (!hasInfo(source)) return null;
  const { version, bitmaps } = await source.info();
  if (version === 2) return null;
  const kept = bitmaps.filter(({ flags }) => !flags.includes('in-use'));
  if (kept.length === 0) return 0;
  const directory = kept.reduce(
    (sum, { name }) => sum + alignUp(bitmapEntryBytes + Buffer.byteLength(name), 8),
    0,
  );
  const bits = kept.reduce((sum, bitmap) => sum + bitmapSize(bitmap, size, clusterSize), 0);
  return alignUp(directory, clusterSize) + bits;
}

/** Bytes of a bitmap with every one of its clusters allocated, and of its table. */
function bitmapSize({ granularity }: BitmapInfo, size: number, clusterSize: number): number {
  const bytes = Math.ceil(Math.ceil(size / granularity) / 8);
  const clusters = Math.ceil(bytes / clusterSize);
  return clusters * clusterSize + alignUp(clusters * tableEntrySize, clusterSize);
}

function isDisk(source: Disk | EmptyDisk): source is Disk {
  return 'extents' in source;
}

function hasInfo(source: object): source is { info(): Promise<ImageInfo> } {
  return 'info' in source;
}
