/** Planned copies between files. */

/** Numbers per row of the tables of {@link TransferFunctions.transfer}. */
export const transferStride = {
  /** Guest position, length, number of pieces. */
  unit: 3,
  /** The same, and the number of pieces that another disk has, which follow on the others: of {@link Content.differing}. */
  differingUnit: 4,
  /**
   * Index of the file, position in it, length there, offset in the unit, length there; and for compressed clusters the
   * cluster size (else 0), the bytes of the cluster before those wanted, the Codec.
   */
  piece: 8,
  /** Guest position, length, host position. A length less than a block: a block, compressed to that. */
  placed: 3,
} as const;

/** Which blocks are copied. */
export const Content = {
  /** Of which something was read. */
  read: 0,
  /** The same without zeros. */
  data: 1,
  /** Those that are other than on another disk. */
  differing: 2,
} as const;
export type Content = (typeof Content)[keyof typeof Content];

/** The host position of what is zeros where another disk has something else. */
export const hiddenHost = -1;

/** Most blocks that compressed data may have ahead: `places` needs room for so many more. */
export const blocksAhead = 64;

/** Buffers that a job has beside one for each worker, so that none waits while another writes. */
export const spareBuffers = 2;

/** Numbers of the area that streams are packed into. All are 0 in the beginning. */
export const PackingArea = {
  /** Where the next stream may begin. */
  next: 0,
  /** Where the blocks end that were taken for streams. */
  end: 1,
  /** Streams that touch the block in which the next one begins. */
  shares: 2,
  /** Blocks taken for streams so far. */
  blocks: 3,
  length: 4,
} as const;

export interface TransferFunctions {
  /**
   * Copies planned pieces of the files `files` (descriptors) into the file `fdOut` on `workers` threads of the pool. `units` and
   * `pieces` have {@link transferStride} numbers a row; what no piece of a unit fills is zeros. It is done by blocks of
   * `granularity` bytes from the beginning of each unit, of which `content` says which are copied. Where that is what differs from another disk,
   * `places` is for data, zeros are only told of, as {@link hiddenHost} among the runs, and there is no compression.
   * Without `places` data goes where it is on the disk. With `places` (host position and length, whole blocks, room for
   * everything) it goes there, in the order of the units, by whole blocks, and `placed` gets {@link transferStride} numbers
   * for each run of it: room for one for each block and place.
   * With `compression` (the Codec, the level, how many streams may touch a block, how many blocks they may have ahead; empty for none) each block is compressed
   * and packed behind the one before, where it gets shorter. `area` ({@link PackingArea}) says where to go on, and afterwards
   * how far it got. `places` has room for {@link blocksAhead} blocks more then.
   * With `reservesAhead` space is reserved for some MiB of a place at once, where that makes writing cheaper: what is not used in
   * the end stays reserved, and whoever completes the file has to cut it off.
   * `scratch` has a buffer for each worker and {@link spareBuffers} more, twice as many with compression or for what differs; none of the
   * units is longer.
   * Pieces of the file behind the last of `files` are bytes of `memory`, which may be empty.
   * @returns a promise for each worker: wait for all. Their greatest value is the number of runs placed; if one is -1 the
   * files were not as planned (shorter, or damaged compressed clusters), and nothing of it counts.
   */
  transfer(
    fdOut: number,
    files: Float64Array,
    units: Float64Array,
    pieces: Float64Array,
    places: Float64Array,
    granularity: number,
    scratch: Uint8Array,
    placed: Float64Array,
    workers: number,
    compression: Float64Array,
    area: Float64Array,
    content: Content,
    memory: Uint8Array,
    reservesAhead: boolean,
  ): Promise<number>[];
}
