/** The options of `decode`. */
import { denyReferences, forceShare, help, object, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'decode',
  summary: 'Make a raw image of a qcow2 one',
  operands: 'QCOW2 RAW',
  options: [progress, quiet, forceShare, denyReferences, object, help],
  notes: ['The same as convert -f qcow2 -O raw.'],
  examples: ['decode disk.qcow2 disk.raw'],
} as const satisfies CommandSpec;
