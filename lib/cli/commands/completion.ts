/** `completion`: prints a script that makes a shell complete commands and options. */
import { completionScript, shells } from '../completion.js';
import type { Context } from '../context.js';
import { UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { allSpecs } from '../registry.js';
import { spec } from '../specs/completion.js';

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const line = new CommandLine(spec.options, words);
  line.finish();
  const [name, ...more] = line.positionals;
  const shell = shells.find((known) => known === name);
  if (shell === undefined || more.length > 0) throw new UsageFailure(`Expecting one of ${shells.join(', ')}`);
  out.write(completionScript(shell, await allSpecs()));
  return 0;
}
