/** A range of a disk, given as two operands. */
import { Failure } from './failure.js';
import type { Disk } from '../index.js';
import { sizeArgument } from './sizes.js';

/** What the operands say, bytes; whether it is within the disk is another question. */
export interface WantedRange {
  readonly start: bigint;
  readonly length: bigint;
}

/** @throws Failure for operands that are no sizes */
export function parseRange(offset: string, length: string): WantedRange {
  return { start: sizeArgument('offset', offset), length: sizeArgument('length', length) };
}

/**
 * @param name of the disk, for the message
 * @throws Failure when the range is not within the disk
 */
export function rangeOf(
  { size }: Disk,
  name: string,
  { start, length }: WantedRange,
): { start: number; length: number } {
  if (start + length <= BigInt(size)) return { start: Number(start), length: Number(length) };
  throw new Failure(`The range ends at ${start + length}, but the disk of '${name}' has ${size} bytes`);
}
