/** Changing the size of the disk. Order when growing: L1 | size; when shrinking: size | clusters past the end, file tail. */
import { invalidArgValue, Qcow2Error } from '../errors.js';
import { hasFeature } from '../format/features.js';
import { l1EntriesFor, tableEntrySize } from '../format/geometry.js';
import { alignDown, alignUp, guestOffset } from '../format/units.js';
import { guestExtents } from '../io/extents.js';
import type { GuestImage } from '../io/guest-image.js';
import { zeroLocked } from '../io/zero.js';
import type { Image } from '../metadata/image.js';
import type { CheckProgress } from './check/reader.js';
import { JobParts, type PartedJob } from './jobs/parts.js';
import { growL1 } from './resize/l1-table.js';
import { refuseLowRefcounts } from './check/low-refcounts.js';
import { preallocate, type PreallocatedAs, type Preallocation } from './preallocate.js';
import { countTree, dropTree, type SnapshotTree } from './snapshots/tree.js';
import { trimFile } from './resize/trim-file.js';

/** Progress is in bytes of the disk that come or go. Stopped before the new size counts, the disk keeps its old one. */
export interface ResizeOptions extends PartedJob {
  /** Allows making the disk smaller than its data. */
  shrink?: boolean;
  /** What to do with the new part of a grown disk; `off` by default. */
  preallocation?: Preallocation;
}

interface GrowOptions extends ResizeOptions {
  /** Of a new image with extended L2 entries: preallocated clusters let a backing file show. */
  showsBelow?: boolean;
}

/** Resizes to `size` bytes. The caller holds no lock. */
export async function resizeGuest(guest: GuestImage, size: number, options: GrowOptions): Promise<void> {
  const { header } = guest.image;
  refuseUnresizable(guest, size, options);
  if (size < header.size && options.shrink !== true) await refuseDataLoss(guest, size, options);
  options.signal?.throwIfAborted();
  if (size === header.size) return;
  await guest.bitmaps.resizing(size);
  const unlock = await guest.locks.exclusive(0, Infinity);
  try {
    if (size > header.size) await grow(guest, size, options);
    else await shrink(guest, size, options);
  } finally {
    unlock();
    await guest.bitmaps.resized();
  }
}

function refuseUnresizable(guest: GuestImage, size: number, { preallocation = 'off' }: ResizeOptions): void {
  const { header } = guest.image;
  if (header.nbSnapshots > 0 && header.version < 3) {
    throw new Qcow2Error(
      'ERR_QCOW2_CONFLICT',
      'Snapshots of a version 2 image do not know the size of their disk, so it cannot be resized while there are any',
      { feature: 'snapshots' },
    );
  }
  if (preallocation === 'off') return;
  if (size < header.size) throw invalidArgValue('preallocation', 'is for growing a disk', preallocation);
  if (guest.cipher !== null && header.version < 3) {
    throw new Qcow2Error(
      'ERR_QCOW2_CONFLICT',
      'A version 2 image cannot say that preallocated clusters read as zeros, and encrypted they would read as noise; ' +
        'use version 3 or no preallocation',
      { feature: 'preallocation' },
    );
  }
}

async function refuseDataLoss(guest: GuestImage, size: number, { signal }: ResizeOptions): Promise<void> {
  const query = { layers: 'self', ...(signal === undefined ? {} : { signal }) } as const;
  for await (const extent of guestExtents(guest, size, guest.image.header.size, query)) {
    if (extent.type !== 'data' && extent.type !== 'compressed') continue;
    throw new Qcow2Error(
      'ERR_QCOW2_DATA_LOSS',
      `There is data at guest offset ${extent.start}, past the new size of ${size} bytes. Pass shrink: true to drop it`,
      { feature: 'size' },
    );
  }
}

async function grow(guest: GuestImage, size: number, options: GrowOptions): Promise<void> {
  const { image } = guest;
  const { preallocation = 'off' } = options;
  const old = image.header.size;
  const { clusterSize } = image.geometry;
  await growL1(image, l1EntriesFor(size, image.geometry));
  // Neither what a shrink left in the last cluster nor a longer backing disk may show up in the new part.
  const lastClusterEnd = Math.min(size, alignUp(old, clusterSize));
  await zeroLocked(guest, old, lastClusterEnd, { punch: false });
  // A shrink that was cut short by a crash leaves entries past the end.
  await forget(guest, alignUp(old, clusterSize), alignUp(size, clusterSize));
  const isRaw = hasFeature(image.header, 'rawExternal');
  // What others write to a raw data file shows only where the disk has its clusters.
  const mode = isRaw && preallocation === 'off' ? 'metadata' : preallocation;
  if (guest.backing !== null && mode === 'off') {
    await zeroLocked(guest, lastClusterEnd, Math.min(size, guest.backing.size), { punch: false });
  }
  if (mode !== 'off') await preallocateOrForget(guest, size, mode, options);
  // A raw data file is the disk, so it ends where the disk does.
  if (isRaw || (image.hasDataFile && (await image.dataStorage.size()) < size)) {
    await image.dataStorage.truncate(size);
    image.committer.dataWritten();
  }
  await image.committer.flush();
  await setSize(image, size);
  options.onProgress?.({ done: size - old, total: size - old });
}

/** Preallocates what is past the end of the disk; stopped or failed, it leaves nothing there. */
async function preallocateOrForget(
  guest: GuestImage,
  size: number,
  mode: Exclude<Preallocation, 'off'>,
  options: GrowOptions,
): Promise<void> {
  const { image } = guest;
  const { clusterSize } = image.geometry;
  const start = alignUp(image.header.size, clusterSize);
  const dataEnd = await image.dataStorage.size();
  const total = size - image.header.size;
  const { onProgress } = options;
  const job: PartedJob = {
    ...options,
    ...(onProgress && { onProgress: ({ done }) => onProgress({ done: Math.min(done, total), total }) }),
  };
  try {
    await preallocate(guest, start, size, mode, job, preallocatedAs(guest, mode, options));
  } catch (error) {
    if (image.committer.isSound) {
      await forget(guest, start, alignUp(size, clusterSize));
      if (image.hasDataFile) await image.dataStorage.truncate(dataEnd);
    }
    throw error;
  }
}

/** The zeros that hide the rest of a longer backing disk are said to be zeros where no space is reserved for them. */
function preallocatedAs(
  { backing, image }: GuestImage,
  mode: Preallocation,
  { showsBelow = false }: GrowOptions,
): PreallocatedAs {
  if (showsBelow) return 'nothing';
  const hides = backing !== null && backing.size > image.header.size;
  return hides && image.header.version >= 3 && (mode === 'metadata' || image.hasDataFile) ? 'zero' : 'data';
}

/**
 * Drops what lies past the new size. The L2 tables that lie there as a whole are counted before anything changes, and what
 * they refer to is then freed in the order of the file: guest order may be any order there.
 */
async function shrink(guest: GuestImage, size: number, options: ResizeOptions): Promise<void> {
  const { image } = guest;
  const { mapping, committer, geometry } = image;
  const old = image.header.size;
  const end = alignUp(old, geometry.clusterSize);
  const firstTable = l1EntriesFor(size, geometry);
  const parts = new JobParts(options, old - size);
  await committer.settle();
  // What an external data file has is not counted: it lies where it is on the disk.
  const tail = image.hasDataFile ? null : await countTables(image, firstTable, parts.part((old - size) / 4));
  if (tail !== null) await refuseLowRefcounts(image, parts.part((old - size) / 4));
  parts.seal();
  await setSize(image, size);
  const { onProgress } = parts.job(tail === null ? old - size : (old - size) / 4);
  await forget(guest, size, tail === null ? end : Math.min(end, firstTable * geometry.l2Coverage), (at) => {
    onProgress?.({ done: at - size, total: end - size });
  });
  mapping.dropTables(firstTable, mapping.l1Entries, tail === null ? committer : null);
  await committer.flush();
  if (tail !== null) await dropTree(image, tail, parts.part((old - size) / 4));
  await trimFile(image);
  if (hasFeature(image.header, 'rawExternal')) await image.dataStorage.truncate(size);
  parts.finish();
}

/** What the L2 tables of L1 entries `first` and on refer to. */
function countTables(image: Image, first: number, progress: CheckProgress): Promise<SnapshotTree> {
  const l1 = image.mapping.l1Bytes.slice();
  l1.fill(0, 0, Math.min(l1.length, first * tableEntrySize));
  return countTree(image, l1, 'the active L1 table', progress);
}

/** Durable when it resolves. When it fails nobody knows how large the disk in the file is, so nothing goes on after it. */
function setSize(image: Image, size: number): Promise<void> {
  return image.committer.decisive(async () => {
    await image.patchHeader({ size });
    await image.committer.barrier();
  });
}

/** Drops what is mapped in [start, end), even where a backing disk shows through then. One table after the other. */
async function forget(
  guest: GuestImage,
  start: number,
  end: number,
  reached: (at: number) => void = () => undefined,
): Promise<void> {
  const { mapping, committer, geometry } = guest.image;
  for (let at: number = mapping.nextTable(guestOffset(start), end); at < end;) {
    const stop = Math.min(end, alignDown(at, geometry.l2Coverage) + geometry.l2Coverage);
    await zeroLocked(guest, at, stop, { punch: true, forget: true });
    await committer.flush();
    reached(stop);
    at = mapping.nextTable(guestOffset(stop), end);
  }
}
