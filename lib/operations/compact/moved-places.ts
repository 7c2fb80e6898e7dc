/** Where things of the image file have been moved to: a hash table in flat memory, for millions of them. */

/** Entries that a table holds at most. With 24 bytes each, and room to stay fast, it takes 48 MiB then. */
const maxMoves = 1024 * 1024;

export class MovedPlaces {
  readonly #capacity: number;
  #mask: number;
  /** Old host offsets plus one, so that 0 means empty; new host offsets; lengths. */
  #keys: Float64Array;
  #places: Float64Array;
  #lengths: Float64Array;
  #size = 0;

  constructor(capacity = maxMoves) {
    this.#capacity = capacity;
    this.#mask = 1023;
    this.#keys = new Float64Array(1024);
    this.#places = new Float64Array(1024);
    this.#lengths = new Float64Array(1024);
  }

  get size(): number {
    return this.#size;
  }

  get isFull(): boolean {
    return this.#size >= this.#capacity;
  }

  /** Where what was at `from` is now, or undefined. */
  get(from: number): number | undefined {
    const slot = this.#slot(from);
    return this.#keys[slot] === 0 ? undefined : this.#places[slot];
  }

  /** How many bytes of what was at `from` were moved; 0 when it was not. */
  lengthOf(from: number): number {
    return this.#lengths[this.#slot(from)] ?? 0;
  }

  /** Notes that `length` bytes went from `from`, which is not in the table yet, to `to`. */
  add(from: number, to: number, length: number): void {
    if (this.#size * 2 > this.#mask) this.#grow();
    this.#put(from, to, length);
    this.#size++;
  }

  /** Calls `visit` with each new place and the bytes there. */
  forEach(visit: (to: number, length: number) => void): void {
    for (let slot = 0; slot <= this.#mask; slot++) {
      if (this.#keys[slot] !== 0) visit(this.#places[slot] ?? 0, this.#lengths[slot] ?? 0);
    }
  }

  #put(from: number, to: number, length: number): void {
    const slot = this.#slot(from);
    this.#keys[slot] = from + 1;
    this.#places[slot] = to;
    this.#lengths[slot] = length;
  }

  /** Where `from` is or would go. */
  #slot(from: number): number {
    // Multiplicative hashing of the sector number and what is below it.
    let hash = Math.imul(Math.floor(from / 512) >>> 0, 0x9e3779b1) ^ Math.imul(from % 512, 0x85ebca6b);
    hash ^= Math.imul(Math.floor(from / 2 ** 41), 0xc2b2ae35);
    let slot = (hash ^ (hash >>> 15)) & this.#mask;
    while (this.#keys[slot] !== 0 && this.#keys[slot] !== from + 1) slot = (slot + 1) & this.#mask;
    return slot;
  }

  #grow(): void {
    const [keys, places, lengths] = [this.#keys, this.#places, this.#lengths];
    this.#mask = keys.length * 2 - 1;
    this.#keys = new Float64Array(keys.length * 2);
    this.#places = new Float64Array(keys.length * 2);
    this.#lengths = new Float64Array(keys.length * 2);
    keys.forEach((key, i) => {
      if (key !== 0) this.#put(key - 1, places[i] ?? 0, lengths[i] ?? 0);
    });
  }
}
