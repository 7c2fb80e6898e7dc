/** Help texts, made from the option tables. */
import type { OptionSpec } from './getopt.js';
import type { Output } from './output.js';
import { globalOptions } from './specs/program.js';
import type { CommandSpec } from './specs/shared.js';

/** The help of the program. */
export function programHelp(program: string, commands: readonly CommandSpec[], out: Output): string {
  const names = commands.map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}\n`).join('');
  return (
    `usage: ${program} [standard options] command [command options]\n` +
    `Creates, converts and examines QCOW2 and raw disk images.\n\n` +
    `${out.styled('bold', 'Standard options:')}\n${optionLines(globalOptions)}\n` +
    `${out.styled('bold', 'Commands:')}\n${names}\n` +
    `'${program} COMMAND --help' tells about a command.\n\n` +
    'Sizes are in bytes, or with a suffix k, M, G, T, P or E in powers of 1024: 1.5G\n\n' +
    'Supported formats: qcow2 raw\n'
  );
}

/** The help of one command. */
export function commandHelp(program: string, command: CommandSpec, out: Output): string {
  const examples = command.examples.map((example) => `  ${program} ${example}\n`).join('');
  const notes = (command.notes ?? []).map((note) => `\n${note}\n`).join('');
  return (
    `usage: ${program} ${command.name} [options] ${command.operands}\n${command.summary}.\n${notes}\n` +
    `${out.styled('bold', 'Options:')}\n${optionLines(command.options)}\n${out.styled('bold', 'Examples:')}\n${examples}`
  );
}

function optionLines(options: readonly OptionSpec[]): string {
  return options.map((option) => `  ${heading(option)}\n      ${option.help}\n`).join('');
}

function heading({ name, letters = '', argument }: OptionSpec): string {
  const value = argument === undefined ? '' : ` ${argument}`;
  return [...Array.from(letters, (letter) => `-${letter}`), `--${name}`].join(', ') + value;
}
