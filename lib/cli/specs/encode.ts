/** The options of `encode`. */
import { compress, targetOptions } from './convert.js';
import { help, object, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'encode',
  summary: 'Make a qcow2 image of a raw one',
  operands: 'RAW QCOW2',
  options: [compress, targetOptions, progress, quiet, object, help],
  notes: ['The same as convert -f raw -O qcow2.'],
  examples: ['encode disk.raw disk.qcow2', 'encode -c disk.raw disk.qcow2'],
} as const satisfies CommandSpec;
