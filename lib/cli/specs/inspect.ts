/** The options of `inspect`. */
import { forceShare, help } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'inspect',
  summary: 'Tell what is in an image that came from a stranger, and what is suspicious about it',
  operands: 'FILE',
  options: [forceShare, help],
  notes: ['Nothing but the file itself is opened. The exit code is 1 when something is suspicious.'],
  examples: ['inspect downloaded.qcow2'],
} as const satisfies CommandSpec;
