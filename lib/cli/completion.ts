/** Completion scripts for shells, made from the option tables. */
import type { OptionSpec } from './getopt.js';
import type { CommandSpec } from './specs/shared.js';

export const shells = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof shells)[number];

/** The script that makes a shell complete commands, options and file names. */
export function completionScript(shell: Shell, commands: readonly CommandSpec[]): string {
  switch (shell) {
    case 'bash':
      return bash(commands);
    case 'zsh':
      return zsh(commands);
    case 'fish':
      return fish(commands);
  }
}

/** All ways to write an option. */
function wordsOf({ name, letters = '' }: OptionSpec): string[] {
  return [...Array.from(letters, (letter) => `-${letter}`), `--${name}`];
}

function bash(commands: readonly CommandSpec[]): string {
  const cases = commands
    .map(({ name, options }) => `    ${name}) options='${options.flatMap(wordsOf).join(' ')}' ;;\n`)
    .join('');
  return (
    '# bash completion for qcow2: source it, or put it into /etc/bash_completion.d\n' +
    '_qcow2() {\n' +
    '  local word=${COMP_WORDS[COMP_CWORD]} options=\n' +
    '  if [ "$COMP_CWORD" -eq 1 ]; then\n' +
    `    COMPREPLY=($(compgen -W '${commands.map(({ name }) => name).join(' ')} --help --version' -- "$word"))\n` +
    '    return\n' +
    '  fi\n' +
    '  case ${COMP_WORDS[1]} in\n' +
    cases +
    '  esac\n' +
    '  case $word in\n' +
    '    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;\n' +
    '    *) COMPREPLY=($(compgen -f -- "$word")) ;;\n' +
    '  esac\n' +
    '}\n' +
    'complete -o filenames -F _qcow2 qcow2\n'
  );
}

function zsh(commands: readonly CommandSpec[]): string {
  const names = commands.map(({ name, summary }) => `    ${quoted(`${name}:${summary}`)}\n`).join('');
  const cases = commands
    .map(({ name, options }) => {
      const lines = options.flatMap((option) =>
        wordsOf(option).map((word) => `${quoted(zshOption(word, option))} `),
      );
      return `    ${name}) _arguments -s ${lines.join('')}'*:file:_files' ;;\n`;
    })
    .join('');
  return (
    '#compdef qcow2\n' +
    '# zsh completion for qcow2: put it as _qcow2 into a directory of $fpath\n' +
    '_qcow2() {\n' +
    '  local -a commands\n' +
    `  commands=(\n${names}  )\n` +
    '  if (( CURRENT == 2 )); then\n' +
    "    _describe 'command' commands\n" +
    '    return\n' +
    '  fi\n' +
    '  shift words; (( CURRENT-- ))\n' +
    '  case $words[1] in\n' +
    cases +
    '  esac\n' +
    '}\n' +
    '_qcow2 "$@"\n'
  );
}

/** As `_arguments` takes it; brackets and colons would end the description. */
function zshOption(word: string, { help, argument }: OptionSpec): string {
  const text = help.replaceAll(/[[\]\\:]/g, '\\$&');
  if (argument === undefined) return `*${word}[${text}]`;
  const isFile = argument === 'FILE' || argument === 'PATH';
  return `*${word}${word.startsWith('--') ? '=' : '+'}[${text}]:${argument.replaceAll(':', '\\:')}:${isFile ? '_files' : ''}`;
}

function fish(commands: readonly CommandSpec[]): string {
  const lines = commands.flatMap(({ name, summary, options }) => [
    `complete -c qcow2 -n __fish_use_subcommand -f -a ${name} -d ${quoted(summary)}\n`,
    ...options.map((option) => fishOption(name, option)),
  ]);
  return `# fish completion for qcow2: put it into ~/.config/fish/completions/qcow2.fish\n${lines.join('')}`;
}

function fishOption(command: string, { name, letters = '', argument, help }: OptionSpec): string {
  const short = Array.from(letters, (letter) => ` -s ${letter}`).join('');
  const takes = argument === undefined ? '' : ' -r';
  return (
    `complete -c qcow2 -n '__fish_seen_subcommand_from ${command}' -l ${name}${short}${takes} ` +
    `-d ${quoted(help)}\n`
  );
}

/** In single quotes, as all three shells read them. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
