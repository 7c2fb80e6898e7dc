/**
 * A copy of an image's structure for a report of a fault: all of its metadata at their places, and nothing the guest wrote.
 * Left out are data, compressed data, VM states, keys and salts, what follows a table in its cluster, and, unless wanted, the
 * bits of bitmaps and names. docs/dehydrated.md tells what the file looks like.
 */
import { createWriteStream } from 'node:fs';
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import {
  encodeDehydratedHead,
  encodeEnd,
  encodeFileSize,
  encodePieceHead,
  maxPieceBytes,
} from '../format/dehydrated.js';
import { hasFeature } from '../format/features.js';
import type { Job } from '../disk.js';
import { readHeader } from '../metadata/header-io.js';
import { Image } from '../metadata/image.js';
import { native } from '../native.js';
import type { Source } from '../options.js';
import { MemoryStorage } from '../storage/memory.js';
import { openSource, refuseOwnSource } from '../storage/open-source.js';
import { readPadded, type Storage } from '../storage/storage.js';
import { CheckContext } from './check/context.js';
import { Findings } from './check/findings.js';
import { CheckProgress } from './check/reader.js';
import { countReferences } from './check/references.js';
import { metadataParts, type MetadataPart } from './dehydrate/metadata-parts.js';

/** Zeros in blocks of this size are left out. */
const blockSize = 4096;
const cacheBytes = 4 * 1024 * 1024;

/** What goes into the container. */
export interface DehydrateOptions extends Omit<Job, 'concurrency'> {
  /** Keeps names: of the backing and the data file, of snapshots and bitmaps. */
  strings?: boolean;
  /** Keeps the bits of bitmaps: where the guest wrote, not what. */
  bitmapContents?: boolean;
  /** `false` takes no file locks; by default QEMU's are taken on files. */
  lock?: boolean;
}

/**
 * Writes the structure of an image to `target`: a path, a `file:` URL or a stream, which is ended. Damaged images are what
 * this is for: whatever can be found is in it.
 * @throws Qcow2Error when the header cannot be read; `ERR_QCOW2_LIMIT` for an image so large that counting its references
 * takes more than 1 GiB, `ERR_QCOW2_DATA_LOSS` when the target is the image itself; the signal's reason
 */
export async function dehydrate(
  source: Source,
  target: string | URL | Writable,
  options: DehydrateOptions = {},
): Promise<void> {
  const isFile = typeof target === 'string' || target instanceof URL;
  if (isFile) await refuseOwnSource(source, target);
  const { storage, owned } = await openSource(source, { mode: 'r', lock: options.lock ?? true });
  try {
    const output = isFile ? createWriteStream(target) : target;
    const bytes = Readable.from(packed(storage, options));
    const { signal } = options;
    await pipeline(bytes, output, signal === undefined ? {} : { signal });
  } finally {
    if (owned) await storage.close();
  }
}

async function* packed(storage: Storage, options: DehydrateOptions): AsyncGenerator<Uint8Array> {
  yield encodeDehydratedHead();
  const gzip = createGzip();
  const pieces = Readable.from(pieceStream(storage, options));
  pieces.on('error', (error) => gzip.destroy(error));
  try {
    yield* pieces.pipe(gzip) as AsyncIterable<Uint8Array>;
  } finally {
    pieces.destroy();
  }
}

async function* pieceStream(storage: Storage, options: DehydrateOptions): AsyncGenerator<Uint8Array> {
  const header = await readHeader(storage, true);
  // Where the data is, is of no interest.
  const data = hasFeature(header, 'externalData') ? new MemoryStorage() : null;
  const image = await Image.open(storage, data, header, { writable: false, forRepair: true, cacheBytes });
  const progress = new CheckProgress(options);
  const context = await CheckContext.of(image, new Findings({ maxFindings: 0 }), progress, {});
  await countReferences(context, { refcountStructure: true });
  yield encodeFileSize(context.fileSize);
  let total = 0;
  let end = 0;
  for (const part of await metadataParts(context, options)) {
    progress.throwIfAborted();
    // What is two things at once is the one that begins first.
    const from = Math.max(part.offset, end);
    const to = Math.min(part.offset + part.length, context.fileSize);
    if (from >= to) continue;
    for await (const { offset, bytes } of cleanPieces(storage, part, from, to)) {
      yield encodePieceHead(offset, bytes.length);
      yield bytes;
      total += bytes.length;
    }
    end = to;
  }
  yield encodeEnd(total);
}

/** The bytes of a part from `from` to `to` that are not zeros. */
async function* cleanPieces(
  storage: Storage,
  part: MetadataPart,
  from: number,
  to: number,
): AsyncGenerator<{ offset: number; bytes: Uint8Array }> {
  for (let at = part.offset; at < to; at += maxPieceBytes) {
    const length = Math.min(maxPieceBytes, part.offset + part.length - at);
    const bytes = new Uint8Array(length);
    await readPadded(storage, bytes, at);
    const clean = part.clean(bytes, at - part.offset);
    const first = Math.max(0, from - at);
    const wanted = clean.subarray(first, Math.min(clean.length, to - at));
    const ends = new Float64Array(Math.ceil(wanted.length / blockSize) + 1);
    const runs = native.zeroRuns(wanted, blockSize, ends);
    for (let i = 0, start = 0; i < runs; i++) {
      const stop = ends[i] ?? 0;
      if (i % 2 === 0 && stop > start)
        yield { offset: at + first + start, bytes: wanted.subarray(start, stop) };
      start = stop;
    }
  }
}
