/** How large a disk an image can hold. */

const maxL1Entries = (32 * 1024 * 1024) / 8;

/** The largest disk that the L1 table of an image can describe, bytes (no more than numbers hold exactly). */
export function largestDisk(clusterSize: number, extendedL2: boolean): number {
  const l2Coverage = (clusterSize / (extendedL2 ? 16 : 8)) * clusterSize;
  return Math.min(Number.MAX_SAFE_INTEGER, maxL1Entries * l2Coverage);
}
