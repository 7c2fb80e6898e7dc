/** A range of a disk, given as two operands. */
import { Failure } from './failure.js';
import type { Disk } from '../index.js';
import { sizeArgument } from './sizes.js';

/**
 * @param name of the disk, for the message
 * @throws Failure when it is none, or is not within the disk
 */
export function rangeOf(
  { size }: Disk,
  name: string,
  offset: string,
  length: string,
): { start: number; length: number } {
  const start = sizeArgument('offset', offset);
  const bytes = sizeArgument('length', length);
  if (start + bytes <= BigInt(size)) return { start: Number(start), length: Number(bytes) };
  throw new Failure(`The range ends at ${start + bytes}, but the disk of '${name}' has ${size} bytes`);
}
