/** `convert`: copies a disk into a new image. */
import { resolve } from 'node:path';
import { checkCacheMode } from '../cache-mode.js';
import type { Context } from '../context.js';
import { hasCode } from '../../errors.js';
import {
  createOptionsHelp,
  createOptionTables,
  qcow2CreateOptions,
  rawPreallocation,
} from '../create-options.js';
import {
  creationWords,
  failure,
  isDirectory,
  openFailure,
  reasonOf,
  systemErrorPath,
  systemErrorWords,
} from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { localPath } from '../image-name.js';
import type { ImageName } from '../image-name.js';
import { convert, Qcow2 } from '../../index.js';
import type { Disk } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { appendOptionList, asksForHelp, OptionValues } from '../o-options.js';
import type { CreateOptions, ImageFormat } from '../../options.js';
import { spec } from '../specs/convert.js';
import { withProgress } from '../progress.js';
import type { ProgressLine } from '../progress.js';
import { plainReferences } from '../references.js';
import { sizeArgument } from '../sizes.js';
import { writingTo } from '../unfinished.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  if (asksForHelp(request.optionList)) {
    context.out.write(createOptionsHelp(targetFormat(request), request.files.length > 0));
    return 0;
  }
  refuseContradictions(request);
  const { source, target } = operands(request);
  checkCacheMode('source cache', request.sourceCache);
  await withProgress(request.progress && !request.quiet, context.out, (progress) =>
    convertImage(source, target, request, progress, context),
  );
  return 0;
}

interface Request {
  images: ImageArguments;
  targetFormat: string;
  optionList: string | null;
  backing: string | null;
  backingFormat: string | null;
  sourceCache: string;
  targetCache: string;
  compress: boolean;
  /** Bytes; null for the default. */
  sparseSize: number | null;
  create: boolean;
  concurrency: number | null;
  copyRange: boolean;
  progress: boolean;
  quiet: boolean;
  files: readonly string[];
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const request: Request = {
    images: new ImageArguments(),
    targetFormat: 'raw',
    optionList: null,
    backing: null,
    backingFormat: null,
    sourceCache: 'writeback',
    targetCache: 'unsafe',
    compress: false,
    sparseSize: null,
    create: true,
    concurrency: null,
    copyRange: false,
    progress: false,
    quiet: false,
    files: [],
  };
  for (const { name, value } of line) {
    if (!request.images.take(name, value)) takeOption(request, name, value);
  }
  return { ...request, files: line.positionals };
}

type ConvertOptionName = Exclude<(typeof spec.options)[number]['name'], 'help'>;

function takeOption(request: Request, name: ConvertOptionName, value: string): void {
  switch (name) {
    case 'target-format':
      request.targetFormat = value;
      break;
    case 'target-format-options':
      request.optionList = appendOptionList(request.optionList, value);
      break;
    case 'backing':
      request.backing = value;
      break;
    case 'backing-format':
      request.backingFormat = value;
      break;
    case 'source-cache':
      request.sourceCache = value;
      break;
    case 'target-cache':
      request.targetCache = value;
      break;
    case 'sparse-size':
      request.sparseSize = sparseSize(value);
      break;
    case 'parallel':
      request.concurrency = parallel(value);
      break;
    case 'compress':
      request.compress = true;
      break;
    case 'no-create':
      request.create = false;
      break;
    case 'copy-range-offloading':
      request.copyRange = true;
      break;
    case 'progress':
      request.progress = true;
      break;
    case 'quiet':
      request.quiet = true;
      break;
    default:
      // Accepted for compatibility, or taken above.
      break;
  }
}

const maxSparseSize = 16 * 1024 * 1024;

function sparseSize(value: string): number {
  const size = Number(sizeArgument('buffer size for sparse output', value));
  if (size % 512 !== 0 || size > maxSparseSize) {
    throw new Failure(
      `Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to ${maxSparseSize}. ` +
        'Select 0 to disable sparse detection (fully allocates output).',
    );
  }
  return size;
}

function parallel(value: string): number {
  const count = /^\s*\+?\d+$/.test(value) ? Number(value) : 0;
  if (count >= 1 && count <= 16) return count;
  throw new Failure('Invalid number of coroutines. Allowed number of coroutines is between 1 and 16');
}

/** @throws Failure */
function targetFormat({ targetFormat }: Request): ImageFormat {
  if (targetFormat === 'qcow2' || targetFormat === 'raw') return targetFormat;
  throw new Failure(`Unknown file format '${targetFormat}'`);
}

function refuseContradictions(request: Request): void {
  if (request.copyRange && request.sparseSize !== null) {
    throw new Failure('Cannot enable copy offloading when -S is used');
  }
  if (request.copyRange && request.compress) {
    throw new Failure('Cannot enable copy offloading when -c is used');
  }
  if (!request.create && request.optionList !== null) {
    throw new Failure('-o has no effect when skipping image creation');
  }
}

function operands({ files, images }: Request): { source: ImageName; target: string } {
  const [source, target, ...more] = files;
  if (source === undefined || target === undefined) throw new Failure('Must specify image file name');
  if (more.length > 0) throw new UsageFailure('Only one source image can be converted at a time');
  return { source: images.name(source), target };
}

async function convertImage(
  source: ImageName,
  target: string,
  request: Request,
  progress: ProgressLine | null,
  { complain }: Context,
): Promise<void> {
  progress?.begin();
  const { disk } = await request.images.openDisk(source);
  try {
    if (disk instanceof Qcow2 && disk.header.cryptMethod !== 'none' && source.keySecret === undefined) {
      throw new Failure(
        `Could not open '${source.given}': Parameter 'encrypt.key-secret' is required for cipher`,
      );
    }
    const format = targetFormat(request);
    const path = localPath(target);
    const create = targetOptions(format, path, request);
    checkCacheMode('cache', request.targetCache);
    const work = (signal: AbortSignal): Promise<unknown> =>
      copy(disk, path, format, create, { request, progress, signal }).catch((error: unknown) => {
        throw conversionFailure(error, source, target, path, request);
      });
    await interruptible((signal) =>
      request.create ? writingTo(path, complain, () => work(signal)) : work(signal),
    );
  } finally {
    await disk.close();
  }
}

function copy(
  disk: Disk,
  path: string,
  format: ImageFormat,
  create: CreateOptions,
  { request, progress, signal }: { request: Request; progress: ProgressLine | null; signal: AbortSignal },
): Promise<unknown> {
  return convert(disk, path, {
    targetFormat: format,
    create,
    compress: request.compress,
    keepTarget: !request.create,
    // As for qemu-img, whose default is to leave it to the system when the target reaches the disk.
    durable: request.targetCache !== 'unsafe',
    signal,
    ...(request.sparseSize === null ? {} : { sparseSize: request.sparseSize }),
    ...(request.concurrency === null ? {} : { concurrency: request.concurrency }),
    ...(progress === null ? {} : { onProgress: (state) => progress.update(state) }),
  });
}

/** What the target is to be like. @throws Failure in the words of qemu-img */
function targetOptions(format: ImageFormat, path: string, request: Request): CreateOptions {
  const values = new OptionValues(createOptionTables[format]);
  if (request.optionList !== null) values.addList(request.optionList);
  if (format === 'raw' && request.backing !== null) {
    throw new Failure("Backing file not supported for file format 'raw'");
  }
  if (request.create) {
    if (request.backing !== null) values.set('backing_file', request.backing);
    if (request.backingFormat !== null) values.set('backing_fmt', request.backingFormat);
    if (values.has('backing_file') && !values.has('backing_fmt')) {
      throw new Failure('Use of backing file requires explicit backing format');
    }
  }
  if (request.compress) refuseToCompress(format, values);
  const created = `${path}: error while converting ${format}: `;
  try {
    if (format === 'raw') return { preallocation: rawPreallocation(values) };
    return { ...qcow2CreateOptions(values, request.images.secrets), resolve: plainReferences(path) };
  } catch (error) {
    throw failure(created, reasonOf(error, { name: path }), error);
  }
}

function refuseToCompress(format: ImageFormat, values: OptionValues): void {
  if (format === 'raw') throw new Failure('Compression not supported for this file format');
  if (values.has('encrypt.format') || values.switch('encryption') === true) {
    throw new Failure('Compression and encryption not supported at the same time');
  }
  if ((values.text('preallocation') ?? 'off') !== 'off') {
    throw new Failure('Compression and preallocation not supported at the same time');
  }
}

/** Tells at which end of the copy something went wrong, as far as the error says so. */
function conversionFailure(
  error: unknown,
  source: ImageName,
  target: string,
  path: string,
  request: Request,
): unknown {
  if (error instanceof Failure || (error instanceof Error && error.name === 'Interrupted')) return error;
  if (hasCode(error, 'ERR_QCOW2_CONFLICT') && error.feature === 'size') {
    return new Failure('output file is smaller than input file', { cause: error });
  }
  const isCreation = isOpening(error) || path === '' || isDirectory(path);
  const words = isCreation ? creationWords(error, path) : systemErrorWords(error);
  if (words !== null && !isCreation) {
    const errorPath = systemErrorPath(error);
    const reading = errorPath !== null && resolve(errorPath) === resolve(source.path);
    return failure(`error while ${reading ? 'reading' : 'writing'}: `, { text: words }, error);
  }
  const concerned = { name: target, path, writing: true };
  if (!request.create) return openFailure(error, concerned);
  const reason =
    words === null ? reasonOf(error, concerned) : { text: `Could not create '${path}': ${words}` };
  return failure(`${target}: error while converting ${request.targetFormat}: `, reason, error);
}

function isOpening(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error && error.syscall === 'open';
}
