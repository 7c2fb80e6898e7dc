/** The bits of one bitmap: pages of a cluster of the file each, read when they are needed, written when they changed. */
import { bitmapTableEntriesFor, type BitmapEntry } from '../format/bitmap-directory.js';
import { native } from '../native.js';
import { readPadded } from '../storage/storage.js';
import { clearBitsFrom, mergeBits, nextClear, nextSet, setBits } from './bit-page.js';
import { BitmapTable, type BitmapHome } from './bitmap-table.js';
import type { Image } from './image.js';

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

/** How far a merge has come; a step may throw to stop it. */
export interface MergeProgress {
  expect: (amount: number) => void;
  step: (amount: number) => void;
}

export class BitmapBits {
  readonly granularityBits: number;
  readonly table: BitmapTable;
  readonly #image: Image;
  readonly #pages = new Map<number, Page>();
  #size: number;

  private constructor({ image }: BitmapHome, granularityBits: number, table: BitmapTable) {
    this.#image = image;
    this.granularityBits = granularityBits;
    this.#size = image.header.size;
    this.table = table;
  }

  /**
   * Reads the table of a bitmap. Its bits are read later.
   * @throws as {@link BitmapTable.load}
   */
  static async load(home: BitmapHome, entry: BitmapEntry): Promise<BitmapBits> {
    return new BitmapBits(home, entry.granularityBits, await BitmapTable.load(home, entry));
  }

  /**
   * A new bitmap without a set bit, not in the file yet.
   * @throws as {@link BitmapTable.empty}
   */
  static empty(home: BitmapHome, granularityBits: number): BitmapBits {
    const table = BitmapTable.empty(home, home.image.header.size, granularityBits);
    return new BitmapBits(home, granularityBits, table);
  }

  /** Bytes of pages in memory. */
  get residentBytes(): number {
    return this.#pages.size * this.#image.geometry.clusterSize;
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

  /**
   * Sets what is set in another bitmap: page by page where it has the same granularity, else run by run.
   * @param progress is told in guest bytes
   */
  async merge(source: BitmapBits, progress: MergeProgress): Promise<void> {
    const pageCoverage = source.#pageBits * 2 ** source.granularityBits;
    const pages = Math.min(source.table.length, Math.ceil(this.#size / pageCoverage));
    const isAlike = source.granularityBits === this.granularityBits && source.#pageBits === this.#pageBits;
    progress.expect(pages * pageCoverage);
    for (let index = 0; index < pages; index++) {
      if (isAlike && source.#mayHaveBits(index)) {
        await this.#mergePage(index, (await source.#page(index)).bytes);
      } else {
        const end = Math.min(this.#size, (index + 1) * pageCoverage);
        for await (const { start, length } of source.runs(index * pageCoverage, end)) {
          await this.set(start, start + length);
        }
      }
      progress.step(pageCoverage);
    }
  }

  async #mergePage(index: number, from: Uint8Array): Promise<void> {
    const page = await this.#page(index);
    mergeBits(page.bytes, from.subarray(0, page.bytes.length));
    clearBitsFrom(page.bytes, this.#bitCount - index * this.#pageBits);
    page.changed = true;
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
    for (const index of this.#pages.keys()) if (index >= entries) this.#pages.delete(index);
    this.#size = size;
    if (edge !== undefined) {
      const bytes = new Uint8Array(this.#pageLength(lastPage));
      bytes.set(edge.bytes.subarray(0, bytes.length));
      clearBitsFrom(bytes, this.#bitCount - lastPage * this.#pageBits);
      edge.bytes = bytes;
      edge.changed = true;
    }
    this.table.resize(entries);
  }

  /** Writes changed pages to clusters of their own and forgets all pages. The bitmap must be in use, or not in the file. */
  async store(): Promise<void> {
    const { clusterSize } = this.#image.geometry;
    for (const [index, page] of this.#pages) {
      if (!page.changed) continue;
      if (native.isZero(page.bytes)) {
        this.table.drop(index);
        continue;
      }
      const whole = new Uint8Array(clusterSize);
      whole.set(page.bytes);
      await this.#image.storage.write(whole, await this.table.clusterFor(index));
    }
    this.#pages.clear();
  }

  #bitRange(start: number, end: number): { first: number; last: number } {
    const unit = 2 ** this.granularityBits;
    return { first: Math.floor(start / unit), last: Math.min(this.#bitCount, Math.ceil(end / unit)) };
  }

  /** Bytes of a page that hold bits. */
  #pageLength(index: number): number {
    const { clusterSize } = this.#image.geometry;
    return Math.min(clusterSize, Math.ceil(this.#bitCount / 8) - index * clusterSize);
  }

  #mayHaveBits(index: number): boolean {
    if (index >= this.table.length) return false;
    return this.#pages.has(index) || this.table.isAllOnes(index) || this.table.clusterAt(index) !== 0;
  }

  async #page(index: number): Promise<Page> {
    const found = this.#pages.get(index);
    if (found !== undefined) return found;
    const bytes = new Uint8Array(this.#pageLength(index));
    if (this.table.isAllOnes(index)) bytes.fill(0xff);
    else {
      const offset = this.table.clusterAt(index);
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
}

function cut(run: { first: number; last: number }, unit: number, start: number, end: number): DirtyExtent {
  const from = Math.max(start, run.first * unit);
  return { start: from, length: Math.min(end, run.last * unit) - from };
}
