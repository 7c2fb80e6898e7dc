/** `man`: prints the manual page. */
import type { Context } from '../context.js';
import { UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { manPage } from '../man-page.js';
import { allSpecs } from '../registry.js';
import { spec } from '../specs/man.js';
import { ownVersion } from '../version.js';

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const line = new CommandLine(spec.options, words);
  line.finish();
  if (line.positionals.length > 0)
    throw new UsageFailure(`Unexpected argument: ${line.positionals[0] ?? ''}`);
  out.write(manPage(ownVersion(), await allSpecs()));
  return 0;
}
