/** The set of an image's L2 tables: each once, in the order of the file, with the number of L1 entries that refer to it. */

/** Offsets that gather before they are sorted in; bounds the memory that many snapshots take. */
const batchSize = 256 * 1024;

/** What is referred to more often than this counts as this often, not as less. Two of it are still a 32-bit number. */
const maxTimes = 2 ** 31 - 1;

export class L2TableSet {
  /** Ascending, each once. */
  #offsets = new Float64Array(0);
  #times = new Uint32Array(0);
  readonly #pending = new Map<number, number>();

  add(offset: number, times = 1): void {
    this.#pending.set(offset, (this.#pending.get(offset) ?? 0) + times);
    if (this.#pending.size >= batchSize) this.#merge();
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
    if (this.#pending.size === 0) return;
    const added = Float64Array.from(this.#pending.keys()).sort();
    const offsets = new Float64Array(this.#offsets.length + added.length);
    const times = new Uint32Array(offsets.length);
    let length = 0;
    const put = (offset: number, count: number): void => {
      if (length === 0 || offsets[length - 1] !== offset) offsets[length++] = offset;
      times[length - 1] = Math.min(maxTimes, (times[length - 1] ?? 0) + count);
    };
    let old = 0;
    for (const offset of added) {
      for (; old < this.#offsets.length && (this.#offsets[old] ?? 0) <= offset; old++) {
        put(this.#offsets[old] ?? 0, this.#times[old] ?? 0);
      }
      put(offset, this.#pending.get(offset) ?? 0);
    }
    for (; old < this.#offsets.length; old++) put(this.#offsets[old] ?? 0, this.#times[old] ?? 0);
    this.#pending.clear();
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
