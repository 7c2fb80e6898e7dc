/** `dehydrate`: writes the structure of an image, without anything the guest wrote, for a report of a fault. */
import type { Writable } from 'node:stream';
import type { Context } from '../context.js';
import { failureBetween } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import { dehydrate, type DehydrateOptions } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { spec } from '../specs/dehydrate.js';
import { standardStream, withStandardOutput } from '../standard-streams.js';
import { writingTo } from '../unfinished.js';

export async function run(words: readonly string[], { complain }: Context): Promise<number> {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const options: DehydrateOptions = {};
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'strings') options.strings = true;
    if (name === 'bitmap-contents') options.bitmapContents = true;
  }
  const [file, target, ...more] = line.positionals;
  if (file === undefined || target === undefined || more.length > 0) {
    throw new UsageFailure('Expecting the names of an image and of the file to write');
  }
  const source = images.name(file);
  if (source.format === 'raw')
    throw new Failure('A raw image has no structure: only qcow2 can be dehydrated');
  if (images.forceShare) options.lock = false;
  const work = (output: string | Writable): Promise<void> =>
    interruptible((signal) => dehydrate(source.path, output, { ...options, signal }));
  try {
    if (target === standardStream) await withStandardOutput(work);
    else await writingTo(target, complain, () => work(target));
  } catch (error) {
    throw failureBetween(source.given, target, error);
  }
  return 0;
}
