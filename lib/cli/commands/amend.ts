/** `amend`: changes what kind of image an image is, and its keys. */
import { amendOptions, amendOptionsHelp, keyChange, readAmendOptions } from '../amend-options.js';
import type { KeyChange } from '../amend-options.js';
import { checkCacheMode } from '../cache-mode.js';
import type { Context } from '../context.js';
import { hasCode } from '../../errors.js';
import { failure, reasonOf } from '../error-text.js';
import { Failure, isTold, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import type { AmendOptions, Disk, Qcow2 } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { isQcow2 } from '../is-qcow2.js';
import { appendOptionList, asksForHelp } from '../o-options.js';
import { withProgress } from '../progress.js';
import type { ProgressDisplay } from '../progress.js';
import { spec } from '../specs/amend.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { images, optionList, file } = request;
  if (images.format !== undefined && asksForHelp(optionList)) {
    context.out.write(helpOf(images.format));
    return 0;
  }
  return withProgress(request, context, async (progress) => {
    if (file === undefined) throw new Failure('Expecting one image file name');
    checkCacheMode('cache', request.cache);
    const name = images.name(file);
    const { disk } = await images.openForWriting(name, context);
    try {
      if (!isQcow2(disk)) throw unsupported();
      if (asksForHelp(optionList)) context.out.write(amendOptionsHelp());
      else await amend(disk, name, request, { context, progress });
    } finally {
      await disk.close();
    }
    return 0;
  });
}

interface Request {
  images: ImageArguments;
  optionList: string;
  cache: string;
  force: boolean;
  progress: boolean;
  quiet: boolean;
  /** Undefined when there is not exactly one. */
  file: string | undefined;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const found = { cache: 'writeback', force: false, progress: false, quiet: false };
  let optionList: string | null = null;
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'options') optionList = appendOptionList(optionList, value);
    if (name === 'cache') found.cache = value;
    if (name === 'force') found.force = true;
    if (name === 'progress') found.progress = true;
    if (name === 'quiet') found.quiet = true;
  }
  if (optionList === null) throw new UsageFailure('Must specify options (-o)');
  const [file, ...more] = line.positionals;
  return { ...found, images, optionList, file: more.length > 0 ? undefined : file };
}

function helpOf(format: string): string {
  if (format === 'raw') throw unsupported();
  if (format !== 'qcow2') throw new Failure(`Unknown file format '${format}'`);
  return amendOptionsHelp();
}

function unsupported(): Failure {
  return new Failure("Format driver 'raw' does not support option amendment");
}

async function amend(
  disk: Qcow2,
  name: ImageName,
  request: Request,
  { context, progress }: { context: Context; progress: ProgressDisplay | null },
): Promise<void> {
  const { images, optionList, force } = request;
  const values = readAmendOptions(optionList);
  const { encryption, ...image } = await disk.info();
  const options = amendOptions(values, { ...image, encrypted: encryption !== null }, context.program);
  const unlock = name.keySecret === undefined ? undefined : images.secrets.get(name.keySecret);
  const keys = keyChange(values, images.secrets, { unlock, force });
  progress?.begin();
  await interruptible((signal) => change(disk, { ...options, signal }, keys)).catch((error: unknown) => {
    throw isTold(error) ? error : failure('', reason(error, disk, name), error);
  });
}

async function change(disk: Qcow2, options: AmendOptions, keys: KeyChange): Promise<void> {
  if (keys !== null && 'add' in keys) await addKey(disk, keys.add);
  if (keys !== null && 'remove' in keys) await removeKey(disk, keys.remove);
  const { size, ...others } = options;
  await disk.amend(others);
  others.signal?.throwIfAborted();
  // Unlike the library, qemu-img cuts off what is past the new size.
  if (size !== undefined) await disk.resize(size, { shrink: true });
}

async function addKey(disk: Qcow2, options: Extract<KeyChange, { add: unknown }>['add']): Promise<void> {
  try {
    await disk.addKey(options);
  } catch (error) {
    if (!hasCode(error, 'ERR_QCOW2_CONFLICT') || options.slot === undefined) throw error;
    throw new Failure(`Refusing to overwrite active keyslot ${options.slot} - please erase it first`, {
      cause: error,
    });
  }
}

async function removeKey(
  disk: Qcow2,
  options: Extract<KeyChange, { remove: unknown }>['remove'],
): Promise<void> {
  try {
    await disk.removeKey(options);
  } catch (error) {
    // What is not there need not be removed.
    if (options.force === true && hasCode(error, 'ERR_QCOW2_NOT_FOUND')) return;
    throw 'slot' in options ? slotFailure(error, options.slot) : passwordFailure(error);
  }
}

const refusing = 'which will erase all the data in the image irreversibly - refusing operation';

function slotFailure(error: unknown, slot: number): unknown {
  if (hasCode(error, 'ERR_QCOW2_NOT_FOUND')) {
    return new Failure(`Given keyslot ${slot} is already erased (inactive) `, { cause: error });
  }
  if (!hasCode(error, 'ERR_QCOW2_DATA_LOSS')) return error;
  return new Failure(`Attempt to erase the only active keyslot ${slot} ${refusing}`, { cause: error });
}

function passwordFailure(error: unknown): unknown {
  if (hasCode(error, 'ERR_QCOW2_SECRET')) {
    return new Failure('No keyslots match given (old) password for erase operation', { cause: error });
  }
  if (!hasCode(error, 'ERR_QCOW2_DATA_LOSS')) return error;
  return new Failure(
    'All the active keyslots match the (old) password that was given and erasing them will erase all the data in the ' +
      'image irreversibly - refusing operation',
    { cause: error },
  );
}

function reason(error: unknown, disk: Disk & Pick<Qcow2, 'header'>, name: ImageName): { text: string } {
  const { incompatible } = disk.header;
  if (hasCode(error, 'ERR_QCOW2_CONFLICT') && error.feature === 'incompatible_features') {
    return {
      text: `Cannot downgrade an image with incompatible features 0x${incompatible.toString(16)} set`,
    };
  }
  return reasonOf(error, { name: name.given, writing: true });
}
