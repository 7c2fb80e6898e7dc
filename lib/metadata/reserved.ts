/** Knows which parts of the image file hold metadata, so that no damaged entry can pass them off as guest data. */
import type { HostOffset } from '../format/units.js';
import { ClusterSet } from './cluster-set.js';

/** Contiguous areas there is one of, by the name used in messages. */
export type AreaName =
  | 'header'
  | 'active L1 table'
  | 'refcount table'
  | 'snapshot table'
  | 'bitmap directory'
  | 'encryption header';

/** Yield the offsets of all tables of a kind; called when first needed and after {@link Reserved.forgetTables}. */
export interface TableLists {
  readonly l2Tables: () => Iterable<HostOffset>;
  readonly refcountBlocks: () => Iterable<HostOffset>;
}

/** Bytes [start, end) of the file. */
export interface Area {
  start: number;
  end: number;
}

export class Reserved {
  readonly #clusterSize: number;
  readonly #areas = new Map<AreaName, Area>();
  /** The same: every run of a disk asks for them, and an array is gone through several times as fast. */
  #areaList: readonly (readonly [AreaName, Area])[] = [];
  /** Where the last of them ends: most runs are behind. */
  #areasEnd = 0;
  readonly #lists: TableLists;
  #tables: ClusterSet | undefined;
  /** Refcount blocks that are something else as well. */
  #confused = new ClusterSet();

  constructor(clusterSize: number, lists: TableLists) {
    this.#clusterSize = clusterSize;
    this.#lists = lists;
    this.setArea('header', 0, clusterSize);
  }

  /** Says where an area is; a length of 0 says that there is none. */
  setArea(name: AreaName, start: number, length: number): void {
    if (length === 0) this.#areas.delete(name);
    else this.#areas.set(name, { start, end: start + length });
    this.#areaList = [...this.#areas];
    this.#areasEnd = Math.max(0, ...this.#areaList.map(([, area]) => area.end));
  }

  /** The areas there are, by name. */
  areas(): Iterable<readonly [AreaName, Readonly<Area>]> {
    return this.#areas;
  }

  addTable(offset: HostOffset): void {
    this.#tableSet().add(offset / this.#clusterSize);
  }

  /** Says that no table is left in [start, start + length). */
  removeTables(start: number, length: number): void {
    const tables = this.#tableSet();
    const end = (start + length) / this.#clusterSize;
    let found = tables.firstIn(start / this.#clusterSize, end);
    while (found >= 0) {
      tables.delete(found);
      found = tables.firstIn(found + 1, end);
    }
  }

  /** Says that tables were moved elsewhere: they are listed anew when they are needed next. */
  forgetTables(): void {
    this.#tables = undefined;
  }

  /** What metadata lies in [start, start + length), or undefined. */
  overlap(start: number, length: number): string | undefined {
    const area = this.overlappedArea(start, length);
    if (area !== undefined) return area;
    const end = Math.ceil((start + length) / this.#clusterSize);
    const found = this.#tableSet().firstIn(Math.floor(start / this.#clusterSize), end);
    return found < 0 ? undefined : 'L2 table or refcount block';
  }

  /** The same, but L2 tables and refcount blocks do not count. */
  overlappedArea(start: number, length: number): AreaName | undefined {
    if (start >= this.#areasEnd) return undefined;
    for (const entry of this.#areaList) {
      if (start < entry[1].end && start + length > entry[1].start) return entry[0];
    }
    return undefined;
  }

  /** Why the table at `offset` cannot be what it is said to be, or undefined. */
  tableConflict(offset: HostOffset): string | undefined {
    const area = this.overlappedArea(offset, this.#clusterSize);
    if (area !== undefined) return area;
    const cluster = Math.floor(offset / this.#clusterSize);
    this.#tableSet();
    return this.#confused.firstIn(cluster, cluster + 1) < 0
      ? undefined
      : 'L2 table or another refcount block';
  }

  #tableSet(): ClusterSet {
    if (this.#tables !== undefined) return this.#tables;
    const tables = new ClusterSet();
    this.#confused = new ClusterSet();
    for (const offset of this.#lists.l2Tables()) tables.add(Math.floor(offset / this.#clusterSize));
    for (const offset of this.#lists.refcountBlocks()) {
      const cluster = Math.floor(offset / this.#clusterSize);
      if (tables.firstIn(cluster, cluster + 1) >= 0) this.#confused.add(cluster);
      else tables.add(cluster);
    }
    this.#tables = tables;
    return tables;
  }
}
