/** `hash`: prints the hash of each block of a disk, or verifies a disk by them. */
import type { Context } from '../context.js';
import { Failure } from '../failure.js';
import { readHashes, writeHashes } from '../hash-list.js';
import { parseImageCommand } from '../image-command.js';
import type { ImageArguments } from '../image-arguments.js';
import { hash, verify } from '../../index.js';
import type { Disk, HashAlgorithm, Job } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { toJson } from '../json.js';
import { outputFormat } from '../output-format.js';
import type { OutputFormat } from '../output-format.js';
import { withProgress } from '../progress.js';
import { sizeArgument } from '../sizes.js';
import { spec } from '../specs/hash.js';

const maxBlockSize = 64 * 1024 * 1024;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { disk } = await request.images.openDisk(request.images.name(request.file), { data: true });
  try {
    return await withProgress(request, context, (display) =>
      interruptible((signal) => {
        display?.begin();
        const job: Job = {
          signal,
          ...(display === null ? {} : { onProgress: (state) => display.update(state) }),
        };
        return request.list === null
          ? print(disk, request, job, context)
          : compare(disk, request, job, context);
      }),
    );
  } finally {
    await disk.close();
  }
}

interface Request {
  images: ImageArguments;
  file: string;
  algorithm: HashAlgorithm;
  /** Bytes; null for the default. */
  blockSize: number | null;
  /** The list to verify by. */
  list: string | null;
  output: OutputFormat;
  progress: boolean;
  quiet: boolean;
}

function parse(words: readonly string[]): Request {
  const found = { progress: false, quiet: false };
  let [algorithm, output]: [HashAlgorithm, string] = ['sha256', 'human'];
  let [blockSize, list]: [number | null, string | null] = [null, null];
  const { images, operands } = parseImageCommand(spec, words, ({ name, value }) => {
    if (name === 'algorithm') algorithm = algorithmNamed(value);
    if (name === 'block-size') blockSize = blockSizeOf(value);
    if (name === 'verify') list = value;
    if (name === 'output') output = value;
    if (name === 'progress') found.progress = true;
    if (name === 'quiet') found.quiet = true;
  });
  return {
    ...found,
    images,
    file: operands[0] ?? '',
    algorithm,
    blockSize,
    list,
    output: outputFormat(output),
  };
}

function algorithmNamed(name: string): HashAlgorithm {
  if (name === 'sha256' || name === 'xxh64') return name;
  throw new Failure(`There is no hash '${name}' of blocks: sha256 or xxh64`, {
    hint: "For the hash of a whole disk by any other algorithm use 'sha'.",
  });
}

function blockSizeOf(value: string): number {
  const size = Number(sizeArgument('block size', value));
  if (size > 0 && size % 512 === 0 && size <= maxBlockSize) return size;
  throw new Failure(`The block size must be a multiple of 512 up to ${maxBlockSize}`);
}

async function print(disk: Disk, request: Request, job: Job, { out }: Context): Promise<number> {
  const { algorithm, blockSize, output } = request;
  const hashes = await hash(disk, { algorithm, ...job, ...(blockSize === null ? {} : { blockSize }) });
  for (const piece of writeHashes(hashes, output)) out.write(piece);
  return 0;
}

async function compare(disk: Disk, request: Request, job: Job, { out }: Context): Promise<number> {
  const { list, output, quiet } = request;
  const hashes = readHashes(list ?? '');
  if (hashes.size !== disk.size) {
    throw new Failure(`The disk has ${disk.size} bytes; the list is of one that has ${hashes.size}`);
  }
  const blocks: { start: number; length: number }[] = [];
  for await (const { start, length } of verify(disk, hashes, job)) {
    blocks.push({ start, length });
    if (output === 'human' && !quiet) out.write(`${start} ${length} differs\n`);
  }
  if (output === 'json') out.write(`${toJson(blocks)}\n`);
  else if (blocks.length === 0 && !quiet) out.write('All blocks are as the list says.\n');
  return blocks.length === 0 ? 0 : 1;
}
