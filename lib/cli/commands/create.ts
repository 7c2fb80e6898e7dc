/** `create`: makes a new image. */
import type { Context } from '../context.js';
import { createOptionsHelp, qcow2CreateOptions, rawPreallocation } from '../create-options.js';
import { largestDisk } from '../disk-limits.js';
import { creationWords, failure, openReason, reasonOf } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { besideImage, exportUrl, knownDriver, localPath } from '../image-name.js';
import { create, openDisk } from '../../index.js';
import type { Storage } from '../../index.js';
import { interruptible, orAborted } from '../interrupt.js';
import { NewImageArguments } from '../new-image.js';
import type { OptionValues } from '../o-options.js';
import type { CreateOptions, ImageFormat, Source } from '../../options.js';
import { spec } from '../specs/create.js';
import { createRawImage } from '../raw-image.js';
import { plainReferences } from '../references.js';
import { sizeArgument, wholeSectors } from '../sizes.js';
import { writingTo } from '../unfinished.js';

const sectorSize = 512;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { file, format, newImage } = request;
  if (newImage.asksForHelp) {
    context.out.write(createOptionsHelp(outputFormatNamed(format), file !== undefined));
    return 0;
  }
  if (file === undefined) throw new UsageFailure('Expecting image file name');
  try {
    await createImage(file, outputFormatNamed(format), request, context);
  } catch (error) {
    throw prefixed(file, error);
  }
  return 0;
}

interface Request {
  images: ImageArguments;
  newImage: NewImageArguments;
  format: string;
  lookAtBacking: boolean;
  quiet: boolean;
  file: string | undefined;
  /** Bytes; null to take that of the backing file, or of the option `size`. */
  size: bigint | null;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const request: Request = {
    images: new ImageArguments(),
    newImage: new NewImageArguments(),
    format: 'raw',
    lookAtBacking: true,
    quiet: false,
    file: undefined,
    size: null,
  };
  for (const { name, value } of line) {
    if (request.newImage.take(name, value)) continue;
    if (name === 'object') request.images.take(name, value);
    if (name === 'format') request.format = value;
    if (name === 'backing-unsafe') request.lookAtBacking = false;
    if (name === 'quiet') request.quiet = true;
  }
  const [file, size, ...more] = line.positionals;
  // Who asks for help gets it, whatever else stands there.
  if (request.newImage.asksForHelp) return { ...request, file };
  if (size !== undefined) request.size = sizeArgument('image size', size);
  if (more[0] !== undefined) throw new UsageFailure(`Unexpected argument: ${more[0]}`);
  return { ...request, file };
}

/** @throws Failure */
function outputFormatNamed(format: string): ImageFormat {
  if (format === 'qcow2' || format === 'raw') return format;
  throw new Failure(`Unknown file format '${format}'`);
}

async function createImage(
  file: string,
  format: ImageFormat,
  request: Request,
  context: Context,
): Promise<void> {
  const server = exportUrl(file);
  const path = server === null ? localPath(file) : file;
  const values = request.newImage.values(format);
  await settleSize(values, file, path, request);
  if (!request.quiet) {
    context.out.write(`Formatting '${file}', fmt=${format} ${values.summary()}\n`);
    context.out.flush();
  }
  const bytes = values.number('size') ?? 0n;
  if (format === 'raw') {
    const preallocation = rawPreallocation(values);
    const size = exactSize(bytes, Number.MAX_SAFE_INTEGER, tooLarge('raw'));
    if (server !== null) await onServer(server, (storage) => clearExport(storage, size));
    else await writing(path, context, (signal) => createRawImage(path, size, { preallocation, signal }));
    return;
  }
  const options = withoutLooking(qcow2CreateOptions(values, request.images.secrets));
  const size = exactQcow2Size(bytes, options);
  const make = async (target: Source, signal: AbortSignal): Promise<void> => {
    const image = await orAborted(create(target, size, options), signal);
    await image.close();
  };
  if (server !== null) await onServer(server, make);
  else await writing(path, context, (signal) => make(path, signal));
}

/** Finds the size, which may be given in two ways or be that of the backing file; looks at the backing file for it. */
async function settleSize(values: OptionValues, file: string, path: string, request: Request): Promise<void> {
  const backing = values.text('backing_file');
  if (request.size !== null && values.has('size'))
    throw new Failure('The image size must be specified only once');
  if (request.size !== null) values.set('size', String(request.size));
  if (backing !== undefined) {
    const size = await backingSize(backing, values.text('backing_fmt'), file, path, request);
    if (size !== null && !values.has('size')) values.set('size', String(size));
  }
  if (!values.has('size')) throw new Failure('Image creation needs a size parameter');
}

async function backingSize(
  backing: string,
  format: string | undefined,
  file: string,
  path: string,
  request: Request,
): Promise<number | null> {
  if (backing === '') throw new Failure('Expected backing file name, got empty string');
  if (backing === file) {
    throw new Failure('Error: Trying to create an image with the same filename as the backing file');
  }
  const found = request.lookAtBacking ? await lookAt(backing, format, path) : null;
  if (format === undefined) {
    throw new Failure(
      'Backing file specified without backing format',
      found === null ? {} : { hint: `Detected format of ${found.format}.` },
    );
  }
  return found?.size ?? null;
}

async function lookAt(
  backing: string,
  format: string | undefined,
  path: string,
): Promise<{ size: number; format: ImageFormat }> {
  const full = besideImage(path, backing);
  try {
    const { disk, format: found } = await openDisk(localPath(full), {
      resolve: plainReferences(full),
      // What is below a new image may be in use: it only is asked for its size.
      lock: false,
      ...(format === undefined ? {} : { format: knownDriver(format) }),
    });
    const { size } = disk;
    await disk.close();
    return { size, format: found };
  } catch (error) {
    const reason = openReason(error, { name: full });
    const hint = [reason.hint ?? [], 'Could not open backing image.'].flat();
    throw failure('', { text: reason.text, hint }, error);
  }
}

/** Makes a file, or leaves none behind. */
async function writing(
  path: string,
  { complain }: Context,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  await interruptible((signal) => writingTo(path, complain, () => work(signal))).catch((error: unknown) => {
    throw creationFailure(error, path);
  });
}

/** An export is there already and keeps its size: an image can be made in it, as qemu-img does. */
async function onServer(
  url: URL,
  work: (storage: Storage, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { openExport } = await import('../remote-image.js');
  const storage = await openExport(url);
  try {
    await interruptible((signal) => work(storage, signal));
  } finally {
    await storage.close();
  }
}

/** A raw image in an export is what the export holds, but for a first sector that could pass for another format. */
async function clearExport(storage: Storage, size: number): Promise<void> {
  const room = await storage.size();
  if (size > room) throw new Failure('Cannot grow NBD nodes', { hint: `The export has ${room} bytes.` });
  await storage.write(new Uint8Array(Math.min(sectorSize, room)), 0);
  await storage.flush();
}

function exactQcow2Size(bytes: bigint, { clusterSize = 65536, extendedL2 = false }: CreateOptions): number {
  const message = `${tooLarge('qcow2')} (try using a larger cluster size)`;
  return exactSize(bytes, largestDisk(clusterSize, extendedL2), message);
}

/** The backing file was looked at before, as far as it was to be, and may be in use. */
function withoutLooking(options: CreateOptions): CreateOptions {
  const { backing } = options;
  return backing === undefined ? options : { ...options, backing: { ...backing, unchecked: true } };
}

const tooLarge = (format: ImageFormat): string => `The image size is too large for file format '${format}'`;

function exactSize(bytes: bigint, largest: number, message: string): number {
  if (bytes > BigInt(largest)) throw new Failure(message);
  return wholeSectors(Number(bytes));
}

function creationFailure(error: unknown, path: string): unknown {
  const words = creationWords(error, path);
  return words === null ? error : failure(`Could not create '${path}': `, { text: words }, error);
}

/** Everything that goes wrong with an image is told behind its name. */
function prefixed(file: string, error: unknown): unknown {
  const isForMain =
    !(error instanceof Error) || ['Interrupted', 'BrokenPipe', 'UsageFailure'].includes(error.name);
  return isForMain ? error : failure(`${file}: `, reasonOf(error, { name: file, writing: true }), error);
}
