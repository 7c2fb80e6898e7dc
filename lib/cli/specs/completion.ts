/** The options of `completion`. */
import { help } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'completion',
  summary: 'Print a script that makes a shell complete commands and options',
  operands: 'bash|zsh|fish',
  options: [help],
  examples: ['completion bash > /etc/bash_completion.d/qcow2'],
} as const satisfies CommandSpec;
