/** Rows of numbers for a native job, made one by one without an object for each. */

const firstRows = 16;

export class RowTable {
  readonly #stride: number;
  #numbers: Float64Array;
  #length = 0;

  /** @param stride numbers per row */
  constructor(stride: number) {
    this.#stride = stride;
    this.#numbers = new Float64Array(firstRows * stride);
  }

  get count(): number {
    return this.#length / this.#stride;
  }

  /** All rows so far. */
  get rows(): Float64Array {
    return this.#numbers.subarray(0, this.#length);
  }

  /** Adds a row: eight numbers at most, of which those that a row has count. */
  add(a: number, b: number, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0): void {
    if (this.#length + this.#stride > this.#numbers.length) this.#grow();
    const numbers = this.#numbers;
    const at = this.#length;
    numbers[at] = a;
    numbers[at + 1] = b;
    if (this.#stride > 2) numbers[at + 2] = c;
    if (this.#stride > 3) {
      numbers[at + 3] = d;
      numbers[at + 4] = e;
      numbers[at + 5] = f;
      numbers[at + 6] = g;
      numbers[at + 7] = h;
    }
    this.#length += this.#stride;
  }

  /** Adds to a number of the last row. */
  increase(column: number, by: number): void {
    const at = this.#length - this.#stride + column;
    this.#numbers[at] = (this.#numbers[at] ?? 0) + by;
  }

  /** Adds rows of another table of the same kind. */
  append(rows: Float64Array): void {
    while (this.#length + rows.length > this.#numbers.length) this.#grow();
    this.#numbers.set(rows, this.#length);
    this.#length += rows.length;
  }

  #grow(): void {
    const longer = new Float64Array(this.#numbers.length * 2);
    longer.set(this.#numbers);
    this.#numbers = longer;
  }
}
