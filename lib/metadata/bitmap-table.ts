/**
 * The table of one bitmap, in memory: which cluster of the file has which part of the bits. What the table in the file
 * names is only written to or freed when it is known to be the bitmap's own, for in a damaged file it may be someone
 * else's: changed parts and the changed table go to clusters taken for them.
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
import { readExactly } from '../storage/storage.js';
import type { ClusterSet } from './cluster-set.js';
import type { Image } from './image.js';
import { quote } from '../format/text.js';

/** QEMU's limit for the bits of one bitmap, bytes. */
const maxBitmapBytes = 512 * 1024 * 1024;

/** How often something in the file refers to a host cluster. */
export interface KnownReferences {
  get: (cluster: number) => number;
}

/** Where bitmaps are: an image, and the clusters of it that are known to be theirs and each referred to once. */
export interface BitmapHome {
  readonly image: Image;
  readonly own: ClusterSet;
}

export class BitmapTable {
  readonly #home: BitmapHome;
  #entries: DataView;
  #offset: HostOffset;
  /** Clusters that the table in the file still refers to and the one in memory does not. */
  #dropped: HostOffset[] = [];
  /** Whether the table in memory is in the file as it is. */
  #placed: boolean;

  private constructor(home: BitmapHome, entries: Uint8Array, offset: HostOffset) {
    this.#home = home;
    this.#entries = tableView(entries);
    this.#offset = offset;
    this.#placed = offset !== 0;
  }

  /**
   * Reads the table of a bitmap that is fit for use.
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when it or its entries break the specification, `ERR_QCOW2_UNSUPPORTED` when the
   * bitmap is larger than QEMU allows
   */
  static async load(home: BitmapHome, entry: BitmapEntry): Promise<BitmapTable> {
    const { geometry, header, storage } = home.image;
    refuseTooLarge(entry.tableSize, geometry.clusterSize);
    const damage = checkBitmapTable(entry, header.size, geometry.clusterSize, await storage.size());
    if (damage !== null) throw damage;
    const table = await BitmapTable.loadUnused(home, entry);
    await table.#checkEntries();
    return table;
  }

  /** Reads a table to find what clusters a bitmap has that need not be fit for use. */
  static async loadUnused(home: BitmapHome, entry: BitmapEntry): Promise<BitmapTable> {
    const { geometry, header, storage } = home.image;
    refuseTooLarge(entry.tableSize, geometry.clusterSize);
    const inUse = { ...entry, flags: entry.flags | bitmapFlags.inUse };
    const damage = checkBitmapTable(inUse, header.size, geometry.clusterSize, await storage.size());
    if (damage !== null) throw damage;
    const entries = new Uint8Array(entry.tableSize * tableEntrySize);
    await readExactly(storage, entries, entry.tableOffset, `the table of bitmap ${quote(entry.name)}`);
    return new BitmapTable(home, entries, entry.tableOffset);
  }

  /**
   * A table for a disk of `size` bytes, not in the file yet.
   * @throws Qcow2Error `ERR_QCOW2_LIMIT` when the bitmap would be larger than QEMU allows
   */
  static empty(home: BitmapHome, size: number, granularityBits: number): BitmapTable {
    const { clusterSize } = home.image.geometry;
    const entries = bitmapTableEntriesFor(size, granularityBits, clusterSize);
    if (entries * clusterSize > maxBitmapBytes) {
      throw new Qcow2Error(
        'ERR_QCOW2_LIMIT',
        `A bitmap with a granularity of ${2 ** granularityBits} bytes would take ${entries * clusterSize} bytes for this ` +
          `disk; at most ${maxBitmapBytes} are allowed. Use a larger granularity`,
        { feature: 'bitmap granularity' },
      );
    }
    return new BitmapTable(home, new Uint8Array(entries * tableEntrySize), hostOffset(0));
  }

  /** Where the table is in the file; valid after {@link place}. */
  get offset(): HostOffset {
    return this.#offset;
  }

  /** Entries of the table. */
  get length(): number {
    return tableLength(this.#entries);
  }

  get #clusterSize(): number {
    return this.#home.image.geometry.clusterSize;
  }

  /** Whether all bits of an entry are set, without a cluster for them. */
  isAllOnes(index: number): boolean {
    return isBitmapAllOnes(this.#entries, index);
  }

  /** Where the bits of an entry are; 0 when there is no cluster for them. */
  clusterAt(index: number): number {
    return readBitmapTableEntry(this.#entries, index, this.#clusterSize);
  }

  /** A cluster of the bitmap's own to write the bits of an entry to. */
  async clusterFor(index: number): Promise<HostOffset> {
    const { own, image } = this.#home;
    const present = this.clusterAt(index);
    if (present > 0 && own.has(present / this.#clusterSize)) return hostOffset(present);
    const { first } = await image.allocator.allocate(1);
    own.add(first);
    this.drop(index);
    this.#dropTable();
    const offset = hostOffset(first * this.#clusterSize);
    writeBitmapTableEntry(this.#entries, index, offset);
    return offset;
  }

  /** Makes an entry 0. */
  drop(index: number): void {
    const offset = this.clusterAt(index);
    if (offset === 0 && !this.isAllOnes(index)) return;
    if (offset > 0) this.#dropped.push(hostOffset(offset));
    this.#dropTable();
    writeBitmapTableEntry(this.#entries, index, hostOffset(0));
  }

  /** Drops everything there is in the file. */
  dropAll(): void {
    for (let index = 0; index < this.length; index++) this.drop(index);
    this.#dropTable();
  }

  resize(length: number): void {
    for (let index = length; index < this.length; index++) this.drop(index);
    if (length === this.length) return;
    const entries = new Uint8Array(length * tableEntrySize);
    entries.set(this.#bytes().subarray(0, entries.length));
    this.#dropTable();
    this.#entries = tableView(entries);
  }

  /** Writes a new or changed table to a new place. The caller holds no lock that allocating needs. */
  async place(): Promise<void> {
    if (this.#placed || this.length === 0) return;
    const { image, own } = this.#home;
    const clusters = Math.ceil((this.length * tableEntrySize) / this.#clusterSize);
    const first = await image.allocator.allocateContiguous(clusters);
    for (let cluster = first; cluster < first + clusters; cluster++) own.add(cluster);
    const offset = hostOffset(first * this.#clusterSize);
    const padded = new Uint8Array(clusters * this.#clusterSize);
    padded.set(this.#bytes());
    try {
      // Not referred to by anything yet, so it may be written before its refcounts.
      await image.storage.write(padded, offset);
    } catch (error) {
      for (let at = 0; at < padded.length; at += this.#clusterSize)
        this.#dropped.push(hostOffset(offset + at));
      throw error;
    }
    this.#offset = offset;
    this.#placed = true;
  }

  /** Whether there are clusters for {@link freeDropped} of which it is not known whose they are. */
  get hasDroppedUnknown(): boolean {
    return this.#dropped.some((offset) => !this.#home.own.has(offset / this.#clusterSize));
  }

  /**
   * Frees the clusters that nothing durable refers to any more.
   * @param references all that the file has; null when they are not known: then clusters that are not known to be the
   * bitmap's own are lost, until a repair
   */
  async freeDropped(references: KnownReferences | null): Promise<void> {
    const { image, own } = this.#home;
    // A damaged table may name a cluster twice.
    for (const offset of new Set(this.#dropped)) {
      const cluster = offset / this.#clusterSize;
      if (own.has(cluster)) own.delete(cluster);
      else if (references === null) continue;
      else if ((await image.refcounts.get(cluster)) <= references.get(cluster)) continue;
      image.committer.freeLater(offset, this.#clusterSize, true);
    }
    this.#dropped = [];
  }

  /** Notes the clusters of the bitmap that nothing but it refers to, for good. */
  adopt(references: KnownReferences): void {
    const { own } = this.#home;
    const note = (offset: number): void => {
      const cluster = offset / this.#clusterSize;
      if (offset > 0 && references.get(cluster) === 1) own.add(cluster);
    };
    for (let index = 0; index < this.length; index++) note(this.clusterAt(index));
    const bytes = this.#placed ? this.#entries.byteLength : 0;
    for (let at = 0; at < bytes; at += this.#clusterSize) note(this.#offset + at);
  }

  #bytes(): Uint8Array {
    return new Uint8Array(this.#entries.buffer, this.#entries.byteOffset, this.#entries.byteLength);
  }

  /** Says that the table in the file is out of date. */
  #dropTable(): void {
    const bytes = this.#placed ? this.#entries.byteLength : 0;
    for (let at = 0; at < bytes; at += this.#clusterSize) this.#dropped.push(hostOffset(this.#offset + at));
    this.#offset = hostOffset(0);
    this.#placed = false;
  }

  async #checkEntries(): Promise<void> {
    const { storage, reserved } = this.#home.image;
    const fileEnd = alignUp(await storage.size(), this.#clusterSize);
    for (let index = 0; index < this.length; index++) {
      const offset = this.clusterAt(index);
      if (offset < 0) throw this.#badEntry(index, describeEntryProblem(offset));
      if (offset === 0) continue;
      if (offset >= fileEnd) throw this.#badEntry(index, 'points past the end of the file');
      const metadata = reserved.overlap(offset, this.#clusterSize);
      if (metadata !== undefined) throw this.#badEntry(index, `points at the ${metadata}`);
    }
  }

  #badEntry(index: number, problem: string): Qcow2Error {
    return new Qcow2Error('ERR_QCOW2_CORRUPT', `Entry ${index} of a bitmap table ${problem}`, {
      offset: this.#offset + index * tableEntrySize,
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
