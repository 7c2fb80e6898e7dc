/**
 * Making an image of a dehydrated one: the same structure at the same places, without the guest's data. Containers come from
 * strangers; whatever they hold, nothing but the target is written, no more than told, and what is left is an image or empty.
 */
import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { Op } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import {
  checkDehydratedHead,
  damagedContainer,
  decodePieceHead,
  dehydratedHeadSize,
  maxPieceBytes,
  pieceHeadSize,
} from '../format/dehydrated.js';
import { native } from '../native.js';
import { readHeader } from '../metadata/header-io.js';
import type { Source } from '../options.js';
import { destroyOnAbort } from '../storage/destroy-on-abort.js';
import { openSource, refuseOwnSource } from '../storage/open-source.js';
import type { Storage } from '../storage/storage.js';

/** Metadata of an image of 16 TiB, about. */
const defaultMaxBytes = 4 * 1024 * 1024 * 1024;
/** Zeros in blocks of this size are left out of the file. */
const blockSize = 4096;

export interface RehydrateOptions extends Op {
  /** Metadata to write at most, bytes; 4 GiB by default. A container may unpack to a thousand times its size. */
  maxBytes?: number;
}

/** Bytes from a stream, as many at a time as are asked for. */
class Bytes {
  readonly #source: AsyncIterator<Uint8Array>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** The next `length` bytes; fewer only where the stream ends. */
  async take(length: number): Promise<Buffer> {
    const parts = [this.#rest];
    let got = this.#rest.length;
    while (got < length) {
      const next = await this.#source.next();
      if (next.done === true) break;
      parts.push(Buffer.from(next.value.buffer, next.value.byteOffset, next.value.byteLength));
      got += next.value.length;
    }
    const all = parts.length === 1 ? this.#rest : Buffer.concat(parts);
    this.#rest = all.subarray(length);
    return all.subarray(0, length);
  }

  /** What follows, as a stream. */
  async *remainder(): AsyncGenerator<Uint8Array> {
    if (this.#rest.length > 0) yield this.#rest;
    for (let next = await this.#source.next(); next.done !== true; next = await this.#source.next()) {
      yield next.value;
    }
  }
}

/**
 * Writes the image that was dehydrated into `container` to `target`, which is made anew. Where the guest's data was there
 * are holes.
 * @param container a path, a `file:` URL, or the bytes as a stream, which is destroyed when the signal is aborted
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when the container is damaged, `ERR_QCOW2_LIMIT` past `maxBytes`; the target is
 * empty then. `ERR_QCOW2_DATA_LOSS` when the target is the container, which stays as it is
 */
export async function rehydrate(
  container: string | URL | AsyncIterable<Uint8Array>,
  target: Source,
  options: RehydrateOptions = {},
): Promise<void> {
  const isFile = typeof container === 'string' || container instanceof URL;
  options.signal?.throwIfAborted();
  if (isFile) await refuseOwnSource(container, target);
  const stream: AsyncIterable<Uint8Array> = isFile ? createReadStream(container) : container;
  const unfollow = destroyOnAbort(stream, options.signal);
  try {
    await rehydrateStream(new Bytes(stream), target, options);
  } finally {
    unfollow();
  }
}

async function rehydrateStream(bytes: Bytes, target: Source, options: RehydrateOptions): Promise<void> {
  checkDehydratedHead(await bytes.take(dehydratedHeadSize));
  const { storage, owned } = await openSource(target, { mode: 'create', lock: true });
  try {
    await unpack(bytes, storage, options);
    await readHeader(storage, true);
    await storage.flush();
  } catch (error) {
    // Half an image must not be taken for one.
    await storage.truncate(0).catch(() => undefined);
    throw error;
  } finally {
    if (owned) await storage.close();
  }
}

async function unpack(
  container: Bytes,
  storage: Storage,
  { signal, maxBytes = defaultMaxBytes }: RehydrateOptions,
): Promise<void> {
  const gunzip = createGunzip();
  const input = Readable.from(container.remainder());
  input.on('error', (error) => gunzip.destroy(error));
  const bytes = new Bytes(input.pipe(gunzip));
  try {
    await writePieces(bytes, storage, maxBytes, signal);
  } finally {
    input.destroy();
    gunzip.destroy();
  }
}

/** Writes the pieces, which must come in the order of the file and lie inside it. */
async function writePieces(
  bytes: Bytes,
  storage: Storage,
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const size = await fileSize(bytes);
  await storage.truncate(size);
  let end = 0;
  let total = 0;
  for (;;) {
    signal?.throwIfAborted();
    const head = await take(bytes, pieceHeadSize);
    const { offset, length } = decodePieceHead(head);
    if (offset === null) {
      if (length !== total % 2 ** 32) throw damagedContainer('pieces are missing');
      break;
    }
    if (length === 0 || length > maxPieceBytes) throw damagedContainer(`it has a piece of ${length} bytes`);
    if (offset < end || offset + length > size) {
      throw damagedContainer(`it has a piece at ${offset}, outside the file or not behind the one before`);
    }
    end = offset + length;
    total += length;
    if (total > maxBytes) {
      throw new Qcow2Error(
        'ERR_QCOW2_LIMIT',
        `The dehydrated image holds more than ${maxBytes} bytes of metadata; raise maxBytes if that can be right`,
        { feature: 'dehydrated image' },
      );
    }
    await writeSparse(storage, await take(bytes, length), offset);
  }
  if ((await next(bytes, 1)).length > 0) throw damagedContainer('something follows its end');
}

async function fileSize(bytes: Bytes): Promise<number> {
  const size = (await take(bytes, 8)).readBigUInt64BE(0);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw damagedContainer(`its file has ${String(size)} bytes`);
  return Number(size);
}

async function take(bytes: Bytes, length: number): Promise<Buffer> {
  const got = await next(bytes, length);
  if (got.length < length) throw damagedContainer('it ends too early');
  return got;
}

async function next(bytes: Bytes, length: number): Promise<Buffer> {
  try {
    return await bytes.take(length);
  } catch (error) {
    if (error instanceof Error && 'code' in error && String(error.code).startsWith('Z_')) {
      throw damagedContainer(`it cannot be unpacked (${error.message})`);
    }
    throw error;
  }
}

/** Writes what is not zeros. */
async function writeSparse(storage: Storage, bytes: Uint8Array, offset: number): Promise<void> {
  const ends = new Float64Array(Math.ceil(bytes.length / blockSize) + 1);
  const runs = native.zeroRuns(bytes, blockSize, ends);
  for (let i = 0, start = 0; i < runs; i++) {
    const end = ends[i] ?? 0;
    if (i % 2 === 0 && end > start) await storage.write(bytes.subarray(start, end), offset + start);
    start = end;
  }
}
