/** Units of a disk with what is read for each, as rows of numbers that native jobs take. */
import { alignDown } from '../../format/units.js';
import { transferStride, type Codec } from '../../native.js';
import { RowTable } from './row-table.js';

/** Made in the order of the disk. */
export class UnitRows {
  readonly units = new RowTable(transferStride.unit);
  readonly pieces = new RowTable(transferStride.piece);
  readonly #unit: number;
  readonly #size: number;
  readonly #firstFile: number;
  readonly #from: number;
  /** Where the last unit begins and ends. */
  #start = 0;
  #end = 0;

  /**
   * @param unit bytes, a power of two
   * @param size where the last unit is cut, bytes
   * @param firstFile what the index of the first of the files is to be
   * @param from before which no unit begins, bytes
   */
  constructor(unit: number, size: number, firstFile = 0, from = 0) {
    this.#unit = unit;
    this.#size = size;
    this.#firstFile = firstFile;
    this.#from = from;
  }

  /** Bytes that are in a file as they are on the disk: cut where units end. */
  addPlain(file: number, position: number, guest: number, length: number): void {
    const end = guest + length;
    for (let at = guest; at < end; at = this.#end) {
      this.#unitAt(at);
      const part = Math.min(end, this.#end) - at;
      this.pieces.add(this.#firstFile + file, position + (at - guest), part, at - this.#start, part);
    }
  }

  /** A compressed cluster, no larger than a unit, or a part of it. */
  addCompressed(
    file: number,
    position: number,
    stored: number,
    guest: number,
    length: number,
    clusterSize: number,
    skip: number,
    codec: Codec,
  ): void {
    this.#unitAt(guest);
    this.pieces.add(
      this.#firstFile + file,
      position,
      stored,
      guest - this.#start,
      length,
      clusterSize,
      skip,
      codec,
    );
  }

  /** Counts one more piece in the unit that `at` is in. */
  #unitAt(at: number): void {
    if (at >= this.#end) {
      const whole = alignDown(at, this.#unit);
      this.#start = Math.max(whole, this.#from);
      this.#end = Math.min(whole + this.#unit, this.#size);
      this.units.add(this.#start, this.#end - this.#start, 0);
    }
    this.units.increase(2, 1);
  }
}
