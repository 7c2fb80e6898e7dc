/** Finds the command, loads what that one needs, and turns how it ends into messages and an exit code. */
import { visible } from '../format/text.js';
import type { Context } from './context.js';
import { BrokenPipe, brokenPipeExitCode, Failure, HelpWanted, tell, UsageFailure } from './failure.js';
import { Output } from './output.js';
import type { Sink } from './output.js';
import { allSpecs, commandEntry, registry } from './registry.js';
import { coloured, takesColour, Terminal } from './terminal.js';
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
  // Who calls for qemu-img gets what qemu-img would print.
  const isOwn = program !== 'qemu-img';
  const out = new Output(stdout, isOwn && takesColour(stdout));
  const terminal = isOwn && stderr.isTerminal ? new Terminal(stderr) : null;
  const print = (text: string): void => {
    terminal?.clear();
    try {
      stderr.write(Buffer.from(text));
    } catch {
      // When standard error is closed there is nobody to tell.
    }
  };
  const name = isOwn && takesColour(stderr) ? coloured('error', `${program}:`) : `${program}:`;
  const context: Context = {
    program,
    out,
    terminal,
    say: (line) => print(`${visible(line)}\n`),
    complain: (message) => print(`${name} ${visible(message)}\n`),
  };
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
      ? usage.programHelp(program, await allSpecs(), out)
      : usage.commandHelp(program, (await entry.spec()).spec, out),
  );
  return 0;
}

/** Tells the user what went wrong; returns the exit code. */
async function explain(error: unknown, context: Context): Promise<number> {
  const { program, say, complain } = context;
  if (error instanceof BrokenPipe) return brokenPipeExitCode;
  if (error instanceof Failure) {
    tell(error, context);
    if (error instanceof UsageFailure) say(`Try '${program} --help' for more information`);
    return error.exitCode;
  }
  // Without the addon nothing loads that needs the library, and that has the words for all else.
  if (error instanceof Error && 'code' in error && error.code === 'ERR_QCOW2_NATIVE') {
    complain(error.message);
    return 1;
  }
  const { Interrupted } = await import('./interrupt.js');
  if (error instanceof Interrupted) {
    error.die();
    return 1;
  }
  const { messageOf } = await import('./error-text.js');
  complain(messageOf(error));
  return 1;
}
