/** `dd`: copies a part of a disk. */
import type { Context } from '../context.js';
import { hasCode } from '../../errors.js';
import { creationWords, failure, isDirectory, reasonOf, systemErrorWords } from '../error-text.js';
import { Failure, isTold } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { localPath } from '../image-name.js';
import { convert, ConcatenatedDisk, DiskSlice } from '../../index.js';
import type { Disk } from '../../index.js';
import { interruptible } from '../interrupt.js';
import type { ImageFormat } from '../../options.js';
import { withProgress } from '../progress.js';
import { parseSize, sizeArgument, wholeSectors } from '../sizes.js';
import { spec } from '../specs/dd.js';
import { writingTo } from '../unfinished.js';

const sectorSize = 512;
const maxBlockSize = 2 ** 31 - 1;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { images, input, output } = request;
  const { disk } = await images.openDisk(images.name(input), { data: true });
  try {
    const format = outputFormat(request);
    const path = localPath(output);
    const part = partOf(disk, request, context);
    await withProgress({}, context, (progress) =>
      interruptible((signal) =>
        writingTo(path, context.complain, () =>
          convert(part, path, {
            targetFormat: format,
            durable: false,
            signal,
            ...(progress === null ? {} : { onProgress: (state) => progress.update(state) }),
          }),
        ),
      ),
    ).catch((error: unknown) => {
      throw copyFailure(error, output, path);
    });
  } finally {
    await disk.close();
  }
  return 0;
}

interface Request {
  images: ImageArguments;
  outputFormat: string;
  /** Bytes. */
  blockSize: bigint;
  /** Blocks; null for all. */
  count: bigint | null;
  skip: bigint;
  input: string;
  output: string;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  let format = 'raw';
  for (const { name, value } of line) {
    if (!images.take(name, value) && name === 'output-format') format = value;
  }
  const operands = readOperands(line.positionals);
  const { input, output } = operands;
  if (input === null || output === null) throw new Failure('Must specify both input and output files');
  return { ...operands, images, outputFormat: format, input, output };
}

interface Operands extends Pick<Request, 'blockSize' | 'count' | 'skip'> {
  input: string | null;
  output: string | null;
}

function readOperands(words: readonly string[]): Operands {
  const operands: Operands = {
    blockSize: BigInt(sectorSize),
    count: null,
    skip: 0n,
    input: null,
    output: null,
  };
  for (const word of words) {
    const equals = word.indexOf('=');
    takeOperand(
      operands,
      equals < 0 ? word : word.slice(0, equals),
      equals < 0 ? null : word.slice(equals + 1),
    );
  }
  return operands;
}

function takeOperand(operands: Operands, name: string, value: string | null): void {
  if (value === null) throw unrecognized(name);
  switch (name) {
    case 'if':
      operands.input = value;
      break;
    case 'of':
      operands.output = value;
      break;
    case 'bs':
      operands.blockSize = blockSize(value);
      break;
    case 'count':
      operands.count = sizeArgument('count', value);
      break;
    case 'skip':
      operands.skip = sizeArgument('skip', value);
      break;
    default:
      throw unrecognized(name);
  }
}

function unrecognized(name: string): Failure {
  return new Failure(`unrecognized operand ${name}`);
}

function blockSize(text: string): bigint {
  const size = parseSize(text);
  if (size === 'malformed') return sizeArgument('bs', text);
  if (size !== 'too-large' && size >= 1n && size <= BigInt(maxBlockSize)) return size;
  throw new Failure(`Invalid bs specified. Must be between 1 and ${maxBlockSize}.`);
}

/** @throws Failure */
function outputFormat({ outputFormat }: Request): ImageFormat {
  if (outputFormat === 'qcow2' || outputFormat === 'raw') return outputFormat;
  throw new Failure('Unknown file format');
}

/** The blocks asked for, filled up to whole sectors. As for qemu-img, blocks that are skipped count, too. */
function partOf(disk: Disk, { blockSize, count, skip, input }: Request, { complain }: Context): Disk {
  const whole = new ConcatenatedDisk([disk], sectorSize);
  const size = BigInt(whole.size);
  const end = count === null || blockSize * count > size ? size : blockSize * count;
  const start = blockSize * skip;
  if (start > end) {
    complain(`${input}: cannot skip to specified offset`);
    return new DiskSlice(whole, 0, 0);
  }
  const part = new DiskSlice(whole, start, end - start);
  return part.size === wholeSectors(part.size) ? part : new ConcatenatedDisk([part], sectorSize);
}

function copyFailure(error: unknown, output: string, path: string): unknown {
  if (isTold(error)) return error;
  const isCreation =
    path === '' ||
    isDirectory(path) ||
    (error instanceof Error && 'syscall' in error && error.syscall === 'open');
  const words = isCreation ? creationWords(error, path) : systemErrorWords(error);
  if (words !== null && !isCreation)
    return failure('error while writing to output image file: ', { text: words }, error);
  const reason =
    words === null || hasCode(error, 'ERR_QCOW2_LOCKED')
      ? reasonOf(error, { name: output, path, writing: true })
      : { text: `Could not create '${path}': ${words}` };
  return failure(`${output}: error while creating output image: `, reason, error);
}
