/** The options of `discard`. */
import { denyReferences, format, help, imageOpts, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'discard',
  summary: 'Make a range of a disk read as zeros and give its space back',
  operands: 'FILE OFFSET LENGTH',
  options: [format, imageOpts, denyReferences, object, help],
  examples: ['discard disk.qcow2 1G 512M'],
} as const satisfies CommandSpec;
