/** The native functions for sets of numbers as bits: bit i is bit i % 8, from the lowest, of byte i / 8. */

/** What {@link BitSetFunctions.bitsCombine} does. */
export const BitOperation = { unite: 0, intersect: 1, subtract: 2 } as const;
export type BitOperation = (typeof BitOperation)[keyof typeof BitOperation];

/** Ranges [first, end) lie inside `bits`. */
export interface BitSetFunctions {
  /** Makes a range of bits 1 or 0. */
  bitsSet(bits: Uint8Array, first: number, end: number, value: boolean): void;
  /** How many of a range are 1. */
  bitsCount(bits: Uint8Array, first: number, end: number): number;
  /** The first of a range that is 1 (or, with `value` false, 0); `end` when none is. */
  bitsNext(bits: Uint8Array, first: number, end: number, value: boolean): number;
  /** Combines a set with another one of the same length. */
  bitsCombine(target: Uint8Array, source: Uint8Array, operation: BitOperation): void;
}
