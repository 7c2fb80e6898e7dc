/** `commit`: writes what an image holds into a file below it. */
import { resolve } from 'node:path';
import { checkCacheMode } from '../cache-mode.js';
import { walkChain } from '../chain.js';
import type { Context } from '../context.js';
import { explained } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { besideImage } from '../image-name.js';
import type { ImageName } from '../image-name.js';
import type { Qcow2 } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { isQcow2 } from '../is-qcow2.js';
import { withProgress } from '../progress.js';
import type { ProgressDisplay } from '../progress.js';
import { sizeArgument } from '../sizes.js';
import { spec } from '../specs/commit.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { name, images, quiet } = request;
  const { disk } = await images.openForWriting(name, context);
  try {
    await withProgress(request, context, async (progress) => {
      progress?.begin();
      const depth = request.base === null ? 1 : await depthOf(request.base, name, images);
      if (!isQcow2(disk) || (disk.header.backingFile === null && typeof name.backing !== 'object')) {
        throw new Failure('Image does not have a backing file');
      }
      await commit(disk, depth, request, progress);
    });
  } finally {
    await disk.close();
  }
  if (!quiet) context.out.write('Image committed.\n');
  return 0;
}

interface Request {
  name: ImageName;
  images: ImageArguments;
  base: string | null;
  drop: boolean;
  /** Bytes a second; 0 for no limit. */
  rateLimit: number;
  progress: boolean;
  quiet: boolean;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const found = { drop: false, rateLimit: 0, progress: false, quiet: false };
  let base: string | null = null;
  let cache = 'writeback';
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'base') base = value;
    if (name === 'drop') found.drop = true;
    if (name === 'cache') cache = value;
    if (name === 'rate-limit') found.rateLimit = Number(sizeArgument('rate limit', value));
    if (name === 'progress') found.progress = true;
    if (name === 'quiet') found.quiet = true;
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  checkCacheMode('cache', cache);
  return { ...found, base, images, name: images.name(file) };
}

async function commit(
  disk: Qcow2,
  depth: number,
  { name, base, drop, rateLimit }: Request,
  progress: ProgressDisplay | null,
): Promise<void> {
  await interruptible((signal) =>
    disk.commit({
      base: depth,
      empty: base === null && !drop,
      signal,
      ...(rateLimit === 0 ? {} : { bytesPerSecond: rateLimit }),
      ...(progress === null ? {} : { onProgress: (state) => progress.update(state) }),
    }),
  ).catch((error: unknown) => {
    throw explained('Could not commit: ', error, { name: name.given, writing: true });
  });
}

/** How far below the image a file is that is named as one of its backing files is. */
async function depthOf(base: string, name: ImageName, images: ImageArguments): Promise<number> {
  let depth = 0;
  let written: string | undefined;
  for await (const { name: at, image } of walkChain(name, images, { lock: false })) {
    const isNamed = base === written || resolve(besideImage(name.path, base)) === resolve(at.path);
    if (depth > 0 && isNamed) return depth;
    depth += 1;
    // A file that was chosen in its place goes by its own name.
    written = typeof at.backing === 'object' ? undefined : image.details?.backing?.name;
  }
  throw new Failure(`Did not find '${base}' in the backing chain of '${name.given}'`);
}
