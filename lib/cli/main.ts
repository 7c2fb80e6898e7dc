#!/usr/bin/env node
/** The program: finds the command, loads what that one needs, and turns how it ends into messages and an exit code. */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { Command, Context } from './context.js';
import { BrokenPipe, brokenPipeExitCode, Failure, HelpWanted, UsageFailure } from './failure.js';
import { Output, say } from './output.js';

const commands: Readonly<Record<string, () => Promise<{ run: Command }>>> = {
  create: () => import('./commands/create.js'),
  info: () => import('./commands/info.js'),
  check: () => import('./commands/check.js'),
  map: () => import('./commands/map.js'),
  convert: () => import('./commands/convert.js'),
  resize: () => import('./commands/resize.js'),
  serve: () => import('./commands/serve.js'),
};

/** The version of qemu-img whose command line this one follows. */
const followedVersion = '7.2.0';

const program =
  basename(process.argv[1] ?? '').replace(/\.(js|exe)$/, '') === 'qemu-img' ? 'qemu-img' : 'qcow2';

async function main(words: readonly string[]): Promise<number> {
  const out = new Output();
  const complain = (message: string): void => say(`${program}: ${message}\n`);
  const context = { program, out, complain };
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
  const load = Object.hasOwn(commands, first) ? commands[first] : undefined;
  if (load === undefined) throw new UsageFailure(`Command not found: ${first}`);
  const { run } = await load();
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
    import('./options.js'),
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

function printVersion({ out }: Context): number {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(manifest) as { version: string };
  const own = `qcow2 ${version}`;
  out.write(program === 'qcow2' ? `${own}\n` : `qemu-img version ${followedVersion} (${own})\n`);
  return 0;
}

async function printHelp(command: string | null, { out }: Context): Promise<number> {
  const [usage, { commandSpecs }] = await Promise.all([import('./usage.js'), import('./options.js')]);
  const spec = commandSpecs.find(({ name }) => name === command);
  out.write(spec === undefined ? usage.programHelp(program, commandSpecs) : usage.commandHelp(program, spec));
  return 0;
}

/** Tells the user what went wrong; returns the exit code. */
async function explain(error: unknown, { complain }: Context): Promise<number> {
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

process.exitCode = await main(process.argv.slice(2));
