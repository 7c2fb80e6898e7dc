/** Planned copies between files. */

/** Numbers per row of the tables of {@link TransferFunctions.transfer}. */
export const transferStride = {
  /** Guest position, length, number of pieces. */
  unit: 3,
  /**
   * File descriptor, position in the file, length there, offset in the unit, length there; and for compressed clusters the
   * cluster size (else 0), the bytes of the cluster before those wanted, the Codec.
   */
  piece: 8,
  /** Guest position, length, host position. */
  placed: 3,
} as const;
export interface TransferFunctions {
  /**
   * Copies planned pieces of files into the file `fdOut`, without their zeros, on `workers` threads of the pool. `units`
   * and `pieces` have {@link transferStride} numbers a row; what no piece of a unit fills is zeros. Zeros are looked for in
   * blocks of `granularity` bytes from the beginning of each unit.
   * Without `places` data goes where it is on the disk. With `places` (host position and length, whole blocks, room for
   * everything) it goes there, in the order of the units, by whole blocks, and `placed` gets {@link transferStride} numbers
   * for each run of it: room for one for each block and place.
   * `scratch` has a buffer for each worker; none of the units is longer.
   * @returns a promise for each worker: wait for all. Their greatest value is the number of runs placed; if one is -1 the
   * files were not as planned (shorter, or damaged compressed clusters), and nothing of it counts.
   */
  transfer(
    fdOut: number,
    units: Float64Array,
    pieces: Float64Array,
    places: Float64Array,
    granularity: number,
    scratch: Uint8Array,
    placed: Float64Array,
    workers: number,
  ): Promise<number>[];
}
