/**
 * Moving what an image holds down into its backing file, or into any file below. The order is
 *
 *   backing file grown where it is smaller | data and zeros into it | the image emptied        (`|` is a barrier)
 *
 * so at every moment the image reads as before. Whatever stops it, an abort, an error or a crash, leaves two valid images:
 * the backing file has some of the image's content already, which the image still has itself, or has just dropped. Doing
 * it again from the start completes it. A checkpoint is reported after a flush of the file below; going on from one is refused
 * when the image has changed since, so that nothing is dropped from it that was not copied.
 */
import type { Disk, Extent, Job } from '../disk.js';
import { invalidArgValue, outOfRange, Qcow2Error } from '../errors.js';
import { alignDown, guestOffset } from '../format/units.js';
import type { Range } from '../io/disk-queries.js';
import type { GuestImage } from '../io/guest-image.js';
import { releaseRuns } from '../io/release.js';
import { checkRuns } from '../io/write.js';
import type { Image } from '../metadata/image.js';
import type { Opened } from '../open.js';
import { pageBytes } from '../storage/page-bytes.js';
import type { Storage } from '../storage/storage.js';
import { Checkpoints, type Resumable } from './checkpoint.js';
import { inOrder } from './in-order.js';
import { Pace, type Paced } from './pace.js';
import { reopenBacking, type GrowableDisk, type OpenBelow } from './reopen-backing.js';
import { trimFile } from './trim-file.js';

export interface CommitOptions extends Job, Paced, Resumable {
  /** How far down: 1 (default) is the backing file, 2 the one below it, and so on. */
  base?: number;
  /**
   * Whether the image is emptied afterwards, so that all of it shows through from the backing file. True by default where
   * `base` is 1; not possible further down, because the layers in between keep their old content.
   */
  empty?: boolean;
}

interface Piece extends Range {
  readonly zero: boolean;
}

const chunkBytes = 1024 * 1024;
const defaultConcurrency = 4;

/**
 * Commits an image. Nobody else changes it meanwhile.
 * @param top the disk of `layers[0]`
 * @param layers the qcow2 images of the chain from the top down, as far as there are any in a row
 */
export async function commitDown(
  top: Disk,
  layers: readonly Opened[],
  options: CommitOptions,
  open: OpenBelow,
): Promise<void> {
  const { base = 1 } = options;
  const { empty = base === 1, signal } = options;
  const [image] = layers;
  const above = aboveBase(layers, base);
  if (empty && base > 1) {
    throw invalidArgValue('empty', 'must not be set with a base below the backing file', empty);
  }
  if (image === undefined) return;
  signal?.throwIfAborted();
  const target = await reopenBacking(image.guest, above, 'r+', open);
  try {
    const files = layers.slice(0, base).flatMap(({ guest }) => filesOf(guest.image));
    const checkpoints = await Checkpoints.begin(files, top.size, target, options);
    await copyDown(top, target, base, checkpoints, options);
    await target.flush();
    if (empty) await emptyImage(image.guest, signal);
  } finally {
    await reopenBacking(image.guest, above, 'r', open);
  }
}

/** Where an image keeps what it holds. */
const filesOf = ({ storage, dataStorage }: Image): Storage[] =>
  storage === dataStorage ? [storage] : [storage, dataStorage];

/** The image whose backing file is the one to be written. */
function aboveBase(layers: readonly Opened[], base: number): Opened {
  if (!Number.isInteger(base) || base < 1) throw outOfRange('base', 'an integer from 1 on', base);
  if (layers[0]?.guest.backing === null) {
    throw new Qcow2Error(
      'ERR_QCOW2_CONFLICT',
      'The image has no backing file that it could be committed to',
      {
        feature: 'backing file',
      },
    );
  }
  const above = layers[base - 1];
  if (above === undefined || above.guest.backing === null) {
    throw outOfRange('base', 'the depth of a file in the backing chain', base);
  }
  if (above.below !== null) return above;
  throw new Qcow2Error(
    'ERR_QCOW2_READ_ONLY',
    'The files below were put there as open disks, so they cannot be opened for writing',
    { feature: 'backing file' },
  );
}

async function copyDown(
  top: Disk,
  target: GrowableDisk,
  base: number,
  checkpoints: Checkpoints,
  options: CommitOptions,
): Promise<void> {
  const { concurrency = defaultConcurrency, signal, onProgress } = options;
  const before = target.size;
  if (before < top.size) await target.resize(top.size);
  const pace = new Pace(options);
  const buffers: Uint8Array[] = [];
  const range = { start: checkpoints.start, targetEnd: before };
  const jobs = inOrder(pieces(top, base, range, signal), Math.max(1, concurrency), async (piece) => {
    signal?.throwIfAborted();
    const length = piece.end - piece.start;
    if (piece.zero) {
      await target.writeZeroes(piece.start, length);
      return piece;
    }
    await pace.take(length, signal);
    const buffer = buffers.pop() ?? pageBytes(chunkBytes);
    const bytes = buffer.subarray(0, length);
    await top.read(bytes, piece.start);
    await target.write(bytes, piece.start);
    buffers.push(buffer);
    return piece;
  });
  for await (const { start, end } of jobs) {
    onProgress?.({ done: end, total: top.size });
    if (checkpoints.isDue(end - start)) await checkpoints.report(end, () => target.flush());
  }
  signal?.throwIfAborted();
  onProgress?.({ done: top.size, total: top.size });
}

/** What the layers above the target have of their own, in pieces of at most a chunk where it is data. */
async function* pieces(
  top: Disk,
  base: number,
  range: { start: number; targetEnd: number },
  signal: AbortSignal | undefined,
): AsyncGenerator<Piece> {
  const query = { start: range.start, ...(signal === undefined ? {} : { signal }) };
  for await (const extent of top.extents({ ...query, layers: base === 1 ? 'self' : 'all' })) {
    const { start, length, type } = extent;
    if (isBelow(extent, base)) continue;
    const end = start + length;
    if (type === 'data' || type === 'compressed') {
      for (let at = start; at < end;) {
        const stop = Math.min(end, alignDown(at, chunkBytes) + chunkBytes);
        yield { start: at, end: stop, zero: false };
        at = stop;
      }
    } else {
      // Where the target has just grown it reads as zeros.
      const stop = Math.min(end, range.targetEnd);
      if (start < stop) yield { start, end: stop, zero: true };
    }
  }
}

/** Whether an extent comes from the target or from below, so that there is nothing to do. */
function isBelow({ depth, type }: Extent, base: number): boolean {
  // Without the layers below, what is unallocated shows them. With them it says that a layer above the target is shorter.
  return base === 1 ? type === 'unallocated' : depth >= base;
}

/** Drops everything that an image holds of its own, table by table, and cuts its file. */
async function emptyImage(guest: GuestImage, signal: AbortSignal | undefined): Promise<void> {
  const { image } = guest;
  const { mapping, committer, geometry } = image;
  const end = mapping.l1Entries * geometry.l2Coverage;
  for (let at: number = mapping.nextTable(guestOffset(0), end); at < end;) {
    signal?.throwIfAborted();
    const index = Math.floor(at / geometry.l2Coverage);
    const stop = (index + 1) * geometry.l2Coverage;
    const unlock = await guest.locks.exclusive(at, stop);
    try {
      const runs = await mapping.collect(guestOffset(index * geometry.l2Coverage), stop);
      await checkRuns(guest, runs);
      releaseRuns(guest, runs, true);
      mapping.dropTables(index, index + 1, committer);
    } finally {
      unlock();
    }
    await committer.relieve();
    at = mapping.nextTable(guestOffset(stop), end);
  }
  await committer.settle();
  const unlock = await guest.locks.exclusive(0, Infinity);
  try {
    await trimFile(image);
  } finally {
    unlock();
  }
}
