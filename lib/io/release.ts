/** Letting go of the host clusters that a guest range used to have. */
import { alignDown, alignUp, hostOffset } from '../format/units.js';
import type { Run } from '../metadata/run.js';
import { RunKind } from '../native.js';
import type { GuestImage } from './guest-image.js';

/**
 * Drops one reference of every host cluster of these runs, which cover whole guest clusters and which no L2 entry in
 * memory refers to any more.
 */
export function releaseRuns(guest: GuestImage, runs: readonly Run[], punch: boolean): void {
  const { image } = guest;
  if (image.hasDataFile) return;
  const { clusterSize } = image.geometry;
  // With extended entries one host cluster shows up as several runs.
  let releasedTo = -1;
  for (const { kind, start, length, host, aux } of runs) {
    if (kind === RunKind.compressed) {
      image.committer.freeLater(host, aux, false);
      continue;
    }
    if (kind !== RunKind.data && kind !== RunKind.zeroAllocated && kind !== RunKind.unallocatedInCluster)
      continue;
    const from = Math.max(alignDown(start, clusterSize), releasedTo);
    const to = alignUp(start + length, clusterSize);
    if (from < to) image.committer.freeLater(hostOffset(host + (from - start)), to - from, punch);
    releasedTo = to;
  }
}
