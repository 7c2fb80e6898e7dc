/** `resize`: changes the size of a disk. */
import type { Context } from '../context.js';
import { largestDisk } from '../disk-limits.js';
import { explained, openFailure } from '../error-text.js';
import { Failure, HelpWanted, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import { interruptible } from '../interrupt.js';
import { resizeRaw } from '../../index.js';
import type { CreateOptions } from '../../options.js';
import { spec } from '../specs/resize.js';
import { warnAboutProbing } from '../probing.js';
import { sizeParameter, wholeSectors } from '../sizes.js';

type Preallocation = NonNullable<CreateOptions['preallocation']>;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { name, images, quiet } = request;
  images.demandWritable(name);
  // Only to find the format; the opening in earnest takes the lock.
  const { disk, format } = await images.openDisk(name, { backing: 'none', lock: false });
  const { size } = disk;
  await disk.close();
  try {
    if (format === 'raw') await resizeRawImage(size, request, context);
    else await resizeQcow2(request, context);
  } catch (error) {
    throw explained('', error, { name: name.given });
  }
  if (!quiet) context.out.write('Image resized.\n');
  return 0;
}

const maxSize = 2n ** 63n - 1n;

interface Request {
  name: ImageName;
  images: ImageArguments;
  change: Change;
  shrink: boolean;
  preallocation: Preallocation;
  quiet: boolean;
}

/** A size to reach, or to add or take away. */
interface Change {
  sign: '+' | '-' | '';
  bytes: bigint;
}

function parse(words: readonly string[]): Request {
  if (words.includes('--help') || words.includes('-h')) throw new HelpWanted();
  if (words.length < 2) throw new UsageFailure('Not enough arguments');
  const at = sizeIndex(words);
  const line = new CommandLine(spec.options, words.toSpliced(at, 1));
  const images = new ImageArguments();
  let shrink = false;
  let quiet = false;
  let preallocation: Preallocation = 'off';
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'shrink') shrink = true;
    if (name === 'quiet') quiet = true;
    if (name === 'preallocation') preallocation = preallocationMode(value);
  }
  const [file, ...more] = line.positionals;
  const size = words[at];
  if (file === undefined || size === undefined || more.length > 0)
    throw new UsageFailure('Expecting image file name and size');
  return { change: parseChange(size), images, shrink, preallocation, quiet, name: images.name(file) };
}

/** Where the size stands: `-1G` is no option wherever it is, and the last word is the size whatever it looks like. */
function sizeIndex(words: readonly string[]): number {
  const reducing = words.findIndex((word) => /^-\d/.test(word));
  return reducing < 0 ? words.length - 1 : reducing;
}

function preallocationMode(value: string): Preallocation {
  if (value === 'off' || value === 'metadata' || value === 'falloc' || value === 'full') return value;
  throw new Failure(`Invalid preallocation mode '${value}'`);
}

function parseChange(text: string): Change {
  const sign = text.startsWith('+') ? '+' : text.startsWith('-') ? '-' : '';
  return { sign, bytes: sizeParameter('size', text.slice(sign.length)) };
}

/** Bytes. @throws Failure when the size is impossible or not allowed */
function newSize(current: number, request: Request, { complain }: Context): bigint {
  const { change, shrink, preallocation } = request;
  const before = BigInt(current);
  const after =
    change.sign === '' ? change.bytes : change.sign === '+' ? before + change.bytes : before - change.bytes;
  if (after <= 0n || after > maxSize) throw new Failure('New image size must be positive');
  if (after <= before && preallocation !== 'off') {
    throw new Failure('Preallocation can only be used for growing images');
  }
  if (after >= before || shrink) return after;
  complain('Use the --shrink option to perform a shrink operation.');
  throw new Failure(
    "warning: Shrinking an image will delete all data beyond the shrunken image's end. " +
      'Before performing such an operation, make sure there is no important data there.',
  );
}

async function resizeQcow2(request: Request, context: Context): Promise<void> {
  const { name, images, shrink, preallocation } = request;
  const disk = await images.openQcow2(name, { mode: 'r+' });
  try {
    const size = newSize(disk.size, request, context);
    if (Number(size) !== wholeSectors(Number(size)))
      throw new Failure('The new size must be a multiple of 512');
    const { clusterSize, extendedL2 } = await disk.info();
    if (size > largestDisk(clusterSize, extendedL2)) {
      throw new Failure('Failed to grow the L1 table: File too large');
    }
    await interruptible((signal) => disk.resize(size, { shrink, preallocation, signal }));
  } finally {
    await disk.close();
  }
}

async function resizeRawImage(current: number, request: Request, context: Context): Promise<void> {
  const { name, shrink, preallocation } = request;
  if (name.format === undefined) warnAboutProbing(name.given, context);
  const size = newSize(current, request, context);
  if (preallocation === 'metadata') throw new Failure('Unsupported preallocation mode: metadata');
  const { offset = 0, size: fixed } = name.window ?? {};
  if (fixed !== undefined) throw new Failure('Cannot resize fixed-size raw disks');
  try {
    await resizeRaw(name.path, BigInt(offset) + size, { shrink, preallocation });
  } catch (error) {
    throw openFailure(error, { name: name.given, path: name.path, writing: true });
  }
}
