/** Units of bytes that go to one place after the other, each with the pieces it is read from, as rows for native jobs. */
import { transferStride } from '../../native.js';
import { RowTable } from './row-table.js';

/** Where pieces stand in the rows that are added: their offset is a place in the file or on the disk here. */
export const pieceColumn = {
  file: 0,
  position: 1,
  stored: 2,
  place: 3,
  length: 4,
  clusterSize: 5,
  skip: 6,
  codec: 7,
} as const;

export class RunUnits {
  readonly units = new RowTable(transferStride.unit);
  readonly pieces = new RowTable(transferStride.piece);
  readonly #unit: number;
  /** Where the last unit begins and ends. */
  #start = 0;
  #end = -1;
  #bytes = 0;

  /** @param unit longest unit, bytes */
  constructor(unit: number) {
    this.#unit = unit;
  }

  /** Of all units. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Bytes that are in a file as they are to be at `place` and behind. */
  addPlain(file: number, position: number, place: number, length: number): void {
    for (let done = 0; done < length;) {
      const at = place + done;
      const room = at === this.#end ? this.#start + this.#unit - at : 0;
      const part = Math.min(length - done, room > 0 ? room : this.#unit);
      this.#extend(at, part);
      this.pieces.add(file, position + done, part, at - this.#start, part);
      done += part;
    }
  }

  /** A compressed cluster, or a part of it, no longer than a unit, for `place`. */
  addCompressed(
    file: number,
    position: number,
    stored: number,
    place: number,
    length: number,
    clusterSize: number,
    skip: number,
    codec: number,
  ): void {
    this.#extend(place, length);
    this.pieces.add(file, position, stored, place - this.#start, length, clusterSize, skip, codec);
  }

  /** Makes the last unit longer, or begins one. */
  #extend(at: number, length: number): void {
    if (at === this.#end && at + length <= this.#start + this.#unit) {
      this.units.increase(1, length);
      this.units.increase(2, 1);
    } else {
      this.#start = at;
      this.units.add(at, length, 1);
    }
    this.#end = at + length;
    this.#bytes += length;
  }
}
