/**
 * The bits of one bitmap: its table in memory, and pages of bits, a cluster of the file each, read when they are needed.
 * What the table in the file names is never written to, for it may be someone else's in a damaged file: changed pages and
 * the changed table go to clusters taken for them, and what they had is given free only if nothing else refers to it.
 */
import { Qcow2Error } from '../errors.js';
import {
  bitmapFlags,
  bitmapTableEntriesFor,
  checkBitmapTable,
  type BitmapEntry,
} from '../format/bitmap-directory.js';
import { tableEntrySize } from '../format/geometry.js';
import {
  describeEntryProblem,
  isBitmapAllOnes,
  readBitmapTableEntry,
  tableLength,
  tableView,
  writeBitmapTableEntry,
} from '../format/table-entry.js';
import { alignUp, hostOffset, type HostOffset } from '../format/units.js';
import { native } from '../native.js';
import { readExactly, readPadded } from '../storage/storage.js';
import { clearBitsFrom, mergeBits, nextClear, nextSet, setBits } from './bit-page.js';
import type { Image } from './image.js';

/** QEMU's limit for the bits of one bitmap, bytes. */
const maxBitmapBytes = 512 * 1024 * 1024;

/** Pages in memory, bytes, past which those that were only read are forgotten. */
const maxCleanBytes = 16 * 1024 * 1024;

/** A run of dirty guest bytes. */
export interface DirtyExtent {
  /** First byte on the virtual disk. */
  start: number;
  /** Bytes. */
  length: number;
}

interface Page {
  bytes: Uint8Array;
  changed: boolean;
}

/** How often something in the file refers to a host cluster. */
export interface KnownReferences {
  get: (cluster: number) => number;
}

export class BitmapBits {
  readonly granularityBits: number;
  readonly #image: Image;
  readonly #pages = new Map<number, Page>();
  /** The pages whose cluster was taken here, and not found in the file. */
  readonly #ownClusters = new Set<number>();
  #table: DataView;
  #tableOffset: HostOffset;
  #size: number;
  /** Clusters that the table in the file still refers to and the one in memory does not. */
  #dropped: HostOffset[] = [];
  /** Whether the table in memory is in the file as it is. */
  #placed: boolean;

  private constructor(
    image: Image,
    granularityBits: number,
    size: number,
    table: Uint8Array,
    tableOffset: HostOffset,
  ) {
    this.#image = image;
    this.granularityBits = granularityBits;
    this.#size = size;
    this.#table = tableView(table);
    this.#tableOffset = tableOffset;
    this.#placed = tableOffset !== 0;
  }

  /**
   * Reads the table of a bitmap. Its bits are read later.
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when table or entries break the specification, `ERR_QCOW2_UNSUPPORTED` when the
   * bitmap is larger than QEMU allows
   */
  static async load(image: Image, entry: BitmapEntry): Promise<BitmapBits> {
    const { geometry, header, storage } = image;
    refuseTooLarge(entry.tableSize, geometry.clusterSize);
    const damage = checkBitmapTable(entry, header.size, geometry.clusterSize, await storage.size());
    if (damage !== null) throw damage;
    const bits = await BitmapBits.loadTable(image, entry);
    await bits.#checkEntries();
    return bits;
  }

  /** Reads a table that is in the file, to find what clusters a bitmap has that need not be fit for use. */
  static async loadTable(image: Image, entry: BitmapEntry): Promise<BitmapBits> {
    refuseTooLarge(entry.tableSize, image.geometry.clusterSize);
    const inUse = { ...entry, flags: entry.flags | bitmapFlags.inUse };
    const size = await image.storage.size();
    const damage = checkBitmapTable(inUse, image.header.size, image.geometry.clusterSize, size);
    if (damage !== null) throw damage;
    const table = new Uint8Array(entry.tableSize * tableEntrySize);
    await readExactly(image.storage, table, entry.tableOffset, `the table of bitmap ${entry.name}`);
    return new BitmapBits(image, entry.granularityBits, image.header.size, table, entry.tableOffset);
  }

  /**
   * A new bitmap without a set bit, not in the file yet.
   * @throws Qcow2Error `ERR_QCOW2_LIMIT` when it would be larger than QEMU allows
   */
  static empty(image: Image, granularityBits: number): BitmapBits {
    const { clusterSize } = image.geometry;
    const entries = bitmapTableEntriesFor(image.header.size, granularityBits, clusterSize);
    if (entries * clusterSize > maxBitmapBytes) {
      throw new Qcow2Error(
        'ERR_QCOW2_LIMIT',
        `A bitmap with a granularity of ${2 ** granularityBits} bytes would take ${entries * clusterSize} bytes for this ` +
          `disk; at most ${maxBitmapBytes} are allowed. Use a larger granularity`,
        { feature: 'bitmap granularity' },
      );
    }
    const table = new Uint8Array(entries * tableEntrySize);
    return new BitmapBits(image, granularityBits, image.header.size, table, hostOffset(0));
  }

  /** Bytes of pages in memory. */
  get residentBytes(): number {
    return this.#pages.size * this.#image.geometry.clusterSize;
  }

  /** Where the table is in the file; valid after {@link place}. */
  get tableOffset(): HostOffset {
    return this.#tableOffset;
  }

  /** Entries of the table. */
  get tableSize(): number {
    return tableLength(this.#table);
  }

  get #bitCount(): number {
    return Math.ceil(this.#size / 2 ** this.granularityBits);
  }

  /** Bits in a page. */
  get #pageBits(): number {
    return this.#image.geometry.clusterSize * 8;
  }

  /** Sets the bits of guest bytes [start, end) when all of it can be done in memory; else false, with some of them set. */
  setNow(start: number, end: number): boolean {
    const { first, last } = this.#bitRange(start, end);
    for (let at = first; at < last;) {
      const index = Math.floor(at / this.#pageBits);
      const page = this.#pages.get(index);
      if (page === undefined) return false;
      const stop = Math.min(last, (index + 1) * this.#pageBits);
      setBits(page.bytes, at - index * this.#pageBits, stop - index * this.#pageBits);
      page.changed = true;
      at = stop;
    }
    return true;
  }

  /** Sets the bits of guest bytes [start, end). */
  async set(start: number, end: number): Promise<void> {
    const { first, last } = this.#bitRange(start, end);
    for (let at = first; at < last;) {
      const index = Math.floor(at / this.#pageBits);
      const base = index * this.#pageBits;
      const stop = Math.min(last, base + this.#pageBits);
      const page = await this.#page(index);
      setBits(page.bytes, at - base, stop - base);
      page.changed = true;
      at = stop;
    }
  }

  /** Sets what is set in another bitmap of the same granularity, page by page, or of another one, run by run. */
  async merge(source: BitmapBits): Promise<void> {
    if (source.granularityBits === this.granularityBits && source.#pageBits === this.#pageBits) {
      for (let index = 0; index < Math.min(this.tableSize, source.tableSize); index++) {
        if (!source.#mayHaveBits(index)) continue;
        const from = (await source.#page(index)).bytes;
        const page = await this.#page(index);
        mergeBits(page.bytes, from.subarray(0, page.bytes.length));
        clearBitsFrom(page.bytes, this.#bitCount - index * this.#pageBits);
        page.changed = true;
      }
      return;
    }
    for await (const { start, length } of source.runs(0, this.#size)) await this.set(start, start + length);
  }

  /** The dirty runs within guest bytes [start, end), whole units of the granularity cut to the range. */
  async *runs(start: number, end: number): AsyncGenerator<DirtyExtent> {
    const unit = 2 ** this.granularityBits;
    let open: { first: number; last: number } | undefined;
    const { first, last } = this.#bitRange(start, end);
    for (let at = first; at < last;) {
      const index = Math.floor(at / this.#pageBits);
      const base = index * this.#pageBits;
      const stop = Math.min(last, base + this.#pageBits);
      const bytes = this.#mayHaveBits(index) ? (await this.#page(index)).bytes : undefined;
      let from = bytes === undefined ? stop - base : nextSet(bytes, at - base, stop - base);
      while (bytes !== undefined && from < stop - base) {
        const to = nextClear(bytes, from, stop - base);
        if (open?.last === base + from) open.last = base + to;
        else {
          if (open !== undefined) yield cut(open, unit, start, end);
          open = { first: base + from, last: base + to };
        }
        from = nextSet(bytes, to, stop - base);
      }
      at = stop;
    }
    if (open !== undefined) yield cut(open, unit, start, end);
  }

  /** Follows a change of the disk's size: what is past a new end is forgotten, what is new is clean. */
  async resize(size: number): Promise<void> {
    const { clusterSize } = this.#image.geometry;
    const lastPage = Math.ceil(Math.min(size, this.#size) / 2 ** this.granularityBits / this.#pageBits) - 1;
    // Whatever the file has behind the last bit must not turn into dirty bits.
    const edge = lastPage >= 0 && this.#mayHaveBits(lastPage) ? await this.#page(lastPage) : undefined;
    const entries = bitmapTableEntriesFor(size, this.granularityBits, clusterSize);
    for (let index = entries; index < this.tableSize; index++) this.#drop(index);
    for (const index of this.#pages.keys()) if (index >= entries) this.#pages.delete(index);
    this.#size = size;
    if (edge !== undefined) {
      const bytes = new Uint8Array(this.#pageLength(lastPage));
      bytes.set(edge.bytes.subarray(0, bytes.length));
      clearBitsFrom(bytes, this.#bitCount - lastPage * this.#pageBits);
      edge.bytes = bytes;
      edge.changed = true;
    }
    if (entries === this.tableSize) return;
    const table = new Uint8Array(entries * tableEntrySize);
    const old = this.#tableBytes();
    table.set(old.subarray(0, table.length));
    this.#dropTable();
    this.#table = tableView(table);
  }

  /** Writes changed pages to clusters of their own and forgets all pages. The bitmap must be in use, or not in the file. */
  async store(): Promise<void> {
    const { clusterSize } = this.#image.geometry;
    for (const [index, page] of this.#pages) {
      if (!page.changed) continue;
      if (native.isZero(page.bytes)) {
        this.#drop(index);
        continue;
      }
      const whole = new Uint8Array(clusterSize);
      whole.set(page.bytes);
      await this.#image.storage.write(whole, await this.#clusterFor(index));
    }
    this.#pages.clear();
  }

  /** Writes a new or changed table to a new place. The caller holds no lock that allocating needs. */
  async place(): Promise<void> {
    if (this.#placed || this.tableSize === 0) return;
    const { allocator, geometry } = this.#image;
    const clusters = Math.ceil((this.tableSize * tableEntrySize) / geometry.clusterSize);
    const first = await allocator.allocateContiguous(clusters);
    const offset = hostOffset(first * geometry.clusterSize);
    const padded = new Uint8Array(clusters * geometry.clusterSize);
    padded.set(this.#tableBytes());
    // Not referred to by anything yet, so it may be written before its refcounts.
    await this.#image.storage.write(padded, offset);
    this.#tableOffset = offset;
    this.#placed = true;
  }

  /** Whether there are clusters for {@link freeDropped}. */
  get hasDropped(): boolean {
    return this.#dropped.length > 0;
  }

  /**
   * Frees the clusters that nothing durable refers to any more.
   * @param references all that the file has; null when they are not known: then the clusters are lost, until a repair
   */
  async freeDropped(references: KnownReferences | null): Promise<void> {
    const { committer, geometry, refcounts } = this.#image;
    // A damaged table may name a cluster twice.
    const dropped = references === null ? [] : new Set(this.#dropped);
    for (const offset of dropped) {
      const cluster = offset / geometry.clusterSize;
      if ((await refcounts.get(cluster)) <= (references?.get(cluster) ?? 0)) continue;
      committer.freeLater(offset, geometry.clusterSize, true);
    }
    this.#dropped = [];
  }

  /** Drops everything the bitmap has in the file. */
  dropAll(): void {
    for (let index = 0; index < this.tableSize; index++) this.#drop(index);
    this.#dropTable();
    this.#pages.clear();
  }

  #bitRange(start: number, end: number): { first: number; last: number } {
    const unit = 2 ** this.granularityBits;
    return { first: Math.floor(start / unit), last: Math.min(this.#bitCount, Math.ceil(end / unit)) };
  }

  #tableBytes(): Uint8Array {
    return new Uint8Array(this.#table.buffer, this.#table.byteOffset, this.#table.byteLength);
  }

  /** Bytes of a page that hold bits. */
  #pageLength(index: number): number {
    const { clusterSize } = this.#image.geometry;
    return Math.min(clusterSize, Math.ceil(this.#bitCount / 8) - index * clusterSize);
  }

  #mayHaveBits(index: number): boolean {
    if (index >= this.tableSize) return false;
    return (
      this.#pages.has(index) ||
      isBitmapAllOnes(this.#table, index) ||
      readBitmapTableEntry(this.#table, index, this.#image.geometry.clusterSize) !== 0
    );
  }

  async #page(index: number): Promise<Page> {
    const found = this.#pages.get(index);
    if (found !== undefined) return found;
    const bytes = new Uint8Array(this.#pageLength(index));
    if (isBitmapAllOnes(this.#table, index)) bytes.fill(0xff);
    else {
      const offset = readBitmapTableEntry(this.#table, index, this.#image.geometry.clusterSize);
      if (offset > 0) await readPadded(this.#image.storage, bytes, offset);
    }
    clearBitsFrom(bytes, this.#bitCount - index * this.#pageBits);
    const page = { bytes, changed: false };
    this.#makeRoom();
    this.#pages.set(index, page);
    return page;
  }

  /** Forgets pages that can be read again when there are many. */
  #makeRoom(): void {
    if (this.residentBytes < maxCleanBytes) return;
    for (const [index, { changed }] of this.#pages) if (!changed) this.#pages.delete(index);
  }

  /** The cluster to write a page to. */
  async #clusterFor(index: number): Promise<HostOffset> {
    const { allocator, geometry } = this.#image;
    if (this.#ownClusters.has(index)) {
      return hostOffset(readBitmapTableEntry(this.#table, index, geometry.clusterSize));
    }
    const { first } = await allocator.allocate(1);
    const offset = hostOffset(first * geometry.clusterSize);
    this.#drop(index);
    this.#dropTable();
    writeBitmapTableEntry(this.#table, index, offset);
    this.#ownClusters.add(index);
    return offset;
  }

  /** Makes the entry of a page 0. */
  #drop(index: number): void {
    const offset = readBitmapTableEntry(this.#table, index, this.#image.geometry.clusterSize);
    if (offset === 0 && !isBitmapAllOnes(this.#table, index)) return;
    if (offset > 0) this.#dropped.push(hostOffset(offset));
    this.#ownClusters.delete(index);
    this.#dropTable();
    writeBitmapTableEntry(this.#table, index, hostOffset(0));
  }

  /** Says that the table in the file is out of date. */
  #dropTable(): void {
    const { clusterSize } = this.#image.geometry;
    const bytes = this.#placed ? this.#table.byteLength : 0;
    for (let at = 0; at < bytes; at += clusterSize) this.#dropped.push(hostOffset(this.#tableOffset + at));
    this.#tableOffset = hostOffset(0);
    this.#placed = false;
  }

  async #checkEntries(): Promise<void> {
    const { storage, geometry, reserved } = this.#image;
    const fileEnd = alignUp(await storage.size(), geometry.clusterSize);
    for (let index = 0; index < this.tableSize; index++) {
      const offset = readBitmapTableEntry(this.#table, index, geometry.clusterSize);
      if (offset < 0) throw this.#badEntry(index, describeEntryProblem(offset));
      if (offset === 0) continue;
      if (offset >= fileEnd) throw this.#badEntry(index, 'points past the end of the file');
      const metadata = reserved.overlap(offset, geometry.clusterSize);
      if (metadata !== undefined) throw this.#badEntry(index, `points at the ${metadata}`);
    }
  }

  #badEntry(index: number, problem: string): Qcow2Error {
    return new Qcow2Error('ERR_QCOW2_CORRUPT', `Entry ${index} of a bitmap table ${problem}`, {
      offset: this.#tableOffset + index * tableEntrySize,
      feature: 'bitmap table',
    });
  }
}

function refuseTooLarge(tableSize: number, clusterSize: number): void {
  if (tableSize * clusterSize <= maxBitmapBytes) return;
  throw new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `A bitmap has ${tableSize * clusterSize} bytes of bits; at most ${maxBitmapBytes} are supported`,
    { feature: 'bitmap table' },
  );
}

function cut(run: { first: number; last: number }, unit: number, start: number, end: number): DirtyExtent {
  const from = Math.max(start, run.first * unit);
  return { start: from, length: Math.min(end, run.last * unit) - from };
}
