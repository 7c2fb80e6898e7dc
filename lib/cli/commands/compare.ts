/** `compare`: tells whether two images show the same disk. */
import { checkCacheMode } from '../cache-mode.js';
import type { Context } from '../context.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { compare } from '../../index.js';
import type { Difference, Disk } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { withProgress } from '../progress.js';
import type { ProgressDisplay } from '../progress.js';
import { wholeSectors } from '../sizes.js';
import { spec } from '../specs/compare.js';

const exitCodes = { identical: 0, different: 1, cannotOpen: 2, cannotExamine: 3 } as const;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  return withProgress(
    request,
    context,
    (progress) => compareImages(request, progress, context),
    (exitCode) => exitCode === exitCodes.identical,
  );
}

interface Request {
  images: ImageArguments;
  files: readonly [string, string];
  formats: [string | undefined, string | undefined];
  cache: string;
  strict: boolean;
  progress: boolean;
  quiet: boolean;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const formats: Request['formats'] = [undefined, undefined];
  const found = { cache: 'writeback', strict: false, progress: false, quiet: false };
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'a-format') formats[0] = value;
    if (name === 'b-format') formats[1] = value;
    if (name === 'cache') found.cache = value;
    if (name === 'strict') found.strict = true;
    if (name === 'progress') found.progress = true;
    if (name === 'quiet') found.quiet = true;
  }
  const [a, b, ...more] = line.positionals;
  if (a === undefined || b === undefined || more.length > 0) {
    throw new UsageFailure('Expecting two image file names');
  }
  return { ...found, images, formats, files: [a, b] };
}

async function compareImages(
  request: Request,
  progress: ProgressDisplay | null,
  context: Context,
): Promise<number> {
  const opened: Disk[] = [];
  try {
    const [a, b] = await openBoth(request, opened);
    progress?.begin();
    return await interruptible((signal) => compareDisks(a, b, request, { progress, signal, context }));
  } finally {
    for (const disk of opened) await disk.close();
  }
}

async function openBoth({ images, files, formats, cache }: Request, opened: Disk[]): Promise<[Disk, Disk]> {
  const openOne = async (index: 0 | 1): Promise<Disk> => {
    const { disk } = await images.openDisk(images.name(files[index], formats[index]), { data: true });
    opened.push(disk);
    return disk;
  };
  try {
    checkCacheMode('source cache', cache);
    return [await openOne(0), await openOne(1)];
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    throw new Failure(error.lines, {
      exitCode: exitCodes.cannotOpen,
      cause: error,
      ...(error.hint === null ? {} : { hint: error.hint }),
    });
  }
}

async function compareDisks(
  a: Disk,
  b: Disk,
  request: Request,
  { progress, signal, context }: { progress: ProgressDisplay | null; signal: AbortSignal; context: Context },
): Promise<number> {
  const { strict, quiet } = request;
  const tell = (line: string): void => {
    if (!quiet) context.out.write(`${line}\n`);
  };
  const [sizeA, sizeB] = [wholeSectors(a.size), wholeSectors(b.size)];
  if (strict && sizeA !== sizeB) {
    tell('Strict mode: Image size mismatch!');
    return exitCodes.different;
  }
  const onProgress = progress === null ? {} : { onProgress: progress.update.bind(progress) };
  const difference = await first(compare(a, b, { strict, signal, ...onProgress }), signal);
  // Of what only the longer one has, the difference in size is told first.
  if (sizeA !== sizeB && (difference === null || difference.start >= Math.min(sizeA, sizeB))) {
    tell('Warning: Image size mismatch!');
  }
  if (difference === null) {
    progress?.update({ done: 1, total: 1 });
    tell('Images are identical.');
    return exitCodes.identical;
  }
  tell(
    difference.kind === 'allocation'
      ? `Strict mode: Offset ${difference.start} block status mismatch!`
      : `Content mismatch at offset ${difference.start}!`,
  );
  return exitCodes.different;
}

async function first(
  differences: AsyncIterable<Difference>,
  signal: AbortSignal,
): Promise<Difference | null> {
  try {
    for await (const difference of differences) return difference;
    return null;
  } catch (error) {
    if (signal.aborted || error instanceof Failure) throw error;
    const { messageOf } = await import('../error-text.js');
    throw new Failure(`Could not compare: ${messageOf(error)}`, {
      exitCode: exitCodes.cannotExamine,
      cause: error,
    });
  }
}
