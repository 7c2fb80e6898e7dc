/** The set of an image's L2 tables: each once, in the order of the file, with the number of L1 entries that refer to it. */

/** Offsets that gather before they are sorted in; bounds the memory that many snapshots take. */
const batchSize = 256 * 1024;

export class L2TableSet {
  /** Ascending, each once. */
  #offsets = new Float64Array(0);
  #times = new Uint32Array(0);
  #pending: number[] = [];

  add(offset: number): void {
    this.#pending.push(offset);
    if (this.#pending.length >= batchSize) this.#merge();
  }

  /** Offsets of the tables, ascending. */
  get offsets(): Float64Array {
    this.#merge();
    return this.#offsets;
  }

  /** How often each table of {@link offsets} is referred to. */
  get times(): Uint32Array {
    this.#merge();
    return this.#times;
  }

  timesOf(offset: number): number {
    const { offsets } = this;
    const index = lowerBound(offsets, offset);
    return offsets[index] === offset ? (this.#times[index] ?? 0) : 0;
  }

  #merge(): void {
    if (this.#pending.length === 0) return;
    const added = Float64Array.from(this.#pending).sort();
    this.#pending = [];
    const offsets = new Float64Array(this.#offsets.length + added.length);
    const times = new Uint32Array(offsets.length);
    let length = 0;
    const put = (offset: number, count: number): void => {
      if (length === 0 || offsets[length - 1] !== offset) offsets[length++] = offset;
      times[length - 1] = (times[length - 1] ?? 0) + count;
    };
    let old = 0;
    for (const offset of added) {
      for (; old < this.#offsets.length && (this.#offsets[old] ?? 0) <= offset; old++) {
        put(this.#offsets[old] ?? 0, this.#times[old] ?? 0);
      }
      put(offset, 1);
    }
    for (; old < this.#offsets.length; old++) put(this.#offsets[old] ?? 0, this.#times[old] ?? 0);
    this.#offsets = offsets.slice(0, length);
    this.#times = times.slice(0, length);
  }
}

/** The first index whose value is not below `value`. */
function lowerBound(sorted: Float64Array, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
