/** The refcount table and its blocks in memory: reading, changing and searching the reference counts of host clusters. */
import { Qcow2Error } from '../errors.js';
import { tableEntrySize, type Geometry } from '../format/geometry.js';
import {
  describeEntryProblem,
  nextEntry,
  readRefcountTableEntry,
  tableLength,
  tableView,
  writeRefcountTableEntry,
} from '../format/table-entry.js';
import { alignUp, hostOffset, type HostOffset } from '../format/units.js';
import { native } from '../native.js';
import type { Storage } from '../storage/storage.js';
import { DirtyRange } from './dirty-range.js';
import type { Reserved } from './reserved.js';
import { TableCache, type Slice } from './table-cache.js';

export class Refcounts {
  readonly cache: TableCache;
  readonly dirtyTable = new DirtyRange();
  readonly #storage: Storage;
  readonly #geometry: Geometry;
  readonly #reserved: Reserved;
  /** Refcounts in one cached slice. */
  readonly #sliceEntries: number;
  #table: DataView;
  #offset: HostOffset;

  constructor(
    storage: Storage,
    geometry: Geometry,
    table: Uint8Array,
    offset: HostOffset,
    reserved: Reserved,
    cacheBytes: number,
  ) {
    this.#storage = storage;
    this.#geometry = geometry;
    this.#reserved = reserved;
    this.#table = tableView(table);
    this.#offset = offset;
    this.cache = new TableCache(storage, geometry.clusterSize, cacheBytes, 'the refcount block');
    this.#sliceEntries = (this.cache.sliceSize * 8) / geometry.refcountBits;
  }

  /** Where the refcount table is. */
  get tableOffset(): HostOffset {
    return this.#offset;
  }

  /** The refcount table's own bytes, big-endian, kept up to date. */
  get tableBytes(): Uint8Array {
    return new Uint8Array(this.#table.buffer, this.#table.byteOffset, this.#table.byteLength);
  }

  /** Host clusters that the refcount table can describe at its present size. */
  get capacity(): number {
    return tableLength(this.#table) * this.#geometry.refcountBlockEntries;
  }

  /** Where the refcount block of a host cluster is; 0 when there is none. */
  blockOffset(cluster: number): HostOffset {
    const index = Math.floor(cluster / this.#geometry.refcountBlockEntries);
    if (index >= tableLength(this.#table)) return hostOffset(0);
    const offset = readRefcountTableEntry(this.#table, index, this.#geometry.clusterSize);
    if (offset < 0) throw this.#badEntry(index, describeEntryProblem(offset));
    if (offset > 0) {
      const conflict = this.#reserved.tableConflict(hostOffset(offset));
      if (conflict !== undefined)
        throw this.#badEntry(index, `points at offset ${offset}, where the ${conflict} is`);
    }
    return hostOffset(offset);
  }

  /** The offsets of all refcount blocks. Entries that break the specification are left out. */
  *blocks(): Generator<HostOffset> {
    for (const index of this.#entries(0)) {
      const offset = readRefcountTableEntry(this.#table, index, this.#geometry.clusterSize);
      if (offset > 0) yield hostOffset(offset);
    }
  }

  /** The indexes, from `first` on, of entries of the refcount table that are not 0. */
  *#entries(first: number): Generator<number> {
    let index = nextEntry(this.#table, first);
    for (; index < tableLength(this.#table); index = nextEntry(this.#table, index + 1)) yield index;
  }

  async get(cluster: number): Promise<number> {
    const order = this.#geometry.refcountOrder;
    const block = this.blockOffset(cluster);
    if (block === 0) return 0;
    return this.cache.use(this.#sliceOffset(block, cluster), ({ bytes }) =>
      native.refcountGet(bytes, order, cluster % this.#sliceEntries),
    );
  }

  /** One past the last cluster whose refcount is not 0; 0 when there is none. Above `limit` surely none has another. */
  async usedEnd(limit = this.capacity): Promise<number> {
    const { refcountOrder, refcountBlockEntries } = this.#geometry;
    const end = Math.min(this.capacity, alignUp(limit, this.#sliceEntries));
    for (let base = end - this.#sliceEntries; base >= 0; base -= this.#sliceEntries) {
      const block = this.blockOffset(base);
      if (block === 0) {
        base -= base % refcountBlockEntries;
        continue;
      }
      const endInSlice = await this.cache.use(this.#sliceOffset(block, base), ({ bytes }) => {
        let [low, high] = [0, this.#sliceEntries];
        while (low < high) {
          const middle = (low + high) >>> 1;
          if (native.refcountNextUsed(bytes, refcountOrder, middle, high) === high) high = middle;
          else low = middle + 1;
        }
        return high;
      });
      if (endInSlice > 0) return base + endInSlice;
    }
    return 0;
  }

  /** Adds a reference to a cluster that is in use and has room for one more, if `mayStill` agrees at that very moment. */
  async share(cluster: number, mayStill: () => boolean): Promise<boolean> {
    const { refcountOrder, maxRefcount } = this.#geometry;
    const block = this.blockOffset(cluster);
    if (block === 0) return false;
    return this.cache.use(this.#sliceOffset(block, cluster), (slice) => {
      const index = cluster % this.#sliceEntries;
      const count = native.refcountGet(slice.bytes, refcountOrder, index);
      if (count === 0 || count >= maxRefcount || !mayStill()) return false;
      native.refcountAdd(slice.bytes, refcountOrder, index, 1, 1);
      this.#markDirty(slice, index, 1);
      return true;
    });
  }

  /** Adds `delta` to the refcounts of a run of clusters. Fails before changing a slice in which one would leave its range. */
  async add(first: number, count: number, delta: number): Promise<void> {
    let at = first;
    while (at < first + count) {
      const index = at % this.#sliceEntries;
      const here = Math.min(first + count - at, this.#sliceEntries - index);
      const block = this.blockOffset(at);
      if (block === 0) throw this.badCount(at, delta, 'it has no refcount block');
      const start = at;
      await this.cache.use(this.#sliceOffset(block, at), (slice) => {
        const failed = native.refcountAdd(slice.bytes, this.#geometry.refcountOrder, index, here, delta);
        if (failed >= 0)
          throw this.badCount(start + failed - index, delta, 'the count would leave its range');
        this.#markDirty(slice, index, here);
      });
      at += here;
    }
  }

  /**
   * Takes free clusters: finds the first free one at or after `from`, in blocks that exist, and sets the refcount of it
   * and up to `max` - 1 free ones behind it (in the same slice) to 1.
   * @returns the run; where a block is missing, that cluster with count 0; where none below `limit` is free, `limit` with
   * count 0
   */
  async take(from: number, max: number, limit = Infinity): Promise<{ first: number; count: number }> {
    let at = from;
    while (at < limit) {
      const block = this.blockOffset(at);
      if (block === 0) return { first: at, count: 0 };
      const index = at % this.#sliceEntries;
      const base = at - index;
      const end = Math.min(this.#sliceEntries, limit - base);
      const found = await this.cache.use(this.#sliceOffset(block, at), (slice) =>
        this.#takeIn(slice, index, end, max),
      );
      if (found !== undefined) return { first: base + found.index, count: found.count };
      at = base + this.#sliceEntries;
    }
    return { first: limit, count: 0 };
  }

  /** How many of the clusters [first, end) have a refcount other than 0. */
  async countUsed(first: number, end: number): Promise<number> {
    const { refcountOrder, refcountBlockEntries } = this.#geometry;
    let used = 0;
    for (let at = first; at < end;) {
      const block = this.blockOffset(at);
      if (block === 0) {
        at += refcountBlockEntries - (at % refcountBlockEntries);
        continue;
      }
      const index = at % this.#sliceEntries;
      const stop = Math.min(this.#sliceEntries, index + (end - at));
      used += await this.cache.use(this.#sliceOffset(block, at), ({ bytes }) =>
        native.refcountCountUsed(bytes, refcountOrder, index, stop),
      );
      at += stop - index;
    }
    return used;
  }

  /**
   * Whether a cluster from `first` on, which is past the end of the file, has a refcount other than 0. Blocks in holes of the
   * file are not read: a table of a few bytes can name terabytes of them.
   */
  async isUsedFrom(first: number): Promise<boolean> {
    const { refcountBlockEntries, clusterSize } = this.#geometry;
    const whole = alignUp(first, refcountBlockEntries);
    if ((await this.countUsed(first, Math.min(whole, this.capacity))) > 0) return true;
    const offsets: number[] = [];
    for (const index of this.#entries(whole / refcountBlockEntries)) {
      offsets.push(this.blockOffset(index * refcountBlockEntries));
    }
    const size = await this.#storage.size();
    let data = 0;
    for (const offset of Float64Array.from(offsets).sort()) {
      if (data < offset) data = await this.#nextData(offset, size);
      if (offset + clusterSize <= data) continue;
      for (let at = offset; at < offset + clusterSize; at += this.cache.sliceSize) {
        if (await this.#hasUsed(hostOffset(at))) return true;
      }
    }
    return false;
  }

  /** Where the first byte is that may be stored in the file; its end where there is none. */
  async #nextData(position: number, size: number): Promise<number> {
    if (position >= size || this.#storage.nextData === undefined) return position;
    return (await this.#storage.nextData(position)) ?? size;
  }

  #hasUsed(slice: HostOffset): Promise<boolean> {
    const { refcountOrder } = this.#geometry;
    return this.cache.use(
      slice,
      ({ bytes }) => native.refcountCountUsed(bytes, refcountOrder, 0, this.#sliceEntries) > 0,
    );
  }

  /**
   * The first run of `count` free clusters at or after `from`; clusters without a block count as free. Takes nothing.
   * @param limit where to give up: the run returned then ends past it, and need not be free
   */
  async findFree(from: number, count: number, limit = Infinity): Promise<number> {
    let start = from;
    let at = from;
    while (at < start + count && start + count <= limit) {
      const block = this.blockOffset(at);
      const index = at % this.#sliceEntries;
      const end = Math.min(this.#sliceEntries, index + (start + count - at));
      if (block !== 0) {
        const behindUsed = await this.cache.use(this.#sliceOffset(block, at), ({ bytes }) => {
          const used = native.refcountNextUsed(bytes, this.#geometry.refcountOrder, index, end);
          if (used === end) return undefined;
          return native.refcountNextFree(bytes, this.#geometry.refcountOrder, used, this.#sliceEntries);
        });
        if (behindUsed !== undefined) {
          start = at - index + behindUsed;
          at = start;
          continue;
        }
      }
      at += end - index;
    }
    return start;
  }

  /** The runs within [first, first + count) whose refcount is `value`. */
  async runsWith(first: number, count: number, value: number): Promise<{ first: number; count: number }[]> {
    const order = this.#geometry.refcountOrder;
    const found: { first: number; count: number }[] = [];
    for (let at = first; at < first + count;) {
      const index = at % this.#sliceEntries;
      const base = at - index;
      const end = Math.min(this.#sliceEntries, first + count - base);
      const block = this.blockOffset(at);
      if (block !== 0) {
        await this.cache.use(this.#sliceOffset(block, at), ({ bytes }) => {
          for (let i = index, stop = i; i < end; i = stop) {
            stop = native.refcountRunEnd(bytes, order, i, end);
            if (native.refcountGet(bytes, order, i) !== value) continue;
            const last = found.at(-1);
            if (last !== undefined && last.first + last.count === base + i) last.count += stop - i;
            else found.push({ first: base + i, count: stop - i });
          }
        });
      }
      at = base + end;
    }
    return found;
  }

  /** Sets the refcounts of clusters whose blocks exist. */
  async set(first: number, count: number, value: number): Promise<void> {
    let at = first;
    while (at < first + count) {
      const index = at % this.#sliceEntries;
      const here = Math.min(first + count - at, this.#sliceEntries - index);
      const block = this.blockOffset(at);
      if (block === 0) throw this.badCount(at, value, 'it has no refcount block');
      await this.cache.use(this.#sliceOffset(block, at), (slice) => {
        native.refcountSet(slice.bytes, this.#geometry.refcountOrder, index, here, value);
        this.#markDirty(slice, index, here);
      });
      at += here;
    }
  }

  /** The numbers of the refcount blocks that clusters [first, end) need and do not have. */
  missingBlocks(first: number, end: number): number[] {
    const { refcountBlockEntries } = this.#geometry;
    const missing: number[] = [];
    for (let index = Math.floor(first / refcountBlockEntries); index * refcountBlockEntries < end; index++) {
      if (this.blockOffset(index * refcountBlockEntries) === 0) missing.push(index);
    }
    return missing;
  }

  /** Adds refcount block number `index`, all counts 0, in host cluster `at`. The caller counts that cluster as used. */
  addBlock(index: number, at: number): void {
    const { clusterSize } = this.#geometry;
    const offset = hostOffset(at * clusterSize);
    this.cache.insertTable(offset, new Uint8Array(clusterSize));
    this.#setEntry(index, offset);
  }

  /** Puts the refcount block at `from` into host cluster `to`, which the caller counts as used. The old place is not freed. */
  async moveBlock(from: HostOffset, to: number): Promise<void> {
    const { clusterSize } = this.#geometry;
    const block = new Uint8Array(clusterSize);
    for (let at = 0; at < clusterSize; at += this.cache.sliceSize) {
      await this.cache.use(hostOffset(from + at), ({ bytes }) => block.set(bytes, at));
    }
    for (const index of this.#entries(0)) {
      if (readRefcountTableEntry(this.#table, index, clusterSize) !== from) continue;
      this.cache.insertTable(hostOffset(to * clusterSize), block);
      this.cache.forgetTable(from, clusterSize);
      this.#setEntry(index, hostOffset(to * clusterSize));
    }
  }

  /** Drops refcount block number `index`, all of whose counts mean nothing. Its cluster is not freed. */
  removeBlock(index: number): void {
    const offset = this.blockOffset(index * this.#geometry.refcountBlockEntries);
    this.cache.forgetTable(offset, this.#geometry.clusterSize);
    this.#setEntry(index, hostOffset(0));
  }

  /** Takes over a refcount table that was written elsewhere. */
  replaceTable(table: Uint8Array, offset: HostOffset): void {
    this.#table = tableView(table);
    this.#offset = offset;
    this.dirtyTable.take();
  }

  #setEntry(index: number, offset: HostOffset): void {
    writeRefcountTableEntry(this.#table, index, offset);
    this.dirtyTable.add(index * tableEntrySize, (index + 1) * tableEntrySize);
  }

  #takeIn(
    slice: Slice,
    from: number,
    end: number,
    max: number,
  ): { index: number; count: number } | undefined {
    const order = this.#geometry.refcountOrder;
    const index = native.refcountNextFree(slice.bytes, order, from, end);
    if (index === end) return undefined;
    const stop = Math.min(end, index + max);
    const count = native.refcountNextUsed(slice.bytes, order, index, stop) - index;
    native.refcountSet(slice.bytes, order, index, count, 1);
    this.#markDirty(slice, index, count);
    return { index, count };
  }

  #sliceOffset(block: HostOffset, cluster: number): HostOffset {
    const inBlock = cluster % this.#geometry.refcountBlockEntries;
    return hostOffset(block + Math.floor(inBlock / this.#sliceEntries) * this.cache.sliceSize);
  }

  #markDirty(slice: Slice, index: number, count: number): void {
    const { refcountBits } = this.#geometry;
    const start = Math.floor((index * refcountBits) / 8);
    this.cache.markDirty(slice, start, Math.ceil(((index + count) * refcountBits) / 8));
  }

  #badEntry(index: number, problem: string): Qcow2Error {
    return new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      `Entry ${index} of the refcount table ${problem}; the refcounts can be rebuilt (repair)`,
      { offset: this.#offset + index * tableEntrySize, feature: 'refcount table' },
    );
  }

  /** The error of a refcount that cannot be changed. */
  badCount(cluster: number, delta: number, problem: string): Qcow2Error {
    return new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      `The refcount of the cluster at offset ${cluster * this.#geometry.clusterSize} cannot be changed by ${delta}: ` +
        `${problem}. The image needs a check and repair`,
      { offset: cluster * this.#geometry.clusterSize, feature: 'refcount' },
    );
  }
}
