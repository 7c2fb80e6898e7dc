/** `rehydrate`: makes an image of the structure that `dehydrate` wrote. */
import type { Context } from '../context.js';
import { failureBetween } from '../error-text.js';
import { hasCode } from '../../errors.js';
import { UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { rehydrate } from '../../index.js';
import { interruptible, orAborted } from '../interrupt.js';
import { spec } from '../specs/rehydrate.js';
import { writingTo } from '../unfinished.js';

export async function run(words: readonly string[], { complain }: Context): Promise<number> {
  const line = new CommandLine(spec.options, words);
  // There is but --help, which ends the reading.
  for (const { name } of line) throw new UsageFailure(`Unknown option ${String(name)}`);
  const [container, target, ...more] = line.positionals;
  if (container === undefined || target === undefined || more.length > 0) {
    throw new UsageFailure('Expecting the names of a dehydrated image and of the image to write');
  }
  try {
    await writingTo(target, complain, () =>
      interruptible((signal) =>
        // A pipe may never give anything.
        orAborted(rehydrate(container === '-' ? process.stdin : container, target, { signal }), signal),
      ),
    );
  } catch (error) {
    // Only the target is locked.
    const source = hasCode(error, 'ERR_QCOW2_LOCKED') ? target : container;
    throw failureBetween(source, target, error);
  }
  return 0;
}
