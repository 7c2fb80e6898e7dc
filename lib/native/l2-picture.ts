/** Adding up what L2 tables say, by equal parts of the disk and of the file. */

/**
 * Numbers per part of the disk: bytes of each `RunKind`, by its number, and behind them the pieces that begin in the part.
 * A piece is what lies in one stretch in the file.
 */
export const guestPartStride = 8;
export const piecesColumn = 7;

/** Numbers per part of the file: bytes of data, of compressed data, of clusters that are kept for zeros. */
export const hostPartStride = 3;

export interface PictureFunctions {
  /**
   * Adds the guest bytes [start, end) that `table` describes, whose first entry is for `start`. `guestPart` and `hostPart`
   * are bytes of one part; what lies past the last part counts to the last one. `links` has bytes stored by part of the
   * disk (rows) and part of the file (columns), in as many steps of each as the root of its length.
   * @param expected where the piece before ends in the file, 0 when there is none
   * @returns where the last piece ends
   */
  addToPicture(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    start: number,
    end: number,
    expected: number,
    guestPart: number,
    hostPart: number,
    guest: Float64Array,
    host: Float64Array,
    links: Float64Array,
  ): number;
}
