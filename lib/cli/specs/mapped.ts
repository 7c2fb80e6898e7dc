/** The options of `mapped`. */
import { denyReferences, forceShare, format, help, imageOpts, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'mapped',
  summary: 'List the ranges of a disk that hold data: offset and length in bytes',
  operands: 'FILE',
  options: [format, imageOpts, forceShare, denyReferences, object, help],
  examples: ['mapped disk.qcow2'],
} as const satisfies CommandSpec;
