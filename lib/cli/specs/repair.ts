/** The options of `repair`. */
import { help, imageOpts, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'repair',
  summary: 'Repair all that is wrong with the tables of an image',
  operands: 'FILE',
  options: [imageOpts, object, help],
  notes: ['The same as check -r all. Keep a copy: a repair has to choose, and may choose wrongly.'],
  examples: ['repair disk.qcow2'],
} as const satisfies CommandSpec;
