/** `measure`: tells how large an image of a disk will be. */
import type { Context } from '../context.js';
import { measureOptions } from '../create-options.js';
import { hasCode } from '../../errors.js';
import { explained } from '../error-text.js';
import { Failure, tell } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { measure } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { withProgress } from '../progress.js';
import type { Measurement } from '../../index.js';
import { isQcow2 } from '../is-qcow2.js';
import { toJson } from '../json.js';
import { NewImageArguments } from '../new-image.js';
import type { OptionValues } from '../o-options.js';
import type { ImageFormat } from '../../options.js';
import { outputFormat } from '../output-format.js';
import { openSnapshot, parseSnapshotChoice } from '../snapshot-choice.js';
import type { SnapshotChoice } from '../snapshot-choice.js';
import { sizeArgument } from '../sizes.js';
import { spec } from '../specs/measure.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { out } = context;
  const request = parse(words);
  const { required, fullyAllocated, bitmaps } = await measureImage(request, context);
  if (request.output === 'json') {
    const members = { bitmaps: bitmaps ?? undefined, required, 'fully-allocated': fullyAllocated };
    out.write(`${toJson(members)}\n`);
    return 0;
  }
  out.write(`required size: ${required}\nfully allocated size: ${fullyAllocated}\n`);
  if (bitmaps !== null) out.write(`bitmaps size: ${bitmaps}\n`);
  return 0;
}

interface Request {
  images: ImageArguments;
  targetFormat: string;
  newImage: NewImageArguments;
  output: string;
  snapshot: SnapshotChoice | null;
  /** Of an empty disk; null when there is a file. */
  size: bigint | null;
  file: string | undefined;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const found = { targetFormat: 'raw', output: 'human' };
  const newImage = new NewImageArguments();
  let snapshot: SnapshotChoice | null = null;
  let size: bigint | null = null;
  for (const { name, value } of line) {
    if (images.take(name, value) || newImage.take(name, value)) continue;
    if (name === 'target-format') found.targetFormat = value;
    if (name === 'snapshot') snapshot = parseSnapshotChoice(value);
    if (name === 'size') size = sizeArgument('image size', value);
    if (name === 'output') found.output = outputFormat(value);
  }
  const [file, ...more] = line.positionals;
  if (more.length > 0) throw new Failure('At most one filename argument is allowed.');
  const needsFile = images.imageOpts || images.format !== undefined || snapshot !== null;
  if (file === undefined && needsFile) {
    throw new Failure('--image-opts, -f, and -l require a filename argument.');
  }
  if (file === undefined && size === null) {
    throw new Failure('Either --size N or one filename must be specified.');
  }
  if (file !== undefined && size !== null) {
    throw new Failure('--size N cannot be used together with a filename.');
  }
  return { ...found, images, newImage, snapshot, size, file };
}

async function measureImage(request: Request, context: Context): Promise<Measurement> {
  const { images, file, size, snapshot } = request;
  if (file === undefined) return measureDisk({ size: size ?? 0n }, request, context);
  const { disk } = await images.openDisk(images.name(file), { data: true });
  try {
    if (snapshot === null) return await measureDisk(disk, request, context);
    const shown = await openSnapshot(disk, snapshot);
    const measured = await measureDisk(shown, request, context);
    // The bitmaps that a copy would take along are those of the image.
    const { bitmaps } = isQcow2(disk) ? await measureDisk(disk, request, context) : measured;
    return { ...measured, bitmaps };
  } finally {
    await disk.close();
  }
}

async function measureDisk(
  source: Parameters<typeof measure>[0],
  request: Request,
  context: Context,
): Promise<Measurement> {
  const format = targetFormat(request);
  const values = listedOptions(request.newImage, format, context);
  const options = format === 'raw' ? { format } : measureOptions(values, request.images.secrets);
  try {
    return await withProgress({}, context, (progress) =>
      interruptible((signal) =>
        measure(source, {
          ...options,
          signal,
          ...(progress === null ? {} : { onProgress: (state) => progress.update(state) }),
        }),
      ),
    );
  } catch (error) {
    const isTooLarge = hasCode(error, 'ERR_QCOW2_LIMIT') || error instanceof RangeError;
    if (isTooLarge)
      throw new Failure('The image size is too large (try using a larger cluster size)', { cause: error });
    throw explained('', error, { name: request.file ?? '' });
  }
}

/** @throws Failure */
function listedOptions(newImage: NewImageArguments, format: ImageFormat, context: Context): OptionValues {
  try {
    return newImage.listed(format);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    tell(error, context);
    throw new Failure(`Invalid options for file format '${format}'`, { cause: error });
  }
}

/** @throws Failure */
function targetFormat({ targetFormat }: Request): ImageFormat {
  if (targetFormat === 'qcow2' || targetFormat === 'raw') return targetFormat;
  throw new Failure(`Unknown file format '${targetFormat}'`);
}
