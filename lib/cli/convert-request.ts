/** What a command line of `convert` asks for. */
import { Failure } from './failure.js';
import { CommandLine } from './getopt.js';
import { ImageArguments } from './image-arguments.js';
import { NewImageArguments } from './new-image.js';
import type { ImageFormat } from '../options.js';
import { parseSnapshotChoice } from './snapshot-choice.js';
import type { SnapshotChoice } from './snapshot-choice.js';
import { sizeArgument } from './sizes.js';
import { standardStream } from './standard-streams.js';
import { spec } from './specs/convert.js';

export interface ConvertRequest {
  images: ImageArguments;
  /** Null for the default. */
  targetFormat: string | null;
  newImage: NewImageArguments;
  sourceCache: string;
  targetCache: string;
  compress: boolean;
  /** Null for the default. */
  compressionLevel: number | null;
  /** Bytes; null for the default. */
  sparseSize: number | null;
  create: boolean;
  concurrency: number | null;
  copyRange: boolean;
  snapshot: SnapshotChoice | null;
  /** Copies persistent bitmaps, too. */
  bitmaps: boolean;
  skipBrokenBitmaps: boolean;
  /** Goes on where the source cannot be read, with zeros. */
  salvage: boolean;
  targetIsZero: boolean;
  /** The target is named by a list of options. */
  targetImageOpts: boolean;
  /** Bytes a second; 0 for no limit. */
  rateLimit: number;
  progress: boolean;
  quiet: boolean;
  files: readonly string[];
}

export function parseConvert(words: readonly string[]): ConvertRequest {
  const line = new CommandLine(spec.options, words);
  const request: ConvertRequest = {
    images: new ImageArguments(),
    targetFormat: null,
    newImage: new NewImageArguments(),
    sourceCache: 'writeback',
    targetCache: 'unsafe',
    compress: false,
    compressionLevel: null,
    sparseSize: null,
    create: true,
    concurrency: null,
    copyRange: false,
    snapshot: null,
    bitmaps: false,
    skipBrokenBitmaps: false,
    salvage: false,
    targetIsZero: false,
    targetImageOpts: false,
    rateLimit: 0,
    progress: false,
    quiet: false,
    files: [],
  };
  for (const { name, value } of line) {
    if (request.images.take(name, value) || request.newImage.take(name, value)) continue;
    takeOption(request, name, value);
  }
  return { ...request, files: line.positionals };
}

type ConvertOptionName = Exclude<(typeof spec.options)[number]['name'], 'help'>;

function takeOption(request: ConvertRequest, name: ConvertOptionName, value: string): void {
  switch (name) {
    case 'target-format':
      request.targetFormat = value;
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
    case 'compression-level':
      request.compressionLevel = compressionLevel(value);
      break;
    case 'no-create':
      request.create = false;
      break;
    case 'copy-range-offloading':
      request.copyRange = true;
      break;
    case 'snapshot':
      request.snapshot = parseSnapshotChoice(value);
      break;
    case 'bitmaps':
      request.bitmaps = true;
      break;
    case 'skip-broken-bitmaps':
      request.skipBrokenBitmaps = true;
      break;
    case 'salvage':
      request.salvage = true;
      break;
    case 'target-is-zero':
      request.targetIsZero = true;
      break;
    case 'target-image-opts':
      request.targetImageOpts = true;
      break;
    case 'rate-limit':
      request.rateLimit = Number(sizeArgument('rate limit', value));
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

/** Which levels there are depends on the compression type. */
function compressionLevel(value: string): number {
  if (/^[1-9]\d?$/.test(value)) return Number(value);
  throw new Failure(`Invalid compression level '${value}': it must be a whole number from 1 on`);
}

/** @throws Failure */
export function targetFormat({ targetFormat: given }: ConvertRequest): ImageFormat {
  const format = given ?? 'raw';
  if (format === 'qcow2' || format === 'raw') return format;
  throw new Failure(`Unknown file format '${format}'`);
}

/** @throws Failure for what makes no sense when the image goes to standard output */
function refuseWithOutput({ create, progress, quiet, bitmaps, files }: ConvertRequest): void {
  if (!create) throw new Failure('-n has no meaning when the image is written to standard output');
  if (progress && !quiet) throw new Failure('-p would be in the way of the image on standard output');
  if (bitmaps) throw new Failure('Bitmaps cannot be written to standard output');
  if (files[0] === standardStream) throw new Failure('One of source and target must be a file');
}

/** @throws Failure in the words of qemu-img for what does not go together */
export function refuseContradictions(request: ConvertRequest): void {
  if (request.files.at(-1) === standardStream) refuseWithOutput(request);
  if (request.copyRange && request.sparseSize !== null) {
    throw new Failure('Cannot enable copy offloading when -S is used');
  }
  if (request.copyRange && request.compress) {
    throw new Failure('Cannot enable copy offloading when -c is used');
  }
  if (request.compressionLevel !== null && !request.compress) {
    throw new Failure('--compression-level has no meaning without -c');
  }
  if (request.copyRange && request.salvage) {
    throw new Failure('Cannot use copy offloading in salvaging mode');
  }
  if (!request.create && request.newImage.hasOptions) {
    throw new Failure('-o has no effect when skipping image creation');
  }
  if (request.skipBrokenBitmaps && !request.bitmaps) {
    throw new Failure('Use of --skip-broken-bitmaps requires --bitmaps');
  }
  if (request.create && request.targetImageOpts) {
    throw new Failure('--target-image-opts requires use of -n flag');
  }
  if (request.create && request.targetIsZero) {
    throw new Failure('--target-is-zero requires use of -n flag');
  }
  if (request.targetIsZero && request.newImage.hasBacking) {
    throw new Failure('Cannot use --target-is-zero when the destination image has a backing file');
  }
  const sources = request.files.length - 1;
  if (sources < 1) throw new Failure('Must specify image file name');
  if (sources === 1) return;
  if (request.bitmaps) throw new Failure('Copying bitmaps only possible with single source');
  if (request.snapshot !== null) throw new Failure('No support for concatenating multiple snapshot');
  if (request.newImage.hasBacking) {
    throw new Failure(
      'Having a backing file for the target makes no sense when concatenating multiple input images',
    );
  }
}
