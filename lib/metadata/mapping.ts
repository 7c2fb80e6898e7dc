/** The L1 table and the L2 tables: where each guest range lives, and changing that. */
import type { Geometry } from '../format/geometry.js';
import { tableEntrySize } from '../format/geometry.js';
import { isL1EntryCopied, readL1Entry, tableLength, tableView, writeL1Entry } from '../format/table-entry.js';
import { guestOffset, hostOffset, type GuestOffset, type HostOffset } from '../format/units.js';
import { RunKind } from '../native.js';
import { ExtentTypeIndex, invalidExtent } from '../native/extent-rows.js';
import type { Storage } from '../storage/storage.js';
import type { Allocator } from './allocator.js';
import type { Committer } from './commit.js';
import { DirtyRange } from './dirty-range.js';
import { Mutex } from './mutex.js';
import type { Reserved } from './reserved.js';
import { hasPlace, InvalidTable, invalidRun, type Run, type RunVisitor } from './run.js';
import { SliceReader } from './slice-reader.js';
import { TableCache } from './table-cache.js';

/** Changes the entries for guest bytes [start, start + length) relative to the first entry of `table`. */
export type TableChange = (table: Uint8Array, start: number, length: number, guest: GuestOffset) => void;

export interface MappingParts {
  readonly storage: Storage;
  readonly geometry: Geometry;
  /** The `L2Flag`s that fit the image. */
  readonly l2Flags: number;
  readonly l1: Uint8Array;
  readonly l1Offset: HostOffset;
  readonly reserved: Reserved;
  readonly cacheBytes: number;
}

export class Mapping {
  readonly cache: TableCache;
  readonly dirtyL1 = new DirtyRange();
  readonly l2Flags: number;
  readonly #geometry: Geometry;
  readonly #reserved: Reserved;
  readonly #l2Mutex = new Mutex();
  readonly #slices: SliceReader;
  /** Guest bytes that one cached slice of an L2 table describes. */
  readonly #sliceCoverage: number;
  #l1: DataView;
  #l1Offset: HostOffset;

  constructor(parts: MappingParts) {
    this.#geometry = parts.geometry;
    this.#reserved = parts.reserved;
    this.l2Flags = parts.l2Flags;
    this.#l1 = tableView(parts.l1);
    this.#l1Offset = parts.l1Offset;
    this.cache = new TableCache(parts.storage, parts.geometry.clusterSize, parts.cacheBytes, 'the L2 table');
    this.#sliceCoverage = (this.cache.sliceSize / parts.geometry.l2EntrySize) * parts.geometry.clusterSize;
    this.#slices = new SliceReader(parts.geometry, parts.l2Flags, this.#sliceCoverage);
  }

  get l1Offset(): HostOffset {
    return this.#l1Offset;
  }

  get l1Entries(): number {
    return tableLength(this.#l1);
  }

  /** The L1 table's own bytes, big-endian, kept up to date. */
  get l1Bytes(): Uint8Array {
    return new Uint8Array(this.#l1.buffer, this.#l1.byteOffset, this.#l1.byteLength);
  }

  /** Takes over an L1 table that was written elsewhere. */
  replaceL1(table: Uint8Array, offset: HostOffset): void {
    this.#l1 = tableView(table);
    this.#l1Offset = offset;
    this.dirtyL1.take();
  }

  /** The offsets of the L2 tables in use. Entries that break the specification are left out. */
  *l2Tables(): Generator<HostOffset> {
    for (let index = 0; index < this.l1Entries; index++) {
      const offset = readL1Entry(this.#l1, index, this.#geometry.clusterSize);
      if (offset > 0) yield hostOffset(offset);
    }
  }

  /**
   * Visits the runs of guest bytes [start, end) in order and without gaps. The first and last run are cut to the range;
   * a compressed run keeps the host offset of its cluster's data, whatever part of the cluster is in the range.
   * @param splitCopied whether runs end where the COPIED flag changes, as writers need
   */
  async visit(start: GuestOffset, end: number, splitCopied: boolean, visitor: RunVisitor): Promise<void> {
    for (let at = this.visitCached(start, end, splitCopied, visitor); at < end;) {
      const from = at;
      const stop = Math.min(end, this.sliceEnd(from));
      const table = hostOffset(this.tableAt(Math.floor(from / this.#geometry.l2Coverage)));
      await this.cache.use(this.#sliceOffset(table, from), ({ bytes }) =>
        this.#slices.visit(bytes, from, stop, splitCopied, visitor),
      );
      at = this.visitCached(guestOffset(stop), end, splitCopied, visitor);
    }
  }

  /** Like {@link visit}, as far as tables are in memory; returns where the first one is missing, or `end`. */
  visitCached(start: GuestOffset, end: number, splitCopied: boolean, visitor: RunVisitor): GuestOffset {
    let at: number = start;
    while (at < end) {
      const l1Index = Math.floor(at / this.#geometry.l2Coverage);
      const table = this.tableAt(l1Index);
      if (table <= 0) {
        const stop = Math.min(end, (l1Index + 1) * this.#geometry.l2Coverage);
        const kind = table === 0 ? RunKind.unallocated : RunKind.invalid;
        visitor(kind, guestOffset(at), stop - at, hostOffset(0), table);
        at = stop;
        continue;
      }
      const cached = this.cache.peek(this.#sliceOffset(hostOffset(table), at));
      if (cached === undefined) break;
      const stop = Math.min(end, this.sliceEnd(guestOffset(at)));
      this.#slices.visit(cached.bytes, at, stop, splitCopied, visitor);
      at = stop;
    }
    return guestOffset(at);
  }

  /**
   * Visits the extents of guest bytes [start, end), all of which one slice of a table describes, as rows
   * (`io/extent-rows.ts`) that are valid until the visitor, which may change them, returns. They are of whole clusters: the first may begin before
   * `start` and the last end after `end`. The last may be an invalid entry (`extentRows` in `native/l2.ts`).
   * @param placed whether data is in the file as it is
   */
  async visitRows(
    start: GuestOffset,
    end: number,
    placed: boolean,
    visitor: (rows: Float64Array) => void,
  ): Promise<void> {
    const index = Math.floor(start / this.#geometry.l2Coverage);
    const table = this.tableAt(index);
    if (table <= 0) {
      const kind = table === 0 ? ExtentTypeIndex.unallocated : invalidExtent;
      visitor(Float64Array.of(start, end - start, kind, 0, table === 0 ? -1 : table));
      return;
    }
    const offset = this.#sliceOffset(hostOffset(table), start);
    const cached = this.cache.peek(offset);
    if (cached !== undefined) this.#slices.visitRows(cached.bytes, start, end, placed, visitor);
    else
      await this.cache.use(offset, ({ bytes }) => this.#slices.visitRows(bytes, start, end, placed, visitor));
  }

  /** Reads the part of an L2 table that {@link visitCached} missed at `at`: undefined where that is done when this returns. */
  load(at: GuestOffset): Promise<void> | undefined {
    const table = this.tableAt(Math.floor(at / this.#geometry.l2Coverage));
    if (table <= 0) return undefined;
    const offset = this.#sliceOffset(hostOffset(table), at);
    return this.cache.loadNow(offset) ? undefined : this.cache.use(offset, () => undefined);
  }

  /** The runs of a range as records, neighbours merged over table borders; a promise where a table has to be read. */
  collect(start: GuestOffset, end: number): Run[] | Promise<Run[]> {
    const runs: Run[] = [];
    const visitor: RunVisitor = (kind, at, length, host, aux) => {
      const last = runs.at(-1);
      if (last !== undefined && continues(last, kind, host, aux)) last.length += length;
      else runs.push({ kind, start: at, length, host, aux });
    };
    const reached = this.visitCached(start, end, true, visitor);
    return reached >= end ? runs : this.visit(reached, end, true, visitor).then(() => runs);
  }

  /** Makes the L2 tables for guest bytes [start, start + length) where there are none, and copies those that a snapshot shares. */
  async ensureTables(
    start: GuestOffset,
    length: number,
    allocator: Allocator,
    committer: Committer,
  ): Promise<void> {
    const { l2Coverage } = this.#geometry;
    for (let index = Math.floor(start / l2Coverage); index * l2Coverage < start + length; index++) {
      await this.#ensureOwnTable(index, allocator, committer);
    }
  }

  /**
   * Changes the entries of guest bytes [start, start + length), after {@link ensureTables}.
   */
  async modify(
    start: GuestOffset,
    length: number,
    allocator: Allocator,
    committer: Committer,
    change: TableChange,
  ): Promise<void> {
    await this.ensureTables(start, length, allocator, committer);
    const end = start + length;
    const { l2Coverage } = this.#geometry;
    let at: number = start;
    while (at < end) {
      const sliceStart = Math.floor(at / this.#sliceCoverage) * this.#sliceCoverage;
      const stop = Math.min(end, sliceStart + this.#sliceCoverage);
      const offset = this.#sliceOffset(hostOffset(this.tableAt(Math.floor(at / l2Coverage))), at);
      const from = at;
      await this.cache.use(offset, (slice) => {
        change(slice.bytes, from - sliceStart, stop - from, guestOffset(from));
        const { clusterSize, l2EntrySize } = this.#geometry;
        const firstEntry = Math.floor((from - sliceStart) / clusterSize);
        this.cache.markDirty(
          slice,
          firstEntry * l2EntrySize,
          Math.ceil((stop - sliceStart) / clusterSize) * l2EntrySize,
        );
      });
      at = stop;
    }
  }

  /** The first guest position at or after `at`, and before `end`, that an L1 entry other than 0 describes; else `end`. */
  nextTable(at: GuestOffset, end: number): GuestOffset {
    const { l2Coverage } = this.#geometry;
    let index = Math.floor(at / l2Coverage);
    while (index < this.l1Entries && index * l2Coverage < end && isEmptyEntry(this.#l1, index)) index++;
    if (index >= this.l1Entries) return guestOffset(end);
    return guestOffset(Math.min(end, Math.max(at, index * l2Coverage)));
  }

  /** The guest position where the slice that describes `at` ends: what can be looked up with one table access. */
  sliceEnd(at: GuestOffset): GuestOffset {
    return guestOffset((Math.floor(at / this.#sliceCoverage) + 1) * this.#sliceCoverage);
  }

  /** Drops whole L2 tables: L1 entries [first, end) become 0. The tables' clusters are freed, without `committer` by the caller. */
  dropTables(first: number, end: number, committer: Committer | null): void {
    const { clusterSize } = this.#geometry;
    for (let index = first; index < Math.min(end, this.l1Entries); index++) {
      const offset = readL1Entry(this.#l1, index, clusterSize);
      if (offset <= 0) continue;
      committer?.freeLater(hostOffset(offset), clusterSize, true);
      this.cache.forgetTable(hostOffset(offset), clusterSize);
      this.#setL1(index, hostOffset(0), false);
    }
  }

  /** Gives an L1 entry that has none an L2 table, which is in the file already and belongs to the active disk alone. */
  adoptTable(index: number, offset: HostOffset): void {
    // What is cached of this place is from another table that was there once.
    this.cache.forgetTable(offset, this.#geometry.clusterSize);
    this.#reserved.addTable(offset);
    this.#setL1(index, offset, true);
  }

  /** Puts the L2 table of an L1 entry, whose content is at `offset` already, in the place of the one it has. */
  repointTable(index: number, offset: HostOffset): void {
    this.#setL1(index, offset, isL1EntryCopied(this.#l1, index));
  }

  /** Whether an L1 entry has an L2 table that nothing else refers to. */
  ownsTable(index: number): boolean {
    return this.tableAt(index) > 0 && isL1EntryCopied(this.#l1, index);
  }

  /** {@link ownsTable} for all that describes guest bytes [start, start + length). */
  ownsTables(start: GuestOffset, length: number): boolean {
    const { l2Coverage } = this.#geometry;
    for (let index = Math.floor(start / l2Coverage); index * l2Coverage < start + length; index++) {
      if (!this.ownsTable(index)) return false;
    }
    return true;
  }

  /** Reads a whole L2 table, whoever it belongs to, as it is in memory. */
  async readTable(offset: HostOffset, table: Uint8Array): Promise<void> {
    for (let at = 0; at < table.length; at += this.cache.sliceSize) {
      await this.cache.use(hostOffset(offset + at), ({ bytes }) => table.set(bytes, at));
    }
  }

  /** Host offset of the L2 table of an L1 entry; 0 for none, negative for an entry that cannot be followed. */
  tableAt(index: number): number {
    if (index >= this.l1Entries) return 0;
    const offset = readL1Entry(this.#l1, index, this.#geometry.clusterSize);
    if (offset > 0 && this.#reserved.tableConflict(hostOffset(offset)) !== undefined) {
      return InvalidTable.overlapsMetadata;
    }
    return offset;
  }

  #sliceOffset(table: HostOffset, guest: number): HostOffset {
    const inTable = guest % this.#geometry.l2Coverage;
    return hostOffset(table + Math.floor(inTable / this.#sliceCoverage) * this.cache.sliceSize);
  }

  /** Sees to it that the L2 table of an L1 entry exists and is not shared with a snapshot. */
  async #ensureOwnTable(index: number, allocator: Allocator, committer: Committer): Promise<void> {
    if (this.ownsTable(index)) return;
    await this.#l2Mutex.run(async () => {
      if (this.ownsTable(index)) return;
      const { clusterSize } = this.#geometry;
      const old = this.tableAt(index);
      if (old < 0) throw invalidRun(guestOffset(index * this.#geometry.l2Coverage), old);
      const table = new Uint8Array(clusterSize);
      if (old > 0) await this.readTable(hostOffset(old), table);
      const { first } = await allocator.allocate(1);
      const offset = hostOffset(first * clusterSize);
      this.cache.insertTable(offset, table);
      this.#reserved.addTable(offset);
      this.#setL1(index, offset, true);
      if (old > 0) committer.freeLater(hostOffset(old), clusterSize, false);
    });
  }

  #setL1(index: number, offset: HostOffset, copied: boolean): void {
    writeL1Entry(this.#l1, index, offset, copied);
    this.dirtyL1.add(index * tableEntrySize, (index + 1) * tableEntrySize);
  }
}

function isEmptyEntry(table: DataView, index: number): boolean {
  return table.getUint32(index * tableEntrySize) === 0 && table.getUint32(index * tableEntrySize + 4) === 0;
}

function continues(last: Run, kind: RunKind, host: HostOffset, aux: number): boolean {
  if (last.kind !== kind || kind === RunKind.compressed || last.aux !== aux) return false;
  return !hasPlace(kind) || last.host + last.length === host;
}
