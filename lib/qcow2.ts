/** open() and class Qcow2: wires the parts together and owns their lifetime. What does whole jobs is loaded when one is asked for. */
import type { Readable } from 'node:stream';
import type { ByteRange, Disk, Extent, ExtentQuery, Op, WritableDisk } from './disk.js';
import type { Header } from './format/header.js';
import { toBytes } from './format/units.js';
import { assertChangeable, assertWritable } from './io/changeable.js';
import { closeChannel, openChannel, type ImageEvent } from './io/channels.js';
import { createReadStream, nextData, nextHole, queryRange } from './io/disk-queries.js';
import { guestExtentRows, guestExtents } from './io/extents.js';
import type { GuestImage } from './io/guest-image.js';
import type { RawDisk } from './io/raw-disk.js';
import { Requests, type DiscardOptions, type WriteOptions } from './io/requests.js';
import type { CacheStats, DiskStats } from './io/statistics.js';
import { log } from './log.js';
import type { TableCache } from './metadata/table-cache.js';
import { defaultCacheBytes, makeGuest, openAnyDisk, openImage } from './open.js';
import type { Below, ChainContext, Opened } from './open.js';
import type { AmendOptions } from './operations/amend.js';
import type { AddKeyOptions, RemoveKeyOptions } from './operations/amend/keys.js';
import { Bitmaps, type Access } from './operations/bitmaps.js';
import type { CheckOptions, CheckReport } from './operations/check/report.js';
import type { CommitOptions } from './operations/commit.js';
import type { CompactOptions, CompactReport } from './operations/compact/job.js';
import type { ImageInfo } from './operations/info-report.js';
import { gatherInfo } from './operations/info.js';
import type { BackingName, RebaseOptions } from './operations/rebase.js';
import type { ResizeOptions } from './operations/resize.js';
import { Snapshots } from './operations/snapshots.js';
import type { ImageFormat, OpenOptions, Source } from './options.js';
import { closeAll } from './storage/closable.js';

/** @internal How an image opens what it stands on: with this module's own disks. */
export const chain: ChainContext = {
  identities: [],
  makeDisk: (opened) => new Qcow2(opened),
};

/**
 * Opens a qcow2 image, read-only unless `mode: 'r+'` is given.
 * @throws Qcow2Error when it is none, is damaged or needs something that was not given; system errors of the file
 */
export async function open(source: Source, options: OpenOptions = {}): Promise<Qcow2> {
  return new Qcow2(await openImage(source, options, chain));
}

/** Opens an image of either format as a disk; without `format` its first bytes tell. */
export function openDisk(
  source: Source,
  options: OpenOptions & { format?: ImageFormat } = {},
): Promise<{
  /** Closing it closes the file. */
  disk: Disk;
  /** The format it has, or was said to have. */
  format: ImageFormat;
}> {
  return openAnyDisk(source, options.format, options, chain);
}

/** Opens a backing file once more, as it was opened first but perhaps for writing. */
async function openBelow(below: Below, mode: 'r' | 'r+'): Promise<Qcow2 | RawDisk> {
  const { disk } = await openDisk(below.source, { ...below.options, mode, format: below.format });
  // Nothing else is made by openDisk.
  return disk as Qcow2 | RawDisk;
}

export class Qcow2 implements WritableDisk {
  readonly #guest: GuestImage;
  readonly #opened: Opened;
  readonly #requests: Requests;
  /** The persistent bitmaps of the image. */
  readonly bitmaps: Bitmaps;
  /** The internal snapshots of the image. */
  readonly snapshots: Snapshots;
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(opened: Opened) {
    this.#opened = opened;
    this.#guest = opened.guest;
    const requests = new Requests(this.#guest);
    this.#requests = requests;
    // What is written beside a change would be in no bitmap, or in half a snapshot.
    const access: Access = {
      read: (job) => requests.during(job),
      still: (job) => requests.beside(job),
      change: (job) => requests.change(job),
    };
    this.bitmaps = new Bitmaps(this.#guest, access);
    this.snapshots = new Snapshots(this.#guest, {
      ...access,
      view: (image, close) => {
        const { backing, cipher } = this.#guest;
        const guest = makeGuest(image, backing, cipher);
        return new Qcow2({ guest, owned: [{ close }], options: {}, below: null });
      },
    });
    log('opened %s for %s', opened.guest.image.storage.name, this.writable ? 'writing' : 'reading');
    if (openChannel.hasSubscribers) openChannel.publish(this.#event());
  }

  /** Virtual size, bytes. */
  get size(): number {
    return this.header.size;
  }

  /** Whether the image is open for writing. */
  get writable(): boolean {
    return this.#guest.image.writable;
  }

  /**
   * @internal What whole-image jobs work on.
   * @throws Qcow2Error `ERR_QCOW2_CLOSED`
   */
  get guest(): GuestImage {
    this.#requests.assertOpen();
    return this.#guest;
  }

  /** The header as it is now. */
  get header(): Header {
    return this.#guest.image.header;
  }

  /** Fills all of `buffer` with the guest's bytes from `position` on. */
  read(buffer: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    return this.#requests.read(buffer, position, op);
  }

  /**
   * Like {@link read}, at once: true when `buffer` is filled, false when that would take waiting, for the disk, another
   * request or a decoder; then there may be anything in it.
   */
  readNow(buffer: Uint8Array, position: number | bigint): boolean {
    return this.#requests.readNow(buffer, position);
  }

  /**
   * Writes bytes; durable after {@link flush}. With `compress` whole clusters are stored compressed, and the data must
   * begin and end at clusters or with the disk.
   */
  write(data: Uint8Array, position: number | bigint, options: WriteOptions = {}): Promise<void> {
    return this.#requests.write(data, position, options);
  }

  /** Makes a range read as zeros, dropping the clusters it had. */
  writeZeroes(position: number | bigint, length: number | bigint, op: Op = {}): Promise<void> {
    return this.#requests.zero(position, length, op, { punch: false });
  }

  /** Like {@link writeZeroes}, and gives the space back to the file system once that is safe. */
  discard(position: number | bigint, length: number | bigint, options: DiscardOptions = {}): Promise<void> {
    const { keepAllocated = false } = options;
    return this.#requests.zero(position, length, options, { punch: true, keepAllocated });
  }

  /** Resolves once everything written before the call is durable. */
  flush(): Promise<void> {
    return this.#requests.flush();
  }

  /** What was asked of the image since it was opened, and how its caches did. From the first call on latency is measured. */
  stats(): DiskStats {
    const { mapping, refcounts, allocator } = this.#guest.image;
    const cache = ({ hits, misses, bytes }: TableCache): CacheStats => ({ hits, misses, bytes });
    return {
      requests: this.#requests.counters.report(),
      l2Cache: cache(mapping.cache),
      refcountCache: cache(refcounts.cache),
      allocatedClusters: allocator.allocated,
      freedClusters: allocator.freed,
    };
  }

  extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    this.#requests.assertOpen();
    const { start, end } = queryRange(this.size, query);
    return guestExtents(this.#guest, start, end, query);
  }

  extentRows(query: ExtentQuery = {}): AsyncGenerator<Float64Array> {
    this.#requests.assertOpen();
    const { start, end } = queryRange(this.size, query);
    return guestExtentRows(this.#guest, start, end, query);
  }

  nextData(position: number | bigint, op?: Op): Promise<number | null> {
    return nextData(this, position, op);
  }

  nextHole(position: number | bigint, op?: Op): Promise<number> {
    return nextHole(this, position, op);
  }

  createReadStream(range?: ByteRange & Op): Readable {
    return createReadStream(this, range);
  }

  /** What there is to know about the image without reading its tables. Names in it are untrusted text. */
  info(): Promise<ImageInfo> {
    return this.#requests.during(() => gatherInfo(this.#guest.image));
  }

  /**
   * Looks for everything that is wrong with the image's metadata, and repairs it when told to. Damage never throws: it is
   * in the report. Needs `forRepair` where the refcount table is gone or the image is marked corrupt. Without `repair`
   * reads go on meanwhile; everything else waits.
   * @throws Qcow2Error `ERR_QCOW2_READ_ONLY` for a repair of an image that is open read-only; `ERR_QCOW2_LIMIT` when
   * memoryLimit does not suffice; the signal's reason
   */
  check(options: CheckOptions = {}): Promise<CheckReport> {
    const job = async (): Promise<CheckReport> => {
      const { checkGuest } = await import('./operations/repair.js');
      return checkGuest(this.#guest, options);
    };
    // Bitmaps and snapshots change under no lock of guest ranges.
    return this.#guest.image.writable ? this.#requests.alone(job) : this.#requests.during(job);
  }

  /**
   * Makes the refcounts anew, in a new place, from what the image refers to, and corrects the COPIED flags. Works on an
   * image whose refcount table is gone (open it with `forRepair`).
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when not everything that refers to clusters can be read: nothing is changed then
   */
  rebuildRefcounts(options: Omit<CheckOptions, 'repair' | 'maxFindings'> = {}): Promise<void> {
    return this.#requests.alone(async () => {
      const { rebuildGuestRefcounts } = await import('./operations/repair.js');
      await rebuildGuestRefcounts(this.#guest, options);
    });
  }

  /**
   * Changes the size of the disk.
   * @throws Qcow2Error `ERR_QCOW2_DATA_LOSS` when there is data past the new size and `shrink` is not set
   */
  async resize(size: number | bigint, options: ResizeOptions = {}): Promise<void> {
    const bytes = toBytes('size', size);
    // Nothing may be written while it is looked whether data would be lost, nor while the file's end moves.
    await this.#requests.alone(async () => {
      assertWritable(this.#guest);
      const { resizeGuest } = await import('./operations/resize.js');
      await resizeGuest(this.#guest, bytes, options);
    });
  }

  /**
   * Writes what this image holds of its own into its backing file, or into one further down, and empties the image. Its
   * content does not change, that of the file below becomes the same; other images on that file lose their meaning. Reads
   * go on meanwhile, changes wait. It may be aborted or interrupted at any point and then done again: see the top of
   * `operations/commit`.
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` without a backing file, `ERR_QCOW2_LOCKED` when someone else uses the file
   * below; RangeError when there is no file that far down; the signal's reason
   */
  commit(options: CommitOptions = {}): Promise<void> {
    return this.#requests.rewrite(async () => {
      this.snapshots.refuseWhileOpen('a commit');
      const { commitDown } = await import('./operations/commit.js');
      await commitDown(this, this.#layers(), options, openBelow);
    });
  }

  /**
   * Puts this image on another backing file, or on none. Unless told otherwise its content stays the same; that of its
   * snapshots does not, where the files below differ. Reads go on meanwhile, changes wait. It may be aborted or
   * interrupted at any point and then done again: see the top of `operations/rebase`.
   * @param to the file to be named, whose name starts from this image's directory; what it names in turn is up to the
   * `resolve` policy this image was opened with
   * @throws Qcow2Error `ERR_QCOW2_REFERENCE` when the new file cannot be opened or stands on this image,
   * `ERR_QCOW2_LIMIT` when its name does not fit into the header, `ERR_QCOW2_CONFLICT`; the signal's reason
   */
  rebase(to: BackingName | null, options: RebaseOptions = {}): Promise<void> {
    return this.#requests.alone(async () => {
      const isSafe = options.mode !== 'unsafe';
      this.snapshots.refuseWhileOpen('a rebase');
      if (isSafe) assertWritable(this.#guest);
      else assertChangeable(this.#guest.image);
      const { image } = this.#guest;
      image.committer.assertSound();
      const { checkBackingName, rebaseImage } = await import('./operations/rebase.js');
      checkBackingName(image, to, options);
      const { openNewBacking } = await import('./operations/chain/new-backing.js');
      const backing = to === null ? null : await openNewBacking(this.#opened, to, isSafe, chain);
      try {
        await rebaseImage(this.#opened, to, backing, options);
      } catch (error) {
        if (backing !== null && this.#guest.backing !== backing.disk) await backing.disk.close();
        throw error;
      }
    });
  }

  /**
   * Changes what kind of image this is. Everything is refused before anything is changed, except refcounts that do not fit
   * a new width and data past a new size. Changes of the disk wait meanwhile.
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` for what the image cannot become, `ERR_QCOW2_LIMIT` when a refcount does not
   * fit, `ERR_QCOW2_DATA_LOSS` for data past the new size; RangeError for options out of range; the signal's reason
   */
  amend(options: AmendOptions): Promise<void> {
    return this.#requests.alone(async () => {
      if (options.size === undefined && options.version !== 2) assertChangeable(this.#guest.image);
      else assertWritable(this.#guest);
      this.#guest.image.committer.assertSound();
      const { amendImage } = await import('./operations/amend.js');
      await amendImage(this.#guest, options, this.#opened.options.cacheBytes ?? defaultCacheBytes);
    });
  }

  /**
   * Makes the image file as small as it can be without losing anything: clusters move from its end to free places before
   * it, then it is cut. Empty L2 tables and what nothing refers to are dropped. Reads and writes go on meanwhile, other jobs
   * wait. Needs memory for the check that comes first (a byte for each cluster of the file) and 64 MiB. It stops when
   * nothing more can be gained; stopped by a signal it leaves what is done by then.
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` for an image that does not check clean, `ERR_QCOW2_SECRET` for one encrypted
   * with LUKS that was opened without its secret, `ERR_QCOW2_CONFLICT` while a snapshot is open; the signal's reason
   */
  compact(options: CompactOptions = {}): Promise<CompactReport> {
    return this.#requests.beside(async (pause) => {
      this.snapshots.refuseWhileOpen('a compaction');
      if (options.detectZeroes === true) assertWritable(this.#guest);
      else assertChangeable(this.#guest.image);
      this.#guest.image.committer.assertSound();
      const { compactGuest } = await import('./operations/compact.js');
      return compactGuest(this.#guest, pause, options);
    });
  }

  /**
   * Makes one more secret open this image, which is encrypted with LUKS.
   * @returns the key slot used
   * @throws Qcow2Error `ERR_QCOW2_SECRET` when `unlock` opens nothing, `ERR_QCOW2_LIMIT` when all slots are in use,
   * `ERR_QCOW2_CONFLICT` when the wanted one is
   */
  addKey(options: AddKeyOptions): Promise<number> {
    return this.#requests.alone(async () => {
      assertChangeable(this.#guest.image);
      const { addKey } = await import('./operations/amend/keys.js');
      return addKey(this.#guest.image, options);
    });
  }

  /**
   * Destroys keys of this image, which is encrypted with LUKS. A disk that is open stays unlocked.
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND` for an inactive slot, `ERR_QCOW2_SECRET` for a secret that opens none,
   * `ERR_QCOW2_DATA_LOSS` for the last key unless forced
   */
  removeKey(options: RemoveKeyOptions): Promise<void> {
    return this.#requests.alone(async () => {
      assertChangeable(this.#guest.image);
      const { removeKey } = await import('./operations/amend/keys.js');
      return removeKey(this.#guest.image, options);
    });
  }

  /** Waits for what is under way, makes everything durable, marks the image clean and closes what this disk opened. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const { image } = this.#guest;
    await this.#requests.close();
    await this.snapshots.closeAll();
    try {
      if (image.writable) {
        await image.committer.settle();
        await this.#guest.bitmaps.save();
        await image.markClean();
      }
    } finally {
      await closeAll(this.#opened.owned);
      log('closed %s', image.storage.name);
      if (closeChannel.hasSubscribers) closeChannel.publish(this.#event());
    }
  }

  #event(): ImageEvent {
    const { storage, writable } = this.#guest.image;
    return { image: storage.name, writable };
  }

  /** The images of the chain from this one down, up to the first that is none. */
  #layers(): Opened[] {
    const layers: Opened[] = [];
    let disk: Disk | null = this.#guest.backing;
    layers.push(this.#opened);
    while (disk instanceof Qcow2) {
      layers.push(disk.#opened);
      disk = disk.#guest.backing;
    }
    return layers;
  }
}
