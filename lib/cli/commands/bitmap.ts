/** `bitmap`: makes, changes and removes persistent bitmaps. */
import type { Context } from '../context.js';
import { hasCode } from '../../errors.js';
import { failure, reasonOf } from '../error-text.js';
import { Failure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { parseImageName } from '../image-options.js';
import type { Disk, Qcow2 } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { isQcow2 } from '../is-qcow2.js';
import { sizeArgument } from '../sizes.js';
import { spec } from '../specs/bitmap.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { images, file } = request;
  const name = images.nameWithoutBacking(file);
  const { disk } = await images.openForWriting(name, context, { backing: 'none', data: true });
  const opened = [disk];
  try {
    const source = request.sourceFile === null ? disk : await openSource(request.sourceFile, request, opened);
    for (const action of request.actions) await perform(action, disk, source, request);
  } finally {
    for (const one of opened) await one.close();
  }
  return 0;
}

type ActionName = 'add' | 'remove' | 'clear' | 'enable' | 'disable' | 'merge';

interface Action {
  name: ActionName;
  /** The bitmap to merge. */
  source: string;
}

interface Request {
  images: ImageArguments;
  actions: readonly Action[];
  /** Bytes; null for the default. */
  granularity: number | null;
  sourceFile: string | null;
  sourceFormat: string | null;
  file: string;
  bitmap: string;
}

const actionNames: readonly string[] = ['add', 'remove', 'clear', 'enable', 'disable', 'merge'];

function isAction(name: string): name is ActionName {
  return actionNames.includes(name);
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const actions: Action[] = [];
  let granularity: number | null = null;
  let sourceFile: string | null = null;
  let sourceFormat: string | null = null;
  for (const { name, value } of line) {
    if (isAction(name)) actions.push({ name, source: value });
    else if (name === 'granularity') granularity = Number(sizeArgument('granularity', value));
    else if (name === 'source-file') sourceFile = value;
    else if (name === 'source-format') sourceFormat = value;
    else images.take(name, value);
  }
  const given = (name: ActionName): boolean => actions.some((action) => action.name === name);
  if (actions.length === 0) {
    throw new Failure('Need at least one of --add, --remove, --clear, --enable, --disable, or --merge');
  }
  const wanted = granularity === 0 ? null : granularity;
  if (wanted !== null && !given('add')) throw new Failure('granularity only supported with --add');
  if (sourceFormat !== null && sourceFile === null) throw new Failure('-F only supported with -b');
  if (sourceFile !== null && !given('merge')) {
    throw new Failure('Merge bitmap source file only supported with --merge');
  }
  const [file, bitmap, ...more] = line.positionals;
  if (file === undefined || bitmap === undefined || more.length > 0) {
    throw new Failure('Expecting filename and bitmap name');
  }
  return { images, actions, granularity: wanted, sourceFile, sourceFormat, file, bitmap };
}

async function openSource(file: string, { images, sourceFormat }: Request, opened: Disk[]): Promise<Disk> {
  const name = parseImageName(file, {
    imageOpts: false,
    withoutBacking: true,
    ...(sourceFormat === null ? {} : { format: sourceFormat }),
  });
  const { disk } = await images.openDisk(name, { backing: 'none', data: true });
  opened.push(disk);
  return disk;
}

async function perform(action: Action, disk: Disk, source: Disk, request: Request): Promise<void> {
  const { bitmap } = request;
  try {
    if (!isQcow2(disk)) {
      throw new Failure(
        action.name === 'add'
          ? 'Only qcow2 images can have persistent bitmaps: Operation not supported'
          : notFound(bitmap),
      );
    }
    await act(action, disk, source, request);
  } catch (error) {
    if (error instanceof Error && error.name === 'Interrupted') throw error;
    throw failure(
      `Operation ${action.name} on bitmap ${bitmap} failed: `,
      reason(error, action, disk, bitmap),
      error,
    );
  }
}

async function act(
  { name, source: sourceBitmap }: Action,
  disk: Qcow2,
  source: Disk,
  { bitmap, granularity }: Request,
): Promise<void> {
  const { bitmaps } = disk;
  switch (name) {
    case 'add':
      await bitmaps.create({ name: bitmap, ...(granularity === null ? {} : { granularity }) });
      break;
    case 'merge':
      await merge(disk, bitmap, source, sourceBitmap);
      break;
    default:
      await bitmaps[name](bitmap);
      break;
  }
}

async function merge(disk: Qcow2, bitmap: string, source: Disk, sourceBitmap: string): Promise<void> {
  const has = async (image: Qcow2, name: string): Promise<boolean> =>
    (await image.bitmaps.list()).some((one) => one.name === name);
  if (!(await has(disk, bitmap))) throw new Failure(notFound(bitmap));
  if (!isQcow2(source) || !(await has(source, sourceBitmap))) throw new Failure(notFound(sourceBitmap));
  if (source.size !== disk.size) {
    throw new Failure(
      `Bitmaps are of different sizes (destination size is ${disk.size}, source size is ${source.size}) ` +
        "and can't be merged",
    );
  }
  await interruptible((signal) =>
    disk.bitmaps.merge(bitmap, [{ disk: source, name: sourceBitmap }], { signal }),
  );
}

const notFound = (bitmap: string): string => `Dirty bitmap '${bitmap}' not found`;

function reason(error: unknown, { name }: Action, disk: Disk, bitmap: string): { text: string } {
  if (name === 'add' && bitmap === '') return { text: 'Bitmap name cannot be empty' };
  if (error instanceof RangeError) return { text: 'Granularity must be power of 2 and at least 512' };
  if (hasCode(error, 'ERR_QCOW2_NOT_FOUND')) return { text: notFound(bitmap) };
  if (name === 'add' && hasCode(error, 'ERR_QCOW2_CONFLICT')) {
    if (isQcow2(disk) && disk.header.version === 2) {
      return {
        text: `Can't make bitmap '${bitmap}' persistent: Cannot store dirty bitmaps in qcow2 v2 files`,
      };
    }
    if (disk.size > 0) return { text: `Bitmap already exists: ${bitmap}` };
  }
  return reasonOf(error, { name: '', writing: true });
}
