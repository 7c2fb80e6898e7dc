/** fromQcow2Stream(): a qcow2 image that comes through a pipe, into an image or a raw file, or piece by piece. */
import type { Readable } from 'node:stream';
import { create } from '../create.js';
import type { Job } from '../disk.js';
import { invalidArgValue, Qcow2Error } from '../errors.js';
import type { Header } from '../format/header.js';
import { alignUp } from '../format/units.js';
import type { Range } from '../io/disk-queries.js';
import { convert, defaultSparseSize, openTarget, type ConvertOptions } from '../operations/convert.js';
import type { CopyTarget } from '../operations/copy/target.js';
import { inOrder } from '../operations/jobs/in-order.js';
import { Turns } from '../operations/jobs/turns.js';
import type { ImageFormat, OpenOptions, Source } from '../options.js';
import { open, type Qcow2 } from '../qcow2.js';
import { closeAll } from '../storage/closable.js';
import { openSource } from '../storage/open-source.js';
import type { SpoolOptions } from '../storage/spool.js';
import { StreamStorage } from '../storage/stream.js';
import { UnflushedStorage } from '../storage/unflushed.js';
import { nonZeroRuns } from './contents.js';
import { NewOverlay } from './new-overlay.js';
import { decode, streamPieces, StreamWalk, type Raw, type StreamPiece } from './pieces.js';
import { isQuickTarget, QuickRestore } from './quick-restore.js';

/** How an image that comes as a stream is read. */
export interface ReadQcow2StreamOptions
  extends SpoolOptions, Pick<Job, 'signal'>, Pick<OpenOptions, 'secret' | 'cacheBytes'> {}

/** How an image that comes as a stream is written. */
export interface FromQcow2StreamOptions
  extends
    ReadQcow2StreamOptions,
    Pick<Job, 'onProgress'>,
    Pick<
      ConvertOptions,
      'targetFormat' | 'create' | 'compress' | 'compressionLevel' | 'sparseSize' | 'keepTarget' | 'durable'
    > {}

/** An image that is being read from a stream. */
export interface Qcow2StreamReader extends AsyncDisposable {
  /** The parsed header of the image. */
  readonly header: Header;
  /** Virtual size, bytes. */
  readonly size: number;
  /**
   * What the image says of its disk, in the order in which it comes: stored bytes in pieces of at most 1 MiB, or one cluster
   * where these are larger, and runs of zeros of any length. Without a backing file all of the disk is in them, else what the
   * image has of its own. They can be walked once. Where it can be, the bytes are views of the chunks of the stream.
   */
  pieces(): AsyncGenerator<StreamPiece>;
  /** Lets go of the stream; it is destroyed unless it has ended. */
  close(): Promise<void>;
}

/** Writes under way at once. */
const writesAtOnce = 4;
/** What comes in smaller chunks is put together before it is written: a write costs more than a copy. Bytes. */
const leastWrite = 512 * 1024;

/**
 * Begins to read a qcow2 image from something that cannot seek. No byte is made up: a stream that was cut off fails where the
 * cut is reached, and so does one whose tables are damaged. Internal snapshots and bitmaps are passed over.
 * @throws as `open`; Qcow2Error `ERR_QCOW2_UNSUPPORTED` when the data is in an external data file, `ERR_QCOW2_LIMIT` when
 * more than `spoolLimit` would have to be put aside; what the stream fails with; the signal's reason
 */
export async function readQcow2Stream(
  readable: Readable | AsyncIterable<Uint8Array>,
  options: ReadQcow2StreamOptions = {},
): Promise<Qcow2StreamReader> {
  const { disk, storage } = await openStream(readable, options);
  const close = (): Promise<void> => closeAll([storage, disk]);
  return {
    header: disk.header,
    size: disk.size,
    pieces: () => streamPieces(disk.guest, new StreamWalk(disk.guest, storage)),
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** Opens what comes through a stream; reading goes on as tables and data are asked for. */
export async function openStream(
  readable: Readable | AsyncIterable<Uint8Array>,
  options: ReadQcow2StreamOptions,
): Promise<{ disk: Qcow2; storage: StreamStorage }> {
  const { secret, cacheBytes, signal } = options;
  signal?.throwIfAborted();
  const storage = new StreamStorage(readable, options);
  try {
    const disk = await open(storage, {
      backing: 'none',
      ...(secret === undefined ? {} : { secret }),
      ...(cacheBytes === undefined ? {} : { cacheBytes }),
    });
    return { disk, storage };
  } catch (error) {
    await storage.close();
    throw error;
  }
}

/**
 * Restores a qcow2 image that comes through a pipe. A stream that names a backing file, such as an incremental backup, becomes
 * an overlay that names the same file, which is not opened; or, with `keepTarget`, it is laid over what the target holds.
 * The target is worth nothing until the promise resolves.
 * @returns the size of the disk, bytes
 * @throws as {@link readQcow2Stream} and `convert`; Qcow2Error `ERR_QCOW2_REFERENCE` when an incremental stream is to become a
 * raw file by itself
 */
export async function fromQcow2Stream(
  readable: Readable | AsyncIterable<Uint8Array>,
  target: Source,
  options: FromQcow2StreamOptions,
): Promise<{
  /** Virtual size of the disk, bytes. */
  size: number;
}> {
  const { targetFormat } = (options as FromQcow2StreamOptions | undefined) ?? {};
  if (targetFormat !== 'raw' && targetFormat !== 'qcow2') {
    throw invalidArgValue('targetFormat', "must be 'raw' or 'qcow2'", targetFormat);
  }
  const { disk, storage } = await openStream(readable, options);
  try {
    const size = disk.size;
    refuseTarget(disk.header, options);
    const wanted = withClusterSize(options, disk.header);
    if (disk.header.backingFile !== null && options.keepTarget !== true) {
      await restoreOverlay(disk, storage, target, wanted, options);
    } else {
      await restore(disk, storage, target, wanted, options);
    }
    return { size };
  } finally {
    await closeAll([storage, disk]);
  }
}

function refuseTarget({ backingFile }: Header, options: FromQcow2StreamOptions): void {
  if (backingFile === null || options.keepTarget === true) return;
  if (options.targetFormat === 'raw') {
    throw new Qcow2Error(
      'ERR_QCOW2_REFERENCE',
      'The stream holds only what differs from its backing file, so it makes no raw file by itself: restore what it ' +
        'stands on first, and then this stream onto that (keepTarget)',
      { feature: 'backing file' },
    );
  }
  if (
    options.create?.version === 2 ||
    options.compress === true ||
    options.create?.encryption !== undefined
  ) {
    throw new Qcow2Error(
      'ERR_QCOW2_CONFLICT',
      'An overlay restored from a stream is of version 3, neither compressed nor encrypted',
      { feature: 'options' },
    );
  }
}

/** The options for the target, with clusters like those of the stream unless told otherwise. */
function withClusterSize(options: FromQcow2StreamOptions, { geometry, version }: Header): ConvertOptions {
  const {
    targetFormat,
    create: given = {},
    compress,
    compressionLevel,
    sparseSize,
    keepTarget,
    durable,
    signal,
  } = options;
  const { clusterSize, extendedL2 } = geometry;
  const likeStream =
    given.version === undefined && version === 3 ? { clusterSize, extendedL2 } : { clusterSize };
  return {
    targetFormat,
    create: targetFormat === 'raw' || keepTarget === true ? given : { ...likeStream, ...given },
    ...(compress === undefined ? {} : { compress }),
    ...(compressionLevel === undefined ? {} : { compressionLevel }),
    ...(sparseSize === undefined ? {} : { sparseSize }),
    ...(keepTarget === undefined ? {} : { keepTarget }),
    ...(durable === undefined ? {} : { durable }),
    ...(signal === undefined ? {} : { signal }),
  };
}

async function restore(
  disk: Qcow2,
  storage: StreamStorage,
  target: Source,
  wanted: ConvertOptions,
  options: FromQcow2StreamOptions,
): Promise<void> {
  const { onProgress } = options;
  const opened = await openTarget(disk, target, wanted);
  const { unit } = opened.target;
  // Pieces that are not whole units of the target have to be put together, and come in any order. What is there takes any.
  const takesAny = wanted.keepTarget === true && wanted.compress !== true;
  const fits = takesAny || disk.header.geometry.subclusterSize % unit === 0;
  try {
    if (fits) {
      const zeroBlock = opened.sparse ? zeroBlockOf(opened.target, disk.header, wanted) : 0;
      await copyPieces(disk, storage, opened.target, zeroBlock, options);
      await opened.finish();
    }
  } finally {
    await closeAll(opened.owned);
  }
  if (fits) return;
  if (disk.header.backingFile !== null) {
    throw new Qcow2Error(
      'ERR_QCOW2_CONFLICT',
      `Compressing into a target with larger clusters than the stream, ${disk.header.geometry.clusterSize} bytes, needs ` +
        'whole clusters, of which an incremental stream has parts',
      { feature: 'compress' },
    );
  }
  storage.keepRead = true;
  storage.keepSkipped = true;
  await storage.drain();
  await convert(disk, target, { ...wanted, ...(onProgress === undefined ? {} : { onProgress }) });
}

/** @param zeroBlock zeros are left out in blocks of this many bytes; 0: not at all */
async function copyPieces(
  disk: Qcow2,
  storage: StreamStorage,
  target: CopyTarget,
  zeroBlock: number,
  { onProgress, signal }: FromQcow2StreamOptions,
): Promise<void> {
  const { guest } = disk;
  const turns = new Turns();
  const walk = new StreamWalk(guest, storage, leastWrite);
  let done = 0;
  const onDone = (bytes: number): void => {
    done += bytes;
    onProgress?.({ done, total: disk.size });
  };
  const store = async ({ start, length, data }: StreamPiece): Promise<number> => {
    const turn = turns.next();
    try {
      if (data === null) {
        await turn.begins;
        if (!target.startsZero) await target.zero({ start, end: start + length });
        else if (zeroBlock === 0) await writeZeros(target, { start, end: start + length });
      } else {
        const ranges = zeroBlock === 0 ? [{ start: 0, end: data.length }] : rangesOf(data, zeroBlock);
        await target.write({ start, bytes: data, data: ranges }, turn);
        walk.recycle(data);
      }
    } finally {
      turn.end();
    }
    return length;
  };
  if (isQuickTarget(target, guest, zeroBlock)) {
    const storeRaw = async (raw: Raw): Promise<void> => {
      await store(await decode(guest, raw));
    };
    const job = { guest, storage, walk, target, zeroBlock, store: storeRaw, onDone, signal };
    await new QuickRestore(job).run();
    return;
  }
  for await (const length of inOrder(streamPieces(guest, walk), writesAtOnce, store)) onDone(length);
}

/** Stores zeros as other data is. */
async function writeZeros(target: CopyTarget, { start, end }: Range): Promise<void> {
  const zeros = new Uint8Array(Math.max(leastWrite, target.unit));
  const turns = new Turns();
  for (let at = start; at < end; at += zeros.length) {
    const bytes = zeros.subarray(0, Math.min(zeros.length, end - at));
    const turn = turns.next();
    await target.write({ start: at, bytes, data: [{ start: 0, end: bytes.length }] }, turn);
    turn.end();
  }
}

/** Not more than what comes in one piece: another may bring the rest of the block. */
function zeroBlockOf(
  { zeroUnit, file }: CopyTarget,
  { geometry }: Header,
  { sparseSize = defaultSparseSize }: ConvertOptions,
): number {
  if (sparseSize === 0) return 0;
  // Where clusters are taken, it is a whole one.
  const wanted = file?.room === undefined ? sparseSize : zeroUnit;
  const block = Math.min(alignUp(wanted, zeroUnit), geometry.subclusterSize);
  return geometry.subclusterSize % block === 0 ? block : zeroUnit;
}

function rangesOf(data: Uint8Array, unit: number): Range[] {
  return nonZeroRuns(data, unit).map(({ first, end }) => ({
    start: first * unit,
    end: Math.min(end * unit, data.length),
  }));
}

/** Makes an overlay on a file that is not there, or not to be opened. */
async function restoreOverlay(
  disk: Qcow2,
  storage: StreamStorage,
  target: Source,
  { create: given = {}, durable = true }: ConvertOptions,
  options: FromQcow2StreamOptions,
): Promise<void> {
  const { header } = disk;
  const opened = await openSource(target, { mode: 'create', lock: given.lock ?? true });
  const owned: { close: () => Promise<void> }[] = opened.owned ? [opened.storage] : [];
  try {
    const backing = { name: header.backingFile ?? '', ...formatOf(header), unchecked: true };
    const image = await create(new UnflushedStorage(opened.storage), disk.size, { backing, ...given });
    owned.push(image);
    const { subclusterSize } = image.header.geometry;
    if (header.geometry.subclusterSize % subclusterSize !== 0) {
      throw new Qcow2Error(
        'ERR_QCOW2_CONFLICT',
        `An overlay restored from a stream cannot have larger clusters than the stream, ${header.geometry.clusterSize} bytes`,
        { feature: 'clusterSize' },
      );
    }
    await copyPieces(disk, storage, new NewOverlay(image.guest), 0, options);
    await image.close();
    if (durable) await opened.storage.flush();
  } finally {
    await closeAll(owned);
  }
}

function formatOf({ backingFormat }: Header): { format?: ImageFormat } {
  return backingFormat === 'raw' || backingFormat === 'qcow2' ? { format: backingFormat } : {};
}
