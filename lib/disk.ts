/** What every virtual disk can do, whatever holds it: a qcow2 image, a raw file, a snapshot, a chain. */
import type { Readable } from 'node:stream';

/** Options of one call. */
export interface Op {
  /** Aborting it makes the call reject with the signal's reason as soon as it is safe. */
  signal?: AbortSignal;
}

/** How far a long operation has come; the unit is bytes unless the operation says otherwise. */
export interface Progress {
  /** How much is done; never more than `total`. */
  done: number;
  /** How much there is to do. It may grow while a job finds out more. */
  total: number;
}

/** Options of a long operation. */
export interface Job extends Op {
  /** Called now and then with how far the job has come. */
  onProgress?: (progress: Progress) => void;
  /** Requests in flight at once; a default fitting the operation is used when absent. */
  concurrency?: number;
}

/**
 * What a range of the disk is made of.
 * - `data`: stored bytes
 * - `compressed`: stored bytes, compressed
 * - `zero`: reads as zeros, said so by the image or by a hole in the file
 * - `unallocated`: in no layer of the disk; reads as zeros
 */
export type ExtentType = 'data' | 'compressed' | 'zero' | 'unallocated';

/** A run of the virtual disk with one type and, for `data`, one contiguous place. */
export interface Extent {
  /** First byte on the virtual disk. */
  start: number;
  /** Bytes. */
  length: number;
  /** What the run is made of. */
  type: ExtentType;
  /** Layer that decides this range: 0 is the disk itself, 1 its backing file, and so on. */
  depth: number;
  /** For `data` (and what has a reserved place): offset in the layer's file, bytes; null otherwise or when encrypted. */
  hostOffset: number | null;
}

export interface ExtentQuery extends Op {
  /** First byte of the range; 0 by default. */
  start?: number | bigint;
  /** Bytes; to the end of the disk by default. */
  length?: number | bigint;
  /** `all` (default): what a reader sees through the backing chain; `self`: this layer alone. */
  layers?: 'all' | 'self';
}

/** A range of a disk; all of it by default. */
export interface ByteRange {
  /** First byte; 0 by default. */
  start?: number | bigint;
  /** Bytes; to the end of the disk by default. */
  length?: number | bigint;
}

/** What every virtual disk can do, whatever holds it. */
export interface Disk extends AsyncDisposable {
  /** Virtual size, bytes. */
  readonly size: number;
  /** Fills all of `buffer` from `position` on. */
  read(buffer: Uint8Array, position: number | bigint, op?: Op): Promise<void>;
  /** The same at once, where it can be: false when that would take waiting; then there may be anything in `buffer`. */
  readNow?(buffer: Uint8Array, position: number | bigint): boolean;
  /** The runs of a range in order, merged, without gaps. */
  extents(query?: ExtentQuery): AsyncIterable<Extent>;
  /**
   * The same without an object for each, where there is a quicker way to very many of them: five numbers for each extent, its
   * start, length, type (the place in {@link extentTypes}), depth, and host offset or -1.
   */
  extentRows?(query?: ExtentQuery): AsyncIterable<Float64Array>;
  /** The first position at or after `position` whose bytes are stored (not zero, not unallocated), or null. */
  nextData(position: number | bigint, op?: Op): Promise<number | null>;
  /** The first position at or after `position` that is zero or unallocated; the end of the disk counts as one. */
  nextHole(position: number | bigint, op?: Op): Promise<number>;
  /** The bytes of a range as a stream. */
  createReadStream(range?: ByteRange & Op): Readable;
  /** Waits for what is under way and closes it. Safe to call twice. */
  close(): Promise<void>;
}

/** A disk that can be changed. */
export interface WritableDisk extends Disk {
  /** False where the disk is open read-only, so that changes fail. */
  readonly writable?: boolean;
  /** Writes all of `data` from `position` on; durable after {@link flush}. */
  write(data: Uint8Array, position: number | bigint, op?: Op): Promise<void>;
  /** Makes a range read as zeros, with as little space as the format allows. */
  writeZeroes(position: number | bigint, length: number | bigint, op?: Op): Promise<void>;
  /** Resolves once everything written before the call is durable. */
  flush(): Promise<void>;
}
