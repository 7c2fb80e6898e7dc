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
import type { GuestImage } from '../io/guest-image.js';
import { releaseRuns } from '../io/release.js';
import { checkRuns } from '../io/write.js';
import type { Image } from '../metadata/image.js';
import type { Opened } from '../open.js';
import { pageBytes } from '../storage/page-bytes.js';
import type { Storage } from '../storage/storage.js';
import { Checkpoints, defaultInterval, type Resumable } from './jobs/checkpoint.js';
import { CommitFiles } from './chain/commit-files.js';
import type { Stretch } from './chain/commit-plan.js';
import { defaultConcurrency, inOrder } from './jobs/in-order.js';
import { Pace, type Paced } from './jobs/pace.js';
import { reopenBacking, type GrowableDisk, type OpenBelow } from './chain/reopen-backing.js';
import { trimFile } from './resize/trim-file.js';

export interface CommitOptions extends Job, Paced, Resumable {
  /** How far down: 1 (default) is the backing file, 2 the one below it, and so on. */
  base?: number;
  /**
   * Whether the image is emptied afterwards, so that all of it shows through from the backing file. True by default where
   * `base` is 1; not possible further down, because the layers in between keep their old content.
   */
  empty?: boolean;
}

const chunkBytes = 1024 * 1024;

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
  const { concurrency = defaultConcurrency, checkpointBytes = defaultInterval, signal, onProgress } = options;
  const before = target.size;
  if (before < top.size) await target.resize(top.size);
  const copy = new CloseCommit(top, target, options);
  const stretches = stretchesAbove(top, base, { start: checkpoints.start, targetEnd: before }, signal);
  // A batch is too much to wait for at once.
  const files = copy.isPaced
    ? null
    : CommitFiles.of(top, base, target, {
        concurrency: Math.max(1, concurrency),
        batchBytes: checkpointBytes,
      });
  const parts = files === null ? copy.all(stretches) : byBatches(files, copy, stretches, signal);
  for await (const { end, bytes } of parts) {
    onProgress?.({ done: end, total: top.size });
    if (checkpoints.isDue(bytes)) await checkpoints.report(end, () => target.flush());
  }
  signal?.throwIfAborted();
  onProgress?.({ done: top.size, total: top.size });
}

/** What has been done: everything up to `end`, with so many bytes since it was told before. */
interface Done {
  readonly end: number;
  readonly bytes: number;
}

/** Piece by piece, which goes from any disk to any other. */
class CloseCommit {
  readonly #top: Disk;
  readonly #target: GrowableDisk;
  readonly #signal: AbortSignal | undefined;
  readonly #concurrency: number;
  readonly #pace: Pace;
  readonly #buffers: Uint8Array[] = [];

  constructor(top: Disk, target: GrowableDisk, options: CommitOptions) {
    this.#top = top;
    this.#target = target;
    this.#signal = options.signal;
    this.#concurrency = Math.max(1, options.concurrency ?? defaultConcurrency);
    this.#pace = new Pace(options);
  }

  get isPaced(): boolean {
    return this.#pace.isLimited;
  }

  all(stretches: AsyncIterable<Stretch> | Iterable<Stretch>): AsyncGenerator<Done> {
    return inOrder(piecesOf(stretches), this.#concurrency, (piece) => this.#copy(piece));
  }

  async #copy({ start, end, zero }: Stretch): Promise<Done> {
    this.#signal?.throwIfAborted();
    const bytes = end - start;
    if (zero) {
      await this.#target.writeZeroes(start, bytes);
      return { end, bytes };
    }
    await this.#pace.take(bytes, this.#signal);
    const buffer = this.#buffers.pop() ?? pageBytes(chunkBytes);
    const part = buffer.subarray(0, bytes);
    await this.#top.read(part, start);
    await this.#target.write(part, start);
    this.#buffers.push(buffer);
    return { end, bytes };
  }
}

async function* byBatches(
  files: CommitFiles,
  closely: CloseCommit,
  stretches: AsyncIterable<Stretch>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Done> {
  for await (const { end, bytes, left } of files.copy(stretches, signal)) {
    const rest = closely.all(left);
    for (let step = await rest.next(); step.done !== true;) step = await rest.next();
    yield { end, bytes };
  }
}

/** What the layers above the target have of their own: data wherever it comes from in one piece, zeros beside it. */
async function* stretchesAbove(
  top: Disk,
  base: number,
  range: { start: number; targetEnd: number },
  signal: AbortSignal | undefined,
): AsyncGenerator<Stretch> {
  const query = { start: range.start, ...(signal === undefined ? {} : { signal }) };
  let last: Stretch | null = null;
  for await (const extent of top.extents({ ...query, layers: base === 1 ? 'self' : 'all' })) {
    const { start, length, type } = extent;
    if (isBelow(extent, base)) continue;
    const zero = type !== 'data' && type !== 'compressed';
    // Where the target has just grown it reads as zeros.
    const end = zero ? Math.min(start + length, range.targetEnd) : start + length;
    if (start >= end) continue;
    if (last?.end === start && last.zero === zero) {
      last = { start: last.start, end, zero };
      continue;
    }
    if (last !== null) yield last;
    last = { start, end, zero };
  }
  if (last !== null) yield last;
}

/** Pieces of at most a chunk where it is data. */
async function* piecesOf(stretches: AsyncIterable<Stretch> | Iterable<Stretch>): AsyncGenerator<Stretch> {
  for await (const { start, end, zero } of stretches) {
    for (let at = start; at < end;) {
      const stop = zero ? end : Math.min(end, alignDown(at, chunkBytes) + chunkBytes);
      yield { start: at, end: stop, zero };
      at = stop;
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
