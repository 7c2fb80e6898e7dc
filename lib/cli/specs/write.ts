/** The options of `write`. */
import { denyReferences, format, help, imageOpts, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'write',
  summary: 'Write standard input to a disk from an offset on',
  operands: 'FILE OFFSET',
  options: [format, imageOpts, denyReferences, object, help],
  examples: ['write disk.qcow2 0 < boot-sector.bin'],
} as const satisfies CommandSpec;
