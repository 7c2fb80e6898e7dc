/** `convert`: copies what a disk shows its guest into a new image, or into an existing one. */
import type { Disk, Extent, Job } from '../disk.js';
import { invalidArgValue, outOfRange, Qcow2Error } from '../errors.js';
import { alignDown, alignUp } from '../format/units.js';
import { RawDisk } from '../io/raw-disk.js';
import type { CreateOptions, ImageFormat, OpenOptions } from '../options.js';
import { create } from '../create.js';
import { openDisk, Qcow2 } from '../qcow2.js';
import { closeAll } from '../storage/closable.js';
import { openSource, type Source } from '../storage/open-source.js';
import type { Storage } from '../storage/storage.js';
import { UnflushedStorage } from '../storage/unflushed.js';
import { copyDisk, type CopyPlan } from './copy/disk.js';
import { DiskTarget, OverlayTarget, RawTarget, type CopyTarget, type Writer } from './copy/target.js';
import type { Treatment } from './copy/spans.js';
import { CompressedFreshTarget } from './copy/compressed-fresh-target.js';
import { FreshTarget } from './copy/fresh-target.js';
import { reserveRaw } from './resize/raw.js';
import { Checkpoints, type Resumable } from './jobs/checkpoint.js';
import { filesBehind, identitiesBehind, layersOf } from './layers.js';
import type { Paced } from './jobs/pace.js';

/** With `keepTarget` a copy can be resumed: see {@link Resumable}. */
export interface ConvertOptions extends Job, Paced, Resumable {
  /** Format of a source that is not an open disk; without it the first bytes tell. */
  sourceFormat?: ImageFormat;
  /** Format of the target. */
  targetFormat: ImageFormat;
  /** How a source that is not an open disk is opened. */
  open?: Omit<OpenOptions, 'mode' | 'forRepair'>;
  /**
   * The new qcow2 image. Of these a raw target knows `preallocation` (`metadata` is not for it) and `lock`; a kept target
   * knows `resolve`, `lock`, `cacheBytes` and the secret in `encryption`. With `backing` only what differs from the backing
   * file is written.
   */
  create?: CreateOptions;
  /** Stores clusters compressed where that makes them smaller (qcow2 only). */
  compress?: boolean;
  /**
   * zlib 1 to 12, zstd 1 to 22; by default 1 and 3, about as small as `qemu-img` makes them in a fraction of the time. From 2
   * on zlib is smaller than that.
   */
  compressionLevel?: number;
  /**
   * Zeros are left out in runs of this many bytes, a multiple of 512 up to 16 MiB; 4096 by default, rounded up to what the
   * target stores as a whole. 0 looks for no zeros and leaves nothing out, so that all of the target is allocated.
   */
  sparseSize?: number;
  /** Writes into the target as it is, which must be at least as large as the source, instead of making it anew. */
  keepTarget?: boolean;
  /** How a kept target is opened, before what `create` says of it. */
  openTarget?: Pick<OpenOptions, 'resolve' | 'backing' | 'window' | 'secret' | 'lock'>;
  /** Says of a kept target that all of it reads as zeros, so that zeros need not be written. */
  targetIsZero?: boolean;
  /** Whether the target is durable when the promise resolves; true by default. `false` leaves that to the system. */
  durable?: boolean;
}

/** A target that is open for the copy. */
export interface OpenTarget {
  readonly target: CopyTarget;
  /** Which extents of the source the target has already. */
  readonly has: (extent: Extent) => boolean;
  readonly sparse: boolean;
  /** The disk that is written to, if it was there before. */
  readonly kept?: Disk;
  /** Makes durable what has been written. */
  readonly flush: () => Promise<void>;
  /** Completes the target, durable when asked. */
  readonly finish: () => Promise<void>;
  /** Lets go of it, complete or not. */
  readonly owned: { close: () => Promise<void> }[];
}

export const defaultSparseSize = 4096;
const maxSparseSize = 16 * 1024 * 1024;
const maxConcurrency = 64;

/**
 * Copies a disk. The target is worth nothing until the promise resolves: its parts are written in any order and, unless an
 * existing image is kept, made durable only at the end. A disk that ends within a sector of 512 bytes keeps its size, though QEMU
 * does not see what is behind the last whole sector of an image: for its guests make it of a `ConcatenatedDisk([disk], 512)`.
 * @returns the size of the disk, bytes
 * @throws TypeError, RangeError for options; Qcow2Error `ERR_QCOW2_CONFLICT` when they do not go together or the target is
 * too small, `ERR_QCOW2_LOCKED` when the target is in use, by the source too; the signal's reason; errors of either file
 */
export async function convert(
  source: Disk | Source,
  target: Source,
  options: ConvertOptions,
): Promise<{
  /** Virtual size of the disk, bytes. */
  size: number;
}> {
  checkOptions(options);
  const { disk, owned } = await openSourceDisk(source, options);
  try {
    await refuseSourceAsTarget(disk, target);
    await convertDisk(disk, target, options);
    return { size: disk.size };
  } finally {
    await closeAll(owned);
  }
}

async function convertDisk(source: Disk, target: Source, options: ConvertOptions): Promise<void> {
  const opened = await openTarget(source, target, options);
  try {
    const { target: copyTarget, has, sparse } = opened;
    const sparseSize = sparse ? (options.sparseSize ?? defaultSparseSize) : 0;
    const treat = (extent: Extent): Treatment => {
      if (has(extent)) return 'skip';
      const zero = extent.type === 'zero' || extent.type === 'unallocated';
      return zero && sparseSize !== 0 ? 'zero' : 'copy';
    };
    const zeroBlock = alignUp(sparseSize, copyTarget.zeroUnit);
    const resumable = await resumableCopy(source, opened, options);
    await copyDisk({ source, target: copyTarget, treat, zeroBlock, resumable }, options);
    await opened.finish();
  } finally {
    await closeAll(opened.owned);
  }
}

async function resumableCopy(
  source: Disk,
  { flush, kept }: OpenTarget,
  options: ConvertOptions,
): Promise<CopyPlan['resumable']> {
  // Without a kept target neither is allowed.
  if (kept === undefined || (options.resumeFrom === undefined && options.onCheckpoint === undefined))
    return null;
  return { checkpoints: await Checkpoints.begin(filesBehind(source), source.size, kept, options), flush };
}

function checkOptions(options: ConvertOptions): void {
  const { targetFormat, sparseSize = defaultSparseSize, concurrency = 1, create = {} } = options;
  // JavaScript callers may pass anything.
  if (!['raw', 'qcow2'].includes(targetFormat)) {
    throw invalidArgValue('targetFormat', "must be 'raw' or 'qcow2'", targetFormat);
  }
  if (
    !Number.isInteger(sparseSize) ||
    sparseSize % 512 !== 0 ||
    sparseSize < 0 ||
    sparseSize > maxSparseSize
  ) {
    throw outOfRange('sparseSize', `a multiple of 512 from 0 to ${maxSparseSize}`, sparseSize);
  }
  if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > maxConcurrency) {
    throw outOfRange('concurrency', `an integer from 1 to ${maxConcurrency}`, concurrency);
  }
  if (
    options.keepTarget !== true &&
    (options.resumeFrom !== undefined || options.onCheckpoint !== undefined)
  ) {
    throw conflict('only a copy into a target that is kept can be resumed: create it first');
  }
  const { preallocation = 'off' } = create;
  if (targetFormat === 'raw' && options.compress === true)
    throw conflict('a raw target cannot be compressed');
  if (targetFormat === 'raw' && preallocation === 'metadata') {
    throw conflict('a raw target has no metadata to preallocate');
  }
  if (options.compress !== true || options.keepTarget === true) return;
  if (preallocation !== 'off') throw conflict('preallocated clusters cannot hold compressed data');
  if (create.encryption !== undefined) throw conflict('encrypted clusters cannot be compressed');
  if (create.dataFile !== undefined) throw conflict('an external data file cannot hold compressed clusters');
}

function conflict(message: string): Qcow2Error {
  return new Qcow2Error('ERR_QCOW2_CONFLICT', `The options do not go together: ${message}`, {
    feature: 'options',
  });
}

/** The disk that is read, opened if it is not open yet, and what has to be closed afterwards. */
export async function openSourceDisk(
  source: Disk | Source,
  { sourceFormat, open: openOptions }: Pick<ConvertOptions, 'sourceFormat' | 'open'>,
): Promise<{ disk: Disk; owned: Disk[] }> {
  if (isDisk(source)) return { disk: source, owned: [] };
  const { disk } = await openDisk(source, {
    ...openOptions,
    ...(sourceFormat === undefined ? {} : { format: sourceFormat }),
  });
  return { disk, owned: [disk] };
}

function isDisk(source: Disk | Source): source is Disk {
  return (
    typeof source === 'object' && 'extents' in source && 'nextHole' in source && 'createReadStream' in source
  );
}

/** A new target would be emptied, and with it the source. Locks find that out only where there are any. */
async function refuseSourceAsTarget(source: Disk, target: Source): Promise<void> {
  // What cannot be opened here is reported when the target is opened in earnest.
  const there = await openSource(target, { mode: 'r', lock: false }).catch(() => null);
  if (there === null) return;
  const { identity, name } = there.storage;
  if (there.owned) await there.storage.close();
  if (identity === undefined || !identitiesBehind(source).includes(identity)) return;
  throw new Qcow2Error('ERR_QCOW2_LOCKED', `${name} is what is being read; choose another target`);
}

/** Makes or opens the target for a copy of a disk. */
export function openTarget(source: Disk, target: Source, options: ConvertOptions): Promise<OpenTarget> {
  if (options.keepTarget === true) return openKept(source, target, options);
  return options.targetFormat === 'raw'
    ? createRaw(source, target, options)
    : createQcow2(source, target, options);
}

async function createRaw(source: Disk, target: Source, options: ConvertOptions): Promise<OpenTarget> {
  const { create: { preallocation = 'off', lock = true } = {}, durable = true } = options;
  const { storage, owned: isOwned } = await openSource(target, { mode: 'create', lock });
  const owned = isOwned ? [storage] : [];
  try {
    // What is not empty now is a device: it keeps its size, and what it holds.
    const there = await storage.size();
    if (there > 0) refuseSmaller(storage.name, there, source.size);
    else await storage.truncate(source.size);
    if (preallocation === 'falloc') await reserveRaw(storage, 0, source.size);
    return {
      target: there > 0 ? rawDiskTarget(new RawDisk(storage, there, false)) : new RawTarget(storage),
      has: () => false,
      sparse: preallocation !== 'full',
      flush: () => storage.flush(),
      finish: () => finishFile(storage, durable),
      owned,
    };
  } catch (error) {
    await closeAll(owned);
    throw error;
  }
}

async function createQcow2(source: Disk, target: Source, options: ConvertOptions): Promise<OpenTarget> {
  const { create: createOptions = {}, durable = true } = options;
  const { storage, owned: isOwned } = await openSource(target, {
    mode: 'create',
    lock: createOptions.lock ?? true,
  });
  const owned: { close: () => Promise<void> }[] = isOwned ? [storage] : [];
  try {
    const disk = await create(new UnflushedStorage(storage), source.size, createOptions);
    owned.push(disk);
    const copyTarget = newImageTarget(disk, storage, options);
    return {
      target: copyTarget,
      has: backingOfBoth(source, disk),
      sparse: true,
      flush: () => disk.flush(),
      finish: async () => {
        if (copyTarget instanceof FreshTarget || copyTarget instanceof CompressedFreshTarget)
          await copyTarget.finish();
        await disk.close();
        await finishFile(storage, durable);
      },
      owned,
    };
  } catch (error) {
    await closeAll(owned);
    throw error;
  }
}

function newImageTarget(disk: Qcow2, storage: Storage, options: ConvertOptions): CopyTarget {
  const { compress = false, compressionLevel, create: createOptions = {} } = options;
  const { backing, dataFile, preallocation = 'off' } = createOptions;
  const { clusterSize, subclusterSize } = disk.header.geometry;
  if (backing !== undefined)
    return new OverlayTarget(disk, writerOf(disk, options), compress ? clusterSize : subclusterSize);
  if (dataFile !== undefined || preallocation !== 'off')
    return new DiskTarget(disk, writerOf(disk, options), clusterSize, true);
  return compress
    ? new CompressedFreshTarget(disk.guest, storage, compressionLevel)
    : new FreshTarget(disk.guest, storage);
}

async function openKept(source: Disk, target: Source, options: ConvertOptions): Promise<OpenTarget> {
  const { create: { resolve, lock, cacheBytes, encryption } = {}, durable = true } = options;
  const openOptions = {
    ...options.openTarget,
    mode: 'r+',
    ...(resolve === undefined ? {} : { resolve }),
    ...(lock === undefined ? {} : { lock }),
    ...(cacheBytes === undefined ? {} : { cacheBytes }),
    ...(encryption === undefined ? {} : { secret: encryption.secret }),
  } as const;
  const { disk } = await openDisk(target, { ...openOptions, format: options.targetFormat });
  if (!(disk instanceof Qcow2 || disk instanceof RawDisk)) throw new Error('openDisk gives no other disks');
  try {
    refuseSmaller('The target', disk.size, source.size);
    return {
      target:
        disk instanceof Qcow2
          ? new DiskTarget(
              disk,
              writerOf(disk, options),
              disk.header.geometry.clusterSize,
              options.targetIsZero ?? false,
            )
          : rawDiskTarget(disk, options.targetIsZero),
      has: () => false,
      sparse: true,
      kept: disk,
      flush: () => disk.flush(),
      finish: async () => {
        if (durable) await disk.flush();
      },
      owned: [disk],
    };
  } catch (error) {
    await disk.close();
    throw error;
  }
}

function rawDiskTarget(disk: RawDisk, startsZero = false): CopyTarget {
  return new DiskTarget(disk, (data, position) => disk.write(data, position), 512, startsZero);
}

function refuseSmaller(name: string, size: number, needed: number): void {
  if (size >= needed) return;
  throw new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    `${name} has ${size} bytes, fewer than the ${needed} of the source; use a larger one, or resize it`,
    { feature: 'size' },
  );
}

/** Writes to an image, compressed when the options say so. */
function writerOf(disk: Qcow2, { compress = false, compressionLevel }: ConvertOptions): Writer {
  if (!compress) return (data, position) => disk.write(data, position);
  const { clusterSize } = disk.header.geometry;
  return async (data, position) => {
    // A kept disk may go on where the source ends: that cluster is not written whole.
    const isEnd = position + data.length === disk.size;
    const whole = isEnd ? data.length : alignDown(data.length, clusterSize);
    await disk.write(data.subarray(0, whole), position, { compress: compressionLevel ?? true });
    if (whole < data.length) await disk.write(data.subarray(whole), position + whole);
  };
}

/** Tells of an extent whether source and new image have it from the same file behind them. */
function backingOfBoth(source: Disk, target: Qcow2): (extent: Extent) => boolean {
  const [, behindTarget] = layersOf(target);
  if (behindTarget === undefined) return () => false;
  const depth = layersOf(source).findIndex(
    (layer, index) =>
      index > 0 && layer.identities.some((identity) => behindTarget.identities.includes(identity)),
  );
  return (extent) => depth > 0 && extent.depth >= depth;
}

async function finishFile(storage: Storage, durable: boolean): Promise<void> {
  if (durable) await storage.flush();
}
