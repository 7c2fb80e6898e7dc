/** The options of `read`. */
import { denyReferences, forceShare, format, help, imageOpts, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'read',
  summary: 'Write a range of a disk to standard output',
  operands: 'FILE OFFSET LENGTH',
  options: [format, imageOpts, forceShare, denyReferences, object, help],
  examples: ['read disk.qcow2 0 512 | xxd'],
} as const satisfies CommandSpec;
