/** L2 tables: translating their entries into runs, and changing them. */

/** What an L2 entry or subcluster makes of its guest range, as {@link L2Functions.mapL2} reports it. */
export const RunKind = {
  /** No entry: the backing file decides, else zeros. */
  unallocated: 0,
  /** Reads as zeros; no host cluster. */
  zero: 1,
  /** Reads as zeros; a host cluster is kept for it. */
  zeroAllocated: 2,
  /** Stored at the host offset. */
  data: 3,
  /** One compressed cluster; never merged. */
  compressed: 4,
  /** Extended L2 only: an unallocated subcluster of a cluster that has a host cluster. */
  unallocatedInCluster: 5,
  /** The entry breaks the specification; the fourth value is an {@link InvalidEntry}. */
  invalid: 6,
} as const;
export type RunKind = (typeof RunKind)[keyof typeof RunKind];

/** Why an L2 entry is {@link RunKind.invalid}. */
export const InvalidEntry = {
  reservedBits: 0,
  unalignedOffset: 1,
  /** Zero flag in a version 2 image. */
  zeroFlagInV2: 2,
  /** A subcluster both allocated and zero, or bitmap bits on a compressed cluster, or allocated without a host cluster. */
  subclusterBitmap: 3,
  /** A compressed cluster in an image with an external data file. */
  compressedInDataFile: 4,
  /** COPIED set at host offset 0 in an image without an external data file. */
  copiedWithoutHost: 5,
  /** Part of the host cluster lies past the end of the file; only `ReferenceCounts` tells this. */
  pastEnd: 6,
} as const;
export type InvalidEntry = (typeof InvalidEntry)[keyof typeof InvalidEntry];

/** How a table is to be read; add the flags up. */
export const L2Flag = {
  /** Entries are 16 bytes with subcluster bitmaps. */
  extended: 1,
  /** Version 3: bit 0 of a standard descriptor is the zero flag. */
  zeroFlag: 2,
  /** Data lives in an external file: offset 0 with bit 63 is a valid place. */
  externalData: 4,
  /** Do not split runs where only COPIED differs. */
  ignoreCopied: 8,
} as const;

/** Numbers per run in the output of {@link L2Functions.mapL2}: kind, guest length, host offset, aux. */
export const runStride = 4;

export interface L2Functions {
  /**
   * Translates `count` L2 entries from index `first` on into merged runs written to `out`: kind, length in guest bytes,
   * host offset, aux (COPIED as 1 or 0; bytes from the host offset to the end of the last sector for a compressed
   * cluster; the reason for an invalid one). The host offset is 0 for runs without a host cluster and for invalid ones.
   * Stops early, always between two entries, when `out` has no room for the next entry: go on where the lengths end.
   * `out` must have room for one entry, which is 1 run, or 32 with extended entries. Returns the number of runs.
   */
  mapL2(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    first: number,
    count: number,
    out: Float64Array,
  ): number;
  /**
   * The extents of `count` L2 entries from index `first` on, which describe guest bytes from `start` on, as rows of depth 0
   * (`lib/io/extent-rows.ts`), neighbours joined, to `out`. An invalid entry ends them with a row of the type -1 that has an
   * {@link InvalidEntry} for its host offset. Without `placed` no extent has a host offset. Stops early as {@link mapL2}
   * does. `out` must have room for one entry. Returns the number of rows.
   */
  extentRows(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    first: number,
    count: number,
    start: number,
    placed: boolean,
    out: Float64Array,
  ): number;
  /**
   * Makes the guest bytes [start, start + length) of a table (relative to its first entry, multiples of the subcluster)
   * data at `host` and on, with COPIED set. `host` is where the cluster that contains `start` begins. With extended
   * entries the covered subclusters become allocated, the others of each touched cluster keep their state, except that
   * those of a formerly compressed entry start as unallocated.
   */
  l2SetData(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    start: number,
    length: number,
    host: number,
  ): void;
  /**
   * Makes a range read as zeros. With `keepHost` entries keep their host cluster (and COPIED); without, whole clusters
   * drop it. Ranges of extended entries may begin and end at subclusters: a partly covered cluster always keeps its host.
   */
  l2SetZero(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    start: number,
    length: number,
    keepHost: boolean,
  ): void;
  /** Makes whole clusters unallocated (extended: also subclusters, which keep the host cluster while others use it). */
  l2SetUnallocated(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    start: number,
    length: number,
  ): void;
  /** Makes entry `index` a compressed cluster of `length` bytes at byte `host` of the file. */
  l2SetCompressed(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    index: number,
    host: number,
    length: number,
  ): void;
  /**
   * Clears COPIED (bit 63) in all entries, of 8 or 16 bytes, of the tables of `tableBytes` that lie one behind the other in
   * `tables`. `changed` gets `changedStride` numbers for each.
   */
  clearCopied(tables: Uint8Array, tableBytes: number, entrySize: number, changed: Float64Array): void;
}
