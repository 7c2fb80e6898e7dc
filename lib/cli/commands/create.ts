/** `create`: makes a new image. */
import type { Context } from '../context.js';
import {
  createOptionsHelp,
  createOptionTables,
  qcow2CreateOptions,
  rawPreallocation,
} from '../create-options.js';
import { largestDisk } from '../disk-limits.js';
import { creationWords, failure, openReason, reasonOf } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { besideImage, knownDriver, localPath } from '../image-name.js';
import { create, openDisk } from '../../index.js';
import { interruptible, orAborted } from '../interrupt.js';
import { appendOptionList, asksForHelp, OptionValues } from '../o-options.js';
import type { CreateOptions, ImageFormat } from '../../options.js';
import { spec } from '../specs/create.js';
import { createRawImage } from '../raw-image.js';
import { plainReferences } from '../references.js';
import { sizeArgument, wholeSectors } from '../sizes.js';
import { writingTo } from '../unfinished.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  if (asksForHelp(request.optionList)) {
    context.out.write(createOptionsHelp(outputFormatNamed(request.format), request.file !== undefined));
    return 0;
  }
  const { file, format } = request;
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
  format: string;
  optionList: string | null;
  backing: string | null;
  backingFormat: string | null;
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
    format: 'raw',
    optionList: null,
    backing: null,
    backingFormat: null,
    lookAtBacking: true,
    quiet: false,
    file: undefined,
    size: null,
  };
  for (const { name, value } of line) takeOption(request, name, value);
  const [file, size, ...more] = line.positionals;
  if (size !== undefined) request.size = sizeArgument('image size', size);
  if (more[0] !== undefined) throw new UsageFailure(`Unexpected argument: ${more[0]}`);
  return { ...request, file };
}

type CreateOptionName = Exclude<(typeof spec.options)[number]['name'], 'help'>;

function takeOption(request: Request, name: CreateOptionName, value: string): void {
  switch (name) {
    case 'format':
      request.format = value;
      break;
    case 'options':
      request.optionList = appendOptionList(request.optionList, value);
      break;
    case 'backing':
      request.backing = value;
      break;
    case 'backing-format':
      request.backingFormat = value;
      break;
    case 'backing-unsafe':
      request.lookAtBacking = false;
      break;
    case 'quiet':
      request.quiet = true;
      break;
    case 'object':
      request.images.take(name, value);
      break;
  }
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
  const path = localPath(file);
  const values = new OptionValues(createOptionTables[format]);
  if (request.optionList !== null) values.addList(request.optionList);
  addBacking(values, format, request);
  await settleSize(values, file, path, request);
  if (!request.quiet) {
    context.out.write(`Formatting '${file}', fmt=${format} ${values.summary()}\n`);
    context.out.flush();
  }
  const size = values.number('size') ?? 0n;
  if (format === 'raw') await createRaw(path, size, values, context);
  else await createQcow2(path, size, qcow2CreateOptions(values, request.images.secrets), context);
}

function addBacking(values: OptionValues, format: ImageFormat, { backing, backingFormat }: Request): void {
  if (format === 'raw') {
    if (backing !== null) throw new Failure("Backing file not supported for file format 'raw'");
    if (backingFormat !== null) throw new Failure("Backing file format not supported for file format 'raw'");
  }
  if (backing !== null) values.set('backing_file', backing);
  if (backingFormat !== null) values.set('backing_fmt', backingFormat);
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
    const hint = reason.hint === undefined ? '' : `${reason.hint}\n`;
    throw failure('', { text: reason.text, hint: `${hint}Could not open backing image.` }, error);
  }
}

async function createRaw(path: string, bytes: bigint, values: OptionValues, context: Context): Promise<void> {
  const preallocation = rawPreallocation(values);
  const size = exactSize(bytes, Number.MAX_SAFE_INTEGER, tooLarge('raw'));
  await interruptible((signal) =>
    writingTo(path, context.complain, () => createRawImage(path, size, { preallocation, signal })),
  ).catch((error: unknown) => {
    throw creationFailure(error, path);
  });
}

async function createQcow2(
  path: string,
  bytes: bigint,
  options: CreateOptions,
  context: Context,
): Promise<void> {
  const { clusterSize = 65536, extendedL2 = false } = options;
  const largest = largestDisk(clusterSize, extendedL2);
  const message = `${tooLarge('qcow2')} (try using a larger cluster size)`;
  const size = exactSize(bytes, largest, message);
  await interruptible((signal) =>
    writingTo(path, context.complain, async () => {
      const image = await orAborted(create(path, size, withoutLooking(options)), signal);
      await image.close();
    }),
  ).catch((error: unknown) => {
    throw creationFailure(error, path);
  });
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
