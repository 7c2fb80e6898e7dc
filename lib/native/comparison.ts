/** Comparing planned pieces of files. */

/** Numbers per unit of {@link ComparisonFunctions.comparePieces}: length, pieces of the first disk, pieces of the second. */
export const comparisonStride = 3;

export interface ComparisonFunctions {
  /**
   * Compares two disks unit by unit on `workers` threads of the pool. `units` has {@link comparisonStride} numbers a row, and
   * `pieces` the pieces of each unit, first those of the first disk, as the transfer function takes them; what no piece
   * fills is zeros. `differs` gets a byte for each unit, 1 where the disks differ. `scratch` has two buffers for each worker;
   * none of the units is longer.
   * @returns a promise for each worker: wait for all. If one is -1 the files were not as planned, and nothing of it counts.
   */
  comparePieces(
    files: Float64Array,
    units: Float64Array,
    pieces: Float64Array,
    scratch: Uint8Array,
    differs: Uint8Array,
    workers: number,
  ): Promise<number>[];
}
