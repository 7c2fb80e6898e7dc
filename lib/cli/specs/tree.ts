/** The options of `tree`. */
import { forceShare, format, help, imageOpts, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'tree',
  summary: 'Draw the backing chain of an image',
  operands: 'FILE',
  options: [format, imageOpts, forceShare, object, help],
  examples: ['tree overlay.qcow2'],
} as const satisfies CommandSpec;
