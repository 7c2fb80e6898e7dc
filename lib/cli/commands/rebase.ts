/** `rebase`: puts an image on another backing file, or on none. */
import { checkCacheMode } from '../cache-mode.js';
import type { Context } from '../context.js';
import { hasCode } from '../../errors.js';
import { failure, openReason, reasonOf } from '../error-text.js';
import { Failure, isTold, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { besideImage, knownDriver, localPath } from '../image-name.js';
import { parseImageName } from '../image-options.js';
import type { ImageName } from '../image-name.js';
import { openDisk } from '../../index.js';
import type { Disk } from '../../index.js';
import { interruptible } from '../interrupt.js';
import type { ImageFormat } from '../../options.js';
import { isQcow2 } from '../is-qcow2.js';
import { withProgress } from '../progress.js';
import type { ProgressDisplay } from '../progress.js';
import { plainReferences } from '../references.js';
import { spec } from '../specs/rebase.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  await withProgress(request, context, async (progress) => {
    progress?.begin();
    const { images, unsafe, file } = request;
    const name = unsafe ? images.nameWithoutBacking(file) : images.name(file);
    const opening = unsafe ? ({ backing: 'none', data: true } as const) : ({ data: true } as const);
    const { disk } = await images.openForWriting(name, context, opening);
    try {
      await rebase(disk, name, request, progress);
    } finally {
      await disk.close();
    }
  });
  return 0;
}

interface Request {
  file: string;
  images: ImageArguments;
  /** As it is to stand in the image; empty for none. */
  backing: string;
  backingFormat: string | null;
  unsafe: boolean;
  compress: boolean;
  progress: boolean;
  quiet: boolean;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const found = { unsafe: false, compress: false, progress: false, quiet: false };
  const caches = { cache: 'writeback', source: 'writeback' };
  let backing: string | null = null;
  let backingFormat: string | null = null;
  for (const { name, value } of line) {
    if (name === 'force-share') continue; // What is changed is locked all the same.
    if (images.take(name, value)) continue;
    if (name === 'backing') backing = value;
    if (name === 'backing-format') backingFormat = value;
    if (name === 'backing-unsafe') found.unsafe = true;
    if (name === 'compress') found.compress = true;
    if (name === 'cache') caches.cache = value;
    if (name === 'backing-cache') caches.source = value;
    if (name === 'progress') found.progress = true;
    if (name === 'quiet') found.quiet = true;
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  if (backing === null && !found.unsafe) {
    throw new UsageFailure('Must specify backing file (-b) or use unsafe mode (-u)');
  }
  checkCacheMode('cache', caches.cache);
  checkCacheMode('source cache', caches.source);
  return { ...found, images, backingFormat, backing: backing ?? '', file };
}

async function rebase(
  disk: Disk,
  name: ImageName,
  request: Request,
  progress: ProgressDisplay | null,
): Promise<void> {
  const { backing, backingFormat, unsafe, compress } = request;
  const format = backingFormat === null ? undefined : formatNamed(backingFormat);
  if (backing !== '' && !unsafe) await lookAtNewBacking(name.path, backing, format);
  const refuse = (reason: string): Failure =>
    new Failure(`Could not change the backing file to '${backing}': ${reason}`);
  if (backing !== '' && format === undefined) throw refuse('backing format must be specified');
  if (!isQcow2(disk)) throw refuse('Operation not supported');
  const to = backing === '' ? null : { name: backing, ...(format === undefined ? {} : { format }) };
  await interruptible((signal) =>
    disk.rebase(to, {
      mode: unsafe ? 'unsafe' : 'safe',
      compress,
      signal,
      ...(progress === null ? {} : { onProgress: (state) => progress.update(state) }),
    }),
  ).catch((error: unknown) => {
    if (isTold(error)) throw error;
    const cannotBe = error instanceof TypeError || hasCode(error, 'ERR_QCOW2_CONFLICT', 'ERR_QCOW2_LIMIT');
    const text = cannotBe ? 'Invalid argument' : reasonOf(error, { name: name.given, writing: true }).text;
    throw failure('', { text: refuse(text).message }, error);
  });
}

function formatNamed(format: string): ImageFormat {
  if (format === 'qcow2' || format === 'raw') return format;
  throw new Failure(`Invalid format name: '${format}'`);
}

/** @throws Failure when the new backing file cannot be opened */
async function lookAtNewBacking(
  image: string,
  backing: string,
  format: ImageFormat | undefined,
): Promise<void> {
  const full = besideImage(image, backing);
  try {
    if (full.startsWith('json:')) parseImageName(full, { imageOpts: false });
    const { disk } = await openDisk(localPath(full), {
      resolve: plainReferences(full),
      ...(format === undefined ? {} : { format: knownDriver(format) }),
    });
    await disk.close();
  } catch (error) {
    throw failure(`Could not open new backing file '${backing}': `, openReason(error, { name: full }), error);
  }
}
