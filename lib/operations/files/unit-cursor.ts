/** Going along planned units of a disk that belong beside those of another. */
import { transferStride } from '../../native.js';
import type { RowTable } from './row-table.js';
import type { UnitRows } from './unit-rows.js';

/** Goes through the units of one disk, so that they can be set beside those of another. */
export class UnitCursor {
  readonly #units: Float64Array;
  readonly #pieces: Float64Array;
  #unit = 0;
  #piece = 0;

  constructor({ units, pieces }: UnitRows) {
    this.#units = units.rows;
    this.#pieces = pieces.rows;
  }

  /** Where the next unit begins; Infinity behind the last. */
  get start(): number {
    return this.#units[this.#unit] ?? Infinity;
  }

  get length(): number {
    return this.#units[this.#unit + 1] ?? 0;
  }

  /** Moves the pieces of the unit that begins at `at` over to `pieces`; returns how many they are. */
  take(at: number, pieces: RowTable): number {
    if (this.start !== at) return 0;
    const count = this.#units[this.#unit + 2] ?? 0;
    const end = this.#piece + count * transferStride.piece;
    pieces.append(this.#pieces.subarray(this.#piece, end));
    this.#piece = end;
    this.#unit += transferStride.unit;
    return count;
  }
}
