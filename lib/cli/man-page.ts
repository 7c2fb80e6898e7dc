/** The manual page, made from the option tables. */
import type { OptionSpec } from './getopt.js';
import { globalOptions } from './specs/program.js';
import type { CommandSpec } from './specs/shared.js';

/** The page `qcow2(1)` in the man macros. */
export function manPage(version: string, commands: readonly CommandSpec[]): string {
  return (
    `.TH QCOW2 1 "" "qcow2 ${version}" "User Commands"\n` +
    '.SH NAME\nqcow2 \\- create, convert, examine and repair QCOW2 disk images\n' +
    '.SH SYNOPSIS\n.B qcow2\n.I COMMAND\n[\\fIoption\\fR ...] \\fIoperand\\fR ...\n' +
    '.SH DESCRIPTION\nCommands and options are those of\n.BR qemu-img (1);\n' +
    'called by that name through a link, the program takes its place.\n' +
    'Sizes are in bytes, or with a suffix k, M, G, T, P or E in powers of 1024.\n' +
    `.SH OPTIONS\n${globalOptions.map(optionEntry).join('')}` +
    `.SH COMMANDS\n${commands.map(commandEntry).join('')}` +
    '.SH SEE ALSO\n.BR qemu-img (1)\n'
  );
}

function commandEntry({ name, summary, operands, options, notes = [], examples }: CommandSpec): string {
  return (
    `.SS qcow2 ${escaped(`${name} [options] ${operands}`)}\n${escaped(summary)}.\n` +
    notes.map((note) => `.PP\n${escaped(note)}\n`).join('') +
    options.map(optionEntry).join('') +
    `.PP\nExamples:\n.nf\n${examples.map((example) => `.RS\nqcow2 ${escaped(example)}\n.RE\n`).join('')}.fi\n`
  );
}

function optionEntry({ name, letters = '', argument, help }: OptionSpec): string {
  const words = [...Array.from(letters, (letter) => `-${letter}`), `--${name}`];
  const value = argument === undefined ? '' : ` \\fI${escaped(argument)}\\fR`;
  return `.TP\n${words.map((word) => `\\fB${escaped(word)}\\fR`).join(', ')}${value}\n${escaped(help)}\n`;
}

/** Text as troff takes it: backslashes and dashes are its own, as are dots and quotes at the start of a line. */
function escaped(text: string): string {
  return text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/^[.']/, '\\&$&');
}
