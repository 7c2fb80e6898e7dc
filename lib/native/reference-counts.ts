/** Counting of the references to host clusters, for check and rebuild. */

/** What {@link ReferenceCounts} found in L2 tables. Invalid entries are only among the problems. */
export interface L2Summary {
  /** Standard clusters with a host cluster. */
  readonly allocated: number;
  /** How many of these do not lie right behind the one before in the same table. */
  readonly fragmented: number;
  readonly compressed: number;
  /** Clusters without a host cluster that read as zeros, at least in part. */
  readonly zero: number;
  /** Problems found; more than were written when there was no room. */
  readonly problems: number;
  /** Entries whose COPIED flag is wrong if no cluster is shared ({@link ReferenceCounts.isShared}). */
  readonly wrongIfUnshared: number;
}

/** Numbers per problem: index of the table (in its batch), index of the entry, an `InvalidEntry`, host offset. */
export const problemStride = 4;
/** Numbers per run of equal mismatches: first cluster, number of clusters, stored refcount, counted references. */
export const mismatchStride = 4;
/** Numbers per entry whose COPIED flag is wrong: index of the entry, the right flag as 1 or 0. */
export const copiedStride = 2;
/** Numbers per run of clusters: the first, how many. */
export const clusterRunStride = 2;
/** Numbers per changed table: the bytes [start, end) of it that hold all changes; alike when there are none. */
export const changedStride = 2;

/**
 * How often each host cluster is referenced: what check and rebuild count from an image's tables. Counters of 2 to 64
 * bits, allocated in pages of 65536 clusters when one of them is first counted. Whatever would pass the byte limit fails
 * with an Error `ERR_QCOW2_LIMIT`; the counts are of no use after that. While {@link addL2Tables} or
 * {@link correctCopied} is under way every other method throws an Error `ERR_INVALID_STATE`.
 */
export interface ReferenceCounts {
  /** Raises the number of clusters, before a file grows. */
  extend(clusters: number): void;
  /**
   * Counts every host cluster that the bytes [host, host + length) touch, `times` times. False when some lie past the
   * end of the file; these are not counted.
   */
  add(host: number, length: number, times: number): boolean;
  /**
   * Counts all references of an L2 table (or a slice of one), compressed clusters included, `times` times. Invalid
   * entries count as what they seem to mean, so that a repair does not take it for free. With
   * `L2Flag.externalData` nothing is counted. `problems` gets as many problems as it has room for (it may be empty).
   */
  addL2Table(table: Uint8Array, flags: number, times: number, problems: Float64Array): L2Summary;
  /**
   * The same for many tables, each one cluster long and one behind the other in `tables`, on the thread pool: table i
   * is counted `times[i]` times; one with 0 is skipped. The buffers must not be transferred or changed until it settles.
   */
  addL2Tables(
    tables: Uint8Array,
    flags: number,
    times: Uint32Array,
    problems: Float64Array,
  ): Promise<L2Summary>;
  /** The references of a cluster, 2^53 - 1 at most; 0 past the last cluster. */
  get(cluster: number): number;
  /** The first cluster in [first, end) that is referenced; `end` when none is. */
  nextUsed(first: number, end: number): number;
  /** The first cluster in [first, end) that is not referenced, as those past the last are; `end` when all are. */
  nextFree(first: number, end: number): number;
  /** How many clusters in [first, end) are referenced. */
  countUsed(first: number, end: number): number;
  /** One past the last referenced cluster; 0 when none is. */
  usedEnd(): number;
  /** Whether some cluster was counted more than once. */
  isShared(): boolean;
  /**
   * Compares a whole refcount block from index `first` on; index 0 is for cluster `firstCluster`. Writes runs of
   * mismatches ({@link mismatchStride}) to `out`. Returns the number of runs; when `out` is full, go on behind the last.
   */
  compareBlock(
    block: Uint8Array,
    order: number,
    firstCluster: number,
    first: number,
    out: Float64Array,
  ): number;
  /**
   * Makes the counts of the clusters from `firstCluster` on the refcounts of a whole block. -1 when done, else the first
   * cluster whose count does not fit into 2^order bits.
   */
  fillBlock(block: Uint8Array, order: number, firstCluster: number): number;
  /**
   * Adds the counts of the clusters from `firstCluster` on to the refcounts of a whole block, or takes them off. -1 when done,
   * else the first cluster whose refcount would leave its range; then the block is as it was.
   */
  addToBlock(block: Uint8Array, order: number, firstCluster: number, subtract: boolean): number;
  /**
   * Writes the runs of clusters, from index `first` of a whole block on, that are counted as often as their refcount says and
   * at least once ({@link clusterRunStride}): nothing else refers to them. Returns how many; when `out` is full, go on behind
   * the last.
   */
  lastReferences(
    block: Uint8Array,
    order: number,
    firstCluster: number,
    first: number,
    out: Float64Array,
  ): number;
  /** Counts each cluster of the file from `firstCluster` on as often as its refcount in a whole block says. */
  countBlock(block: Uint8Array, order: number, firstCluster: number): void;
  /**
   * Writes the entries of a table, from index `first` on, whose COPIED flag is wrong ({@link copiedStride}): it must be
   * set when the entry has a host cluster referenced exactly once (with external data: any), and clear on all other
   * entries. Invalid entries are left out, save `InvalidEntry.copiedWithoutHost`. Returns how many; when `out` is
   * full, go on behind the last.
   */
  copiedMismatches(table: Uint8Array, flags: number, first: number, out: Float64Array): number;
  /**
   * Corrects, on the thread pool, those flags that {@link copiedMismatches} tells of and that must be set (`toSet`) or clear,
   * in tables that lie as for {@link addL2Tables}; those with `times` 0 are left. `changed` gets {@link changedStride} numbers
   * for each. Resolves to the number of flags, each counted `times` times.
   */
  correctCopied(
    tables: Uint8Array,
    flags: number,
    times: Uint32Array,
    toSet: boolean,
    changed: Float64Array,
  ): Promise<number>;
}

export interface ReferenceCountsClass {
  /**
   * @param clusters host clusters of the file, the last of which may be only partly there
   * @param limitBytes memory that the counters may take
   */
  readonly ReferenceCounts: new (
    clusters: number,
    clusterBits: number,
    limitBytes: number,
  ) => ReferenceCounts;
}
