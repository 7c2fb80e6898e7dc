/** Refcount blocks: refcounts of 2^order bits, by their index in the block. */

export interface RefcountFunctions {
  /** The refcount at `index` of a refcount block; counts past 2^53 - 1 come back as 2^53 - 1. */
  refcountGet(block: Uint8Array, order: number, index: number): number;
  /** Sets `count` refcounts from `first` on. */
  refcountSet(block: Uint8Array, order: number, first: number, count: number, value: number): void;
  /** Adds `delta` (positive or negative) to `count` refcounts; -1 when done, else, changing nothing, the first index that would leave its range. */
  refcountAdd(block: Uint8Array, order: number, first: number, count: number, delta: number): number;
  /** The first index in [first, end) whose refcount is 0; `end` when none is. */
  refcountNextFree(block: Uint8Array, order: number, first: number, end: number): number;
  /** The first index in [first, end) whose refcount is not 0; `end` when none is. */
  refcountNextUsed(block: Uint8Array, order: number, first: number, end: number): number;
  /** Where the run of refcounts that equal the one at `first`, which is below `end`, is over; at most `end`. */
  refcountRunEnd(block: Uint8Array, order: number, first: number, end: number): number;
  /** How many refcounts in [first, end) are not 0. */
  refcountCountUsed(block: Uint8Array, order: number, first: number, end: number): number;
}
