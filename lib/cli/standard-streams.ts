/** `-` in place of a file name: `convert` writes an image to standard output, or reads one from standard input. */
import { createReadStream, createWriteStream, fstatSync } from 'node:fs';
import { addAbortSignal, type Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { DescriptorStream, difference, openDisk, toQcow2Stream } from '../index.js';
import type { CreateOptions, Disk, ImageFormat, ToQcow2StreamOptions } from '../index.js';
import { BrokenPipe, Failure } from './failure.js';

/** What stands for standard input or output. */
export const standardStream = '-';

export interface StreamRequest {
  readonly format: ImageFormat;
  readonly create: CreateOptions;
  readonly compress: boolean;
  /** Null for the default. */
  readonly compressionLevel: number | null;
  /** Looks for zeros in what the source has stored. */
  readonly scanZeros: boolean;
  readonly signal: AbortSignal;
}

const stdin = 0;
const stdout = 1;
/** A file comes in larger pieces than the process's own stream takes, bytes. */
const pieceBytes = 1024 * 1024;

/** @throws Failure for what a stream cannot be; BrokenPipe when nobody reads any more; errors of the source */
export async function writeToStandardOutput(disk: Disk, request: StreamRequest): Promise<void> {
  const { isatty } = await import('node:tty');
  if (isatty(stdout)) throw new Failure('Not writing an image to a terminal');
  const { backing } = request.create;
  const base = backing === undefined ? null : await openBase(backing);
  try {
    const stream = streamOf(disk, base, request);
    await withStandardOutput((output) => pipeline(stream, output, { signal: request.signal }));
  } finally {
    await base?.close();
  }
}

/** @throws BrokenPipe when nobody reads any more */
export async function withStandardOutput(write: (output: Writable) => Promise<void>): Promise<void> {
  try {
    await write(createWriteStream('', { fd: stdout, autoClose: false }));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EPIPE') throw new BrokenPipe();
    throw error;
  }
}

/** Ends with the signal at once, also where it waits for a pipe, which a stream of node:fs would go on doing. */
export function standardInput(signal?: AbortSignal): Readable | DescriptorStream {
  if (process.platform !== 'win32')
    return new DescriptorStream(stdin, signal === undefined ? {} : { signal });
  const input = fstatSync(stdin).isFile()
    ? createReadStream('', { fd: stdin, autoClose: false, highWaterMark: pieceBytes })
    : process.stdin;
  return signal === undefined ? input : addAbortSignal(signal, input);
}

async function openBase({ name, format }: NonNullable<CreateOptions['backing']>): Promise<Disk> {
  const { disk } = await openDisk(name, { resolve: 'any', ...(format === undefined ? {} : { format }) });
  return disk;
}

function streamOf(disk: Disk, base: Disk | null, request: StreamRequest): Readable {
  const { format, create, compress, compressionLevel, scanZeros, signal } = request;
  if (format === 'raw') return disk.createReadStream({ signal });
  const { encryption, dataFile, preallocation = 'off', backing, ...others } = create;
  if (encryption !== undefined) throw new Failure('An encrypted image cannot be written to a stream');
  if (dataFile !== undefined)
    throw new Failure('An image with an external data file cannot be written to a stream');
  if (preallocation !== 'off') throw new Failure('A stream cannot be preallocated');
  const { version, clusterSize, refcountBits, lazyRefcounts, extendedL2, compressionType } = others;
  const given = { version, clusterSize, refcountBits, lazyRefcounts, extendedL2, compressionType };
  const shape: ToQcow2StreamOptions = Object.fromEntries(
    Object.entries(given).filter(([, value]) => value !== undefined),
  );
  const incremental =
    base === null || backing === undefined ? {} : { backing, changes: difference(disk, { disk: base }) };
  const level = compressionLevel === null ? {} : { compressionLevel };
  return toQcow2Stream(disk, { ...shape, ...incremental, ...level, compress, scanZeros, signal });
}
