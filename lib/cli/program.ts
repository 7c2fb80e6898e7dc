/** Finds the command, loads what that one needs, and turns how it ends into messages and an exit code. */
import type { Context } from './context.js';
import { BrokenPipe, brokenPipeExitCode, Failure, HelpWanted, UsageFailure } from './failure.js';
import { Output, visibleOn } from './output.js';
import type { Sink } from './output.js';
import { allSpecs, commandEntry, registry } from './registry.js';
import { ownVersion } from './version.js';

/** The version of qemu-img whose command line this one follows. */
const followedVersion = '7.2.0';

export interface Surroundings {
  /** The name the program calls itself by. */
  readonly program: string;
  readonly stdout: Sink;
  readonly stderr: Sink;
}

/** Runs a command line to its end and resolves to the exit code; what went wrong has been told then. */
export async function runProgram(
  words: readonly string[],
  { program, stdout, stderr }: Surroundings,
): Promise<number> {
  const out = new Output(stdout);
  const say = (text: string): void => {
    try {
      stderr.write(Buffer.from(visibleOn(stderr, text)));
    } catch {
      // When standard error is closed there is nobody to tell.
    }
  };
  const context = { program, out, say, complain: (text: string): void => say(`${program}: ${text}\n`) };
  try {
    try {
      return await dispatch(words, context);
    } finally {
      out.flush();
    }
  } catch (error) {
    return explain(error, context);
  }
}

async function dispatch(words: readonly string[], context: Context): Promise<number> {
  const [first = ''] = words;
  if (first.startsWith('-')) return globalOption(words, context);
  if (words.length === 0) throw new UsageFailure('Not enough arguments');
  const entry = commandEntry(first);
  if (entry === undefined) {
    const { didYouMean } = await import('./suggest.js');
    throw new UsageFailure(`Command not found: ${first}`, didYouMean(first, Object.keys(registry)));
  }
  const { run } = await entry.command();
  try {
    return await run(words.slice(1), context);
  } catch (error) {
    if (!(error instanceof HelpWanted)) throw error;
    return printHelp(first, context);
  }
}

/** Only `-h`, `-V` and `-T` may stand before the command. */
async function globalOption(words: readonly string[], context: Context): Promise<number> {
  const [{ CommandLine }, { globalOptions }] = await Promise.all([
    import('./getopt.js'),
    import('./specs/program.js'),
  ]);
  const line = new CommandLine(globalOptions, words, { stopAtOperand: true });
  try {
    for (const { name } of line) {
      if (name === 'version') return printVersion(context);
    }
  } catch (error) {
    if (error instanceof HelpWanted) return printHelp(null, context);
    throw error;
  }
  return dispatch(line.positionals, context);
}

function printVersion({ out, program }: Context): number {
  const own = `qcow2 ${ownVersion()}`;
  out.write(program === 'qcow2' ? `${own}\n` : `qemu-img version ${followedVersion} (${own})\n`);
  return 0;
}

async function printHelp(command: string | null, { out, program }: Context): Promise<number> {
  const usage = await import('./usage.js');
  const entry = command === null ? undefined : commandEntry(command);
  out.write(
    entry === undefined
      ? usage.programHelp(program, await allSpecs())
      : usage.commandHelp(program, (await entry.spec()).spec),
  );
  return 0;
}

/** Tells the user what went wrong; returns the exit code. */
async function explain(error: unknown, { program, say, complain }: Context): Promise<number> {
  if (error instanceof BrokenPipe) return brokenPipeExitCode;
  if (error instanceof Failure) {
    for (const line of error.message.split('\n')) complain(line);
    if (error.hint !== null) say(`${error.hint}\n`);
    if (error instanceof UsageFailure) say(`Try '${program} --help' for more information\n`);
    return error.exitCode;
  }
  const { Interrupted } = await import('./interrupt.js');
  // Work that does not listen to signals may still be under way.
  if (error instanceof Interrupted) process.exit(error.exitCode);
  const { messageOf } = await import('./error-text.js');
  complain(messageOf(error));
  return 1;
}
