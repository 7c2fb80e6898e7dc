/** What every disk can answer from its extents and reads: where data is, and its bytes as a stream. */
import type { Readable } from 'node:stream';
import type { ByteRange, Disk, ExtentType, Op } from '../disk.js';
import { outOfRange } from '../errors.js';
import { toBytes } from '../format/units.js';
import { pageBytes } from '../storage/page-bytes.js';

const streamChunk = 1024 * 1024;

/** A checked range of a disk, bytes [start, end). */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Checks a position and length given by a caller: they must lie within the disk. */
export function checkRange(size: number, position: number | bigint, length: number | bigint): Range {
  const start = toBytes('position', position);
  const bytes = toBytes('length', length);
  if (start + bytes > size) {
    throw outOfRange(
      'position',
      `within the disk of ${size} bytes, with all ${bytes} bytes from there on`,
      start,
    );
  }
  return { start, end: start + bytes };
}

/** The range of a query whose missing parts mean the whole disk; what lies past the end is left out. */
export function queryRange(size: number, { start = 0, length }: ByteRange): Range {
  const from = Math.min(toBytes('start', start), size);
  return { start: from, end: length === undefined ? size : Math.min(size, from + toBytes('length', length)) };
}

/** {@link Disk.nextData} by extents. */
export function nextData(disk: Disk, position: number | bigint, op: Op = {}): Promise<number | null> {
  return firstOf(disk, position, ['data', 'compressed'], op);
}

/** {@link Disk.nextHole} by extents. */
export async function nextHole(disk: Disk, position: number | bigint, op: Op = {}): Promise<number> {
  return (await firstOf(disk, position, ['zero', 'unallocated'], op)) ?? disk.size;
}

async function firstOf(
  disk: Disk,
  position: number | bigint,
  types: readonly ExtentType[],
  op: Op,
): Promise<number | null> {
  for await (const extent of disk.extents({ start: position, ...op })) {
    if (types.includes(extent.type)) return extent.start;
  }
  return null;
}

/** {@link Disk.createReadStream} by reads, one ahead of the consumer. */
export function createReadStream(disk: Disk, query: ByteRange & Op = {}): Readable {
  const { start, end } = queryRange(disk.size, query);
  // Loaded when it is needed: a short program would wait for it in vain.
  return process
    .getBuiltinModule('node:stream')
    .Readable.from(chunks(disk, start, end, query), { objectMode: false, highWaterMark: streamChunk });
}

async function* chunks(disk: Disk, start: number, end: number, { signal }: Op): AsyncGenerator<Uint8Array> {
  for (let at = start; at < end; at += streamChunk) {
    signal?.throwIfAborted();
    const { buffer, byteOffset, length } = pageBytes(Math.min(streamChunk, end - at));
    const chunk = Buffer.from(buffer, byteOffset, length);
    await disk.read(chunk, at);
    yield chunk;
  }
}
