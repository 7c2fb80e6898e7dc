/** The options of `man`. */
import { help } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'man',
  summary: 'Print the manual page',
  operands: '',
  options: [help],
  examples: ['man | man -l -', 'man > /usr/local/share/man/man1/qcow2.1'],
} as const satisfies CommandSpec;
