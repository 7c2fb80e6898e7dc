/** What stands before the command. */
import type { OptionSpec } from '../getopt.js';
import { help } from './shared.js';

export const globalOptions = [
  help,
  { name: 'version', letters: 'V', help: 'print the version and exit' },
  { name: 'trace', letters: 'T', argument: 'SPEC', help: 'accepted for compatibility' },
] as const satisfies readonly OptionSpec[];
