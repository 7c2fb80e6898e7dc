/** Where the tables that the header points to may be: aligned, inside the file, and none on another. */
import { Qcow2Error } from '../errors.js';
import { hex } from './text.js';
import { alignUp } from './units.js';

/** A part of the file that a field of the header or of an extension points to. */
export interface Region {
  /** What it is, with article: "the L1 table". */
  readonly what: string;
  /** Bytes. */
  readonly start: number;
  /** Bytes that are surely in use; an empty region is nowhere. */
  readonly length: number;
  /** The pointing field, in the words of the specification, and where it is. */
  readonly field: string;
  readonly fieldOffset: number;
}

/**
 * What is wrong with the place of one region by itself, or null. The last host cluster may be cut short by the end of
 * the file (it then goes on as zeros), so a region may reach to the end of that cluster.
 */
export function misplaced(region: Region, clusterSize: number, fileSize: number): Qcow2Error | null {
  if (region.start % clusterSize !== 0) {
    const want = `it must be a multiple of the cluster size, ${clusterSize}`;
    return placeError(region, `puts ${region.what} at ${hex(region.start)}; ${want}`);
  }
  if (region.length === 0) return null;
  const end = region.start + region.length;
  if (region.start >= fileSize || end > alignUp(fileSize, clusterSize)) {
    const where = `${region.what} at ${hex(region.start)}..${hex(end)}`;
    return placeError(region, `puts ${where}, past the end of the file at ${hex(fileSize)}`);
  }
  return null;
}

/** The error for the first region that shares a cluster with an earlier one in the list, or null. */
export function firstOverlap(regions: readonly Region[], clusterSize: number): Qcow2Error | null {
  for (const [index, region] of regions.entries()) {
    const other = regions.slice(0, index).find((earlier) => overlap(earlier, region, clusterSize));
    if (other === undefined) continue;
    return placeError(
      region,
      `puts ${region.what} at ${span(region, clusterSize)}, over ${other.what} at ${span(other, clusterSize)}`,
    );
  }
  return null;
}

function overlap(a: Region, b: Region, clusterSize: number): boolean {
  if (a.length === 0 || b.length === 0) return false;
  return a.start < endOf(b, clusterSize) && b.start < endOf(a, clusterSize);
}

/** Tables own their last cluster whole. */
const endOf = (region: Region, clusterSize: number): number =>
  region.start + alignUp(region.length, clusterSize);

const span = (region: Region, clusterSize: number): string =>
  `${hex(region.start)}..${hex(endOf(region, clusterSize))}`;

function placeError({ field, fieldOffset }: Region, finding: string): Qcow2Error {
  return new Qcow2Error('ERR_QCOW2_INVALID_HEADER', `${field} (byte ${fieldOffset}) ${finding}`, {
    offset: fieldOffset,
    feature: field,
  });
}
