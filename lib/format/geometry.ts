/** The numbers that follow from cluster_bits, refcount_order and extended L2: how big every table and entry is. */

export const minClusterBits = 9;
export const maxClusterBits = 21;
/** Below this, extended L2 entries are not allowed. */
export const minExtendedL2ClusterBits = 14;
export const subclustersPerExtendedCluster = 32;
/** The format's (QEMU's) caps on what may be in memory whole, bytes. */
export const maxL1TableBytes = 32 * 1024 * 1024;
export const maxRefcountTableBytes = 8 * 1024 * 1024;
/** Size of an L1, refcount table or bitmap table entry, bytes. */
export const tableEntrySize = 8;

export interface Geometry {
  readonly clusterBits: number;
  /** Bytes. */
  readonly clusterSize: number;
  readonly extendedL2: boolean;
  /** Subclusters in a cluster: 32 with extended L2 entries, else 1. */
  readonly subclusters: number;
  /** Bytes; equals `clusterSize` without extended L2 entries. */
  readonly subclusterSize: number;
  /** Bytes: 16 with extended L2 entries, else 8. */
  readonly l2EntrySize: number;
  /** Entries in an L2 table, which is one cluster. */
  readonly l2Entries: number;
  /** Guest bytes that one L2 table describes. */
  readonly l2Coverage: number;
  readonly refcountOrder: number;
  /** Width of a refcount, bits. */
  readonly refcountBits: number;
  /** The largest refcount that fits (2^53 - 1 for 64-bit refcounts). */
  readonly maxRefcount: number;
  /** Refcounts in a refcount block, which is one cluster. */
  readonly refcountBlockEntries: number;
}

export function geometry(clusterBits: number, refcountOrder: number, extendedL2: boolean): Geometry {
  const clusterSize = 2 ** clusterBits;
  const subclusters = extendedL2 ? subclustersPerExtendedCluster : 1;
  const l2EntrySize = extendedL2 ? 16 : 8;
  const refcountBits = 2 ** refcountOrder;
  return {
    clusterBits,
    clusterSize,
    extendedL2,
    subclusters,
    subclusterSize: clusterSize / subclusters,
    l2EntrySize,
    l2Entries: clusterSize / l2EntrySize,
    l2Coverage: (clusterSize / l2EntrySize) * clusterSize,
    refcountOrder,
    refcountBits,
    maxRefcount: refcountBits >= 53 ? Number.MAX_SAFE_INTEGER : 2 ** refcountBits - 1,
    refcountBlockEntries: (clusterSize * 8) / refcountBits,
  };
}

/** Entries the L1 table needs for a virtual disk of `size` bytes. */
export function l1EntriesFor(size: number, g: Geometry): number {
  return Math.ceil(size / g.l2Coverage);
}
