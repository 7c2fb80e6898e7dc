/**
 * Changing what an image stands on. The order of a safe rebase is
 *
 *   what differs between the old and the new backing file, copied into the image | the header        (`|` is a barrier)
 *
 * so until the header names the new file the image reads as before on the old one, and from then on as before on the new
 * one: one sector switches from name to name, except in small clusters that are nearly full (see first-cluster-switch.ts).
 * Whatever stops it before that leaves the image on the old file, with some copies of that file's content; doing it
 * again from the start completes it.
 */
import type { Disk, Job } from '../disk.js';
import { invalidArgValue, Qcow2Error } from '../errors.js';
import { hasFeature } from '../format/features.js';
import { replaceExtensions } from '../format/first-cluster.js';
import { backingFormatExtension, extensionTypes } from '../format/header-extensions.js';
import { encodeName } from '../format/text.js';
import { alignDown, alignUp, guestOffset } from '../format/units.js';
import { writeCompressed } from '../io/compressed-write.js';
import type { Range } from '../io/disk-queries.js';
import { ExtentColumn, extentStride, ExtentTypeIndex } from '../io/extent-rows.js';
import { guestExtentRows } from '../io/extents.js';
import type { GuestImage } from '../io/guest-image.js';
import { readBelow } from '../io/read.js';
import { writeGuest } from '../io/write.js';
import { otherExtensions, switchFirstCluster } from '../metadata/first-cluster-switch.js';
import type { Image } from '../metadata/image.js';
import { L2Flag, native } from '../native.js';
import type { Below, Opened } from '../open.js';
import type { ImageFormat } from '../options.js';
import { readExactly } from '../storage/storage.js';
import { compare, type Comparable } from './compare.js';
import { layersOf, type Layer } from './layers.js';
import { RebaseFiles } from './chain/rebase-files.js';
import { replaceBacking } from './chain/reopen-backing.js';

/** A backing file by its name as it is to stand in the image. */
export interface BackingName {
  /** The name that is to stand in the image; relative names start from its directory. */
  name: string;
  /** Without it the image will not say, and every reader has to guess. */
  format?: ImageFormat;
}

/**
 * A crash leaves the image on the old backing file or the new one. Only where the first cluster has no room for both names
 * beside each other (clusters of 1 to 4 KiB, nearly full of header, extensions and name) may a write torn between two sectors of
 * 512 bytes leave a mixture of them.
 */
export interface RebaseOptions extends Job {
  /**
   * `safe` (default) keeps the disk's content. `unsafe` only changes the name, for a file that was moved or has the same
   * content under another name; the new file is not even looked at where it cannot be opened.
   */
  mode?: 'safe' | 'unsafe';
  /** Stores copied clusters compressed: `true` or a level (zlib 1 to 12, zstd 1 to 22). */
  compress?: boolean | number;
}

/** An open disk and how it was opened. */
export interface NewBacking {
  readonly disk: Disk;
  readonly below: Below;
}

const chunkBytes = 1024 * 1024;
const maxNameBytes = 1023;
const nothing: Comparable = {
  size: 0,
  read: () => Promise.resolve(),
  extents: async function* () {
    // A disk of 0 bytes has no extents.
  },
};

/**
 * Refuses a backing file that the image cannot have.
 * @throws TypeError, Qcow2Error `ERR_QCOW2_CONFLICT`
 */
export function checkBackingName(
  { header }: Image,
  to: BackingName | null,
  { compress = false }: RebaseOptions,
): void {
  if (compress !== false && (header.cryptMethod !== 'none' || hasFeature(header, 'externalData'))) {
    throw new Qcow2Error(
      'ERR_QCOW2_CONFLICT',
      'Clusters of an encrypted image or of one with an external data file cannot be compressed; rebase without `compress`',
      { feature: 'compressed cluster' },
    );
  }
  if (to === null) return;
  const length = encodeName(to.name).length;
  if (length === 0 || length > maxNameBytes) {
    throw invalidArgValue('name', `must have 1 to ${maxNameBytes} bytes`, to.name);
  }
  if (to.format !== undefined && !['raw', 'qcow2'].includes(to.format)) {
    throw invalidArgValue('format', "must be 'raw' or 'qcow2'", to.format);
  }
  if (!hasFeature(header, 'rawExternal')) return;
  throw new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    'A raw external data file must be readable without the image, so the image cannot have a backing file',
    { feature: 'raw external data' },
  );
}

/**
 * Rebases an image. Nobody else changes it meanwhile. It owns the new backing disk from the moment its header names it.
 * @param backing the new backing disk; null for none, or for one that could not be opened (unsafe only)
 */
export async function rebaseImage(
  opened: Opened,
  to: BackingName | null,
  backing: NewBacking | null,
  options: RebaseOptions,
): Promise<void> {
  const { guest } = opened;
  const { image } = guest;
  if (options.mode !== 'unsafe') await copyDifferences(guest, backing?.disk ?? nothing, options);
  options.signal?.throwIfAborted();
  await image.committer.flush();
  const unlock = await guest.locks.exclusive(0, Infinity);
  try {
    await nameBacking(image, to);
    const old = guest.backing;
    replaceBacking(opened, backing?.disk ?? null, backing?.below ?? null);
    await old?.close();
  } finally {
    unlock();
  }
}

/** Stores what shows through from the old backing disk and would not from the new one. */
async function copyDifferences(guest: GuestImage, next: Comparable, options: RebaseOptions): Promise<void> {
  const { signal, onProgress, concurrency, compress = false } = options;
  const total = guest.image.header.size;
  const old = guest.backing ?? nothing;
  const shared = sharedDepth(old, next);
  const closely = new CloseCopy(guest, old, next, options);
  const disks = { old: guest.backing, next: next === nothing ? null : next };
  const files = compress === false ? RebaseFiles.of(guest, disks, shared, concurrency) : null;
  if (files === null) {
    const ranges = rangesBetween(guest, shared, signal === undefined ? {} : { signal });
    for await (const range of ranges) {
      onProgress?.({ done: range.start, total });
      await closely.copy(range, (done) => onProgress?.({ done, total }));
    }
  } else {
    for await (const { end, zeros, left } of files.copy(signal)) {
      for (const range of zeros) await hideWithZeros(guest, range.start, Math.min(range.end, total));
      await guest.image.committer.relieve();
      // What is wrong there is found and named by reading it.
      for (const range of left) await closely.copy(range, () => undefined);
      onProgress?.({ done: end, total });
    }
  }
  onProgress?.({ done: total, total });
}

/** Compares range by range, and copies what differs. */
class CloseCopy {
  readonly #guest: GuestImage;
  readonly #old: Comparable;
  readonly #next: Comparable;
  readonly #options: RebaseOptions;
  #copiedTo = 0;

  constructor(guest: GuestImage, old: Comparable, next: Comparable, options: RebaseOptions) {
    this.#guest = guest;
    this.#old = old;
    this.#next = next;
    this.#options = options;
  }

  async copy({ start, end }: Range, report: (done: number) => void): Promise<void> {
    const { signal, concurrency, compress = false } = this.#options;
    const { geometry } = this.#guest.image;
    const unit = compress === false ? geometry.subclusterSize : geometry.clusterSize;
    const query = {
      start,
      length: end - start,
      ...(signal === undefined ? {} : { signal }),
      ...(concurrency === undefined ? {} : { concurrency }),
    };
    for await (const difference of compare(this.#old, this.#next, query)) {
      const from = Math.max(this.#copiedTo, start, alignDown(difference.start, unit));
      const to = Math.min(end, alignUp(difference.start + difference.length, unit));
      for (let at = from; at < to;) {
        signal?.throwIfAborted();
        const stop = Math.min(to, alignDown(at, chunkBytes) + Math.max(chunkBytes, unit));
        await copyOld(this.#guest, this.#old, { start: at, end: stop }, unit, compress);
        at = stop;
        report(at);
      }
      this.#copiedTo = Math.max(this.#copiedTo, to);
    }
  }
}

/**
 * The ranges that neither the image itself decides nor the layers from `shared` down, which the old chain has in common with
 * the new one; whole subclusters.
 */
async function* rangesBetween(
  guest: GuestImage,
  shared: number,
  op: { signal?: AbortSignal },
): AsyncGenerator<Range> {
  const { header, geometry } = guest.image;
  let last: { start: number; end: number } | undefined;
  for await (const rows of guestExtentRows(guest, 0, header.size, op)) {
    for (let i = 0; i < rows.length; i += extentStride) {
      const start = rows[i] ?? 0;
      const depth = rows[i + ExtentColumn.depth] ?? 0;
      const isOwn = depth === 0 && rows[i + ExtentColumn.type] !== ExtentTypeIndex.unallocated;
      if (isOwn || depth >= shared) continue;
      const from = alignDown(start, geometry.subclusterSize);
      const end = alignUp(start + (rows[i + ExtentColumn.length] ?? 0), geometry.subclusterSize);
      const to = Math.min(end, header.size);
      if (last !== undefined && from <= last.end) {
        last.end = to;
        continue;
      }
      if (last !== undefined) yield last;
      last = { start: from, end: to };
    }
  }
  if (last !== undefined) yield last;
}

/** How far below the image the first layer is that is the new backing disk too; Infinity when there is none. */
function sharedDepth(old: object, next: object): number {
  const [top] = layersOf(next);
  if (top === undefined) return Infinity;
  const index = layersOf(old).findIndex((layer) => isSameDisk(layer, top));
  return index < 0 ? Infinity : index + 1;
}

/** Whether two layers are the same disk in the same file: its bytes may be read as a raw disk as well. */
function isSameDisk(a: Layer, b: Layer): boolean {
  return (
    a.identities.some((identity) => b.identities.includes(identity)) &&
    a.guest?.image.header.l1TableOffset === b.guest?.image.header.l1TableOffset
  );
}

/** Stores what the old backing disk has for a range of whole units that the image has nothing for. */
async function copyOld(
  guest: GuestImage,
  old: Comparable,
  { start, end }: Range,
  unit: number,
  compress: boolean | number,
): Promise<void> {
  const bytes = new Uint8Array(end - start);
  await readBelow(old, bytes, guestOffset(start));
  const ends = new Float64Array(Math.ceil(bytes.length / unit) + 1);
  const count = native.zeroRuns(bytes, unit, ends);
  let from = 0;
  for (let i = 0; i < count; i++) {
    const to = ends[i] ?? 0;
    if (i % 2 === 1) await hideWithZeros(guest, start + from, start + to);
    else if (to > from) await store(guest, bytes.subarray(from, to), start + from, compress);
    from = to;
  }
  await guest.image.committer.relieve();
}

async function store(
  guest: GuestImage,
  bytes: Uint8Array,
  start: number,
  compress: boolean | number,
): Promise<void> {
  const { header, geometry } = guest.image;
  const end = start + bytes.length;
  const whole =
    start % geometry.clusterSize === 0 && (end % geometry.clusterSize === 0 || end === header.size);
  // Of a cluster that the image has a part of already, the rest is stored beside that part.
  if (compress === false || !whole) await writeGuest(guest, bytes, guestOffset(start));
  else await writeCompressed(guest, bytes, guestOffset(start), compress === true ? undefined : compress);
}

/**
 * Makes a range of whole subclusters, for which the image has nothing, zeros of its own. Zeroing for a guest would leave
 * out what reads as zeros on the old backing disk.
 */
async function hideWithZeros(guest: GuestImage, start: number, end: number): Promise<void> {
  const { mapping, allocator, committer, geometry } = guest.image;
  const flags = mapping.l2Flags;
  if ((flags & (L2Flag.zeroFlag | L2Flag.extended)) === 0) {
    const zeros = new Uint8Array(Math.min(end - start, chunkBytes));
    for (let at = start; at < end; at += zeros.length) {
      await writeGuest(guest, zeros.subarray(0, end - at), guestOffset(at));
    }
    return;
  }
  const unlock = await guest.locks.exclusive(
    alignDown(start, geometry.clusterSize),
    alignUp(end, geometry.clusterSize),
  );
  try {
    const length = alignUp(end, geometry.subclusterSize) - start;
    await mapping.modify(guestOffset(start), length, allocator, committer, (table, at, part) => {
      native.l2SetZero(table, flags, geometry.clusterBits, at, part, true);
    });
  } finally {
    unlock();
  }
}

/** Writes the name and format of the backing file into the header; durable when it resolves. */
async function nameBacking(image: Image, to: BackingName | null): Promise<void> {
  const { header, storage, committer } = image;
  const before = new Uint8Array(header.geometry.clusterSize);
  await readExactly(storage, before, 0, 'the header');
  const others = otherExtensions(header, extensionTypes.backingFormat);
  const extensions = to?.format === undefined ? others : [backingFormatExtension(to.format), ...others];
  const after = replaceExtensions(before, header, extensions, to?.name ?? null);
  await committer.exclusive(async () => {
    await switchFirstCluster(image, before, after, extensions);
    await image.reloadHeader();
  });
}
