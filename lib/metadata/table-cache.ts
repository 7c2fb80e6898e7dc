/** A bounded cache of table slices (pieces of L2 tables or refcount blocks) that remembers which bytes are dirty. */
import type { HostOffset } from '../format/units.js';
import { hostOffset } from '../format/units.js';
import { readExactly, type Storage } from '../storage/storage.js';

/** Large tables are cached in pieces of at most this many bytes, so that a 2 MiB table costs no 2 MiB read. */
const maxSliceSize = 64 * 1024;

/** Slices that are looked at, at most, to make room for a new one: where most are dirty, there may be none to find. */
const maxLooks = 16;

/** Buffers that are kept to be used again. */
const maxSpare = 64;

/** The piece of a table that is read and cached at once. Its bytes may be changed only in the tick that got hold of it. */
export class Slice {
  pins = 0;
  referenced = true;
  dirtyStart = Infinity;
  dirtyEnd = 0;
  constructor(
    readonly offset: HostOffset,
    readonly bytes: Uint8Array,
  ) {}

  get dirty(): boolean {
    return this.dirtyEnd > this.dirtyStart;
  }
}

/** A copy of dirty bytes on its way to storage. */
export interface DirtyPiece {
  readonly slice: Slice;
  readonly bytes: Uint8Array;
  readonly position: number;
}

interface Loading {
  promise: Promise<Slice>;
  waiters: number;
}

export class TableCache {
  readonly sliceSize: number;
  /** Look-ups that found their slice, and those that had to read. */
  hits = 0;
  misses = 0;
  readonly #storage: Storage;
  readonly #what: string;
  readonly #maxSlices: number;
  readonly #slices = new Map<number, Slice>();
  readonly #loading = new Map<number, Loading>();
  readonly #dirty = new Set<Slice>();
  /** Memory that was used before, each as long as a slice: fresh memory costs more than filling it. */
  readonly #spare: Uint8Array[] = [];

  /**
   * @param what names the tables in error messages
   * @param budget bytes of clean slices to keep; dirty ones stay until they are written
   */
  constructor(storage: Storage, clusterSize: number, budget: number, what: string) {
    this.#storage = storage;
    this.#what = what;
    this.sliceSize = Math.min(clusterSize, maxSliceSize);
    this.#maxSlices = Math.max(4, Math.floor(budget / this.sliceSize));
  }

  /** The slice at `offset` if it is cached: use it before the next await. */
  peek(offset: HostOffset): Slice | undefined {
    const slice = this.#slices.get(offset);
    if (slice !== undefined) {
      slice.referenced = true;
      this.hits++;
    }
    return slice;
  }

  /** Runs `work` on the slice at `offset`, which is read first when it is not cached. `work` must be synchronous. */
  async use<T>(offset: HostOffset, work: (slice: Slice) => T): Promise<T> {
    const cached = this.peek(offset);
    if (cached !== undefined) return work(cached);
    const slice = await this.#load(offset);
    try {
      return work(slice);
    } finally {
      slice.pins--;
    }
  }

  /** Gets the slice at `offset`, which {@link peek} missed, into the cache without waiting; false where its bytes are not at hand. */
  loadNow(offset: HostOffset): boolean {
    if (this.#storage.readCached === undefined) return false;
    const bytes = this.#spare.pop() ?? new Uint8Array(this.sliceSize);
    if (!this.#storage.readCached(bytes, offset)) {
      this.#keepSpare(bytes);
      return false;
    }
    this.misses++;
    const slice = new Slice(offset, bytes);
    // Where all others are dirty it would be the one to go.
    slice.pins++;
    this.#slices.set(offset, slice);
    this.#evict(maxLooks);
    slice.pins--;
    return true;
  }

  /** Puts a new table, all of it dirty, into the cache; `table` is the cache's own from now on. */
  insertTable(offset: HostOffset, table: Uint8Array): void {
    for (let at = 0; at < table.length; at += this.sliceSize) {
      const slice = new Slice(hostOffset(offset + at), table.subarray(at, at + this.sliceSize));
      this.#slices.set(slice.offset, slice);
      this.markDirty(slice, 0, slice.bytes.length);
      this.#evict(maxLooks);
    }
  }

  /** Forgets a table that no longer exists, dirty or not. */
  forgetTable(offset: HostOffset, length: number): void {
    for (let at = 0; at < length; at += this.sliceSize) {
      const slice = this.#slices.get(offset + at);
      if (slice === undefined) continue;
      this.#dirty.delete(slice);
      this.#slices.delete(offset + at);
    }
  }

  /** Forgets everything that is not dirty, for when the file was changed underneath. */
  forgetClean(): void {
    for (const slice of [...this.#slices.values()])
      if (!this.#inUse(slice)) this.#slices.delete(slice.offset);
  }

  /** Says that bytes [start, end) of a slice differ from storage. */
  markDirty(slice: Slice, start: number, end: number): void {
    slice.dirtyStart = Math.min(slice.dirtyStart, start);
    slice.dirtyEnd = Math.max(slice.dirtyEnd, end);
    this.#dirty.add(slice);
  }

  /** Bytes of all slices in memory. */
  get bytes(): number {
    return this.#slices.size * this.sliceSize;
  }

  get dirtyBytes(): number {
    return this.#dirty.size * this.sliceSize;
  }

  get hasDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /**
   * Copies all dirty bytes, in the order of their place in the file, and counts them as clean. The slices stay in memory
   * until {@link written} or {@link putBack} is told of each piece.
   */
  takeDirty(): DirtyPiece[] {
    const pieces: DirtyPiece[] = [];
    for (const slice of this.#dirty) {
      const start = slice.dirtyStart;
      const dirty = slice.bytes.subarray(start, slice.dirtyEnd);
      const bytes = (this.#spare.pop() ?? new Uint8Array(this.sliceSize)).subarray(0, dirty.length);
      bytes.set(dirty);
      pieces.push({ slice, bytes, position: slice.offset + start });
      slice.dirtyStart = Infinity;
      slice.dirtyEnd = 0;
      slice.pins++;
    }
    this.#dirty.clear();
    return pieces.sort((a, b) => a.position - b.position);
  }

  /** Lets the slices of written pieces go, and takes their bytes back. */
  written(pieces: readonly DirtyPiece[]): void {
    for (const { slice, bytes } of pieces) {
      slice.pins--;
      this.#keepSpare(bytes);
    }
    this.#evict(this.#slices.size * 2);
  }

  /** Makes pieces dirty again whose write failed or was not tried. */
  putBack(pieces: readonly DirtyPiece[]): void {
    for (const { slice, position, bytes } of pieces) {
      slice.pins--;
      if (this.#slices.get(slice.offset) !== slice) continue;
      const start = position - slice.offset;
      this.markDirty(slice, start, start + bytes.length);
    }
  }

  async #load(offset: HostOffset): Promise<Slice> {
    this.misses++;
    let loading = this.#loading.get(offset);
    if (loading === undefined) {
      loading = { promise: this.#read(offset), waiters: 0 };
      this.#loading.set(offset, loading);
    }
    loading.waiters++;
    return loading.promise;
  }

  async #read(offset: HostOffset): Promise<Slice> {
    try {
      const bytes = this.#spare.pop() ?? new Uint8Array(this.sliceSize);
      await readExactly(this.#storage, bytes, offset, this.#what);
      // A table created meanwhile at this place is newer than what was read.
      const slice = this.#slices.get(offset) ?? new Slice(offset, bytes);
      slice.pins += this.#loading.get(offset)?.waiters ?? 0;
      this.#slices.set(offset, slice);
      this.#evict(maxLooks);
      return slice;
    } finally {
      this.#loading.delete(offset);
    }
  }

  /** Second chance: a slice used since the last pass is spared once. */
  #evict(looks: number): void {
    let chances = looks;
    for (const slice of this.#slices.values()) {
      if (this.#slices.size <= this.#maxSlices || chances-- <= 0) return;
      if (!slice.referenced && !this.#inUse(slice)) {
        this.#slices.delete(slice.offset);
        this.#keepSpare(slice.bytes);
        continue;
      }
      slice.referenced = false;
      this.#slices.delete(slice.offset);
      this.#slices.set(slice.offset, slice);
    }
  }

  /** Keeps memory that nobody looks at any more, unless it is a part of something larger. */
  #keepSpare({ buffer }: Uint8Array): void {
    if (buffer.byteLength === this.sliceSize && this.#spare.length < maxSpare)
      this.#spare.push(new Uint8Array(buffer));
  }

  #inUse(slice: Slice): boolean {
    return slice.pins > 0 || slice.dirty;
  }
}
