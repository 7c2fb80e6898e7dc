/** Cutting a disk into its broken and its sound parts. */
import type { Qcow2 } from '../../lib/index.js';
import type { GuestRange } from './outcome.js';

export interface Unit {
  readonly start: number;
  readonly end: number;
  readonly broken: boolean;
}

/** Clusters that are looked at in a large broken range: at both ends and in the middle. */
const samples = 4;

/** The sound parts whole, the broken ones in samples of a cluster. Without gaps but for what the samples leave out. */
export function unitsOf({ size, header }: Qcow2, broken: readonly GuestRange[]): Unit[] {
  const { clusterSize } = header.geometry;
  const units: Unit[] = [];
  let from = 0;
  for (const [start, end] of [...broken].sort(([a], [b]) => a - b)) {
    if (from < start) units.push({ start: from, end: start, broken: false });
    for (const at of sampled(start, end, clusterSize)) {
      units.push({ start: at, end: Math.min(at + clusterSize, end), broken: true });
    }
    from = end;
  }
  if (from < size) units.push({ start: from, end: size, broken: false });
  return units;
}

function sampled(start: number, end: number, clusterSize: number): number[] {
  const count = Math.ceil((end - start) / clusterSize);
  const indexes = Array.from({ length: samples }, (_, i) => Math.floor((i * (count - 1)) / (samples - 1)));
  return [...new Set(indexes)].map((index) => start + index * clusterSize);
}
