/** The options of `rehydrate`. */
import { help } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'rehydrate',
  summary: 'Make an image of what dehydrate wrote',
  operands: 'FILE OUTPUT',
  options: [help],
  examples: ['rehydrate broken.dry again.qcow2'],
} as const satisfies CommandSpec;
