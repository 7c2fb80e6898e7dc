/** The options of `check`. */
import { format, imageOpts, looking, output, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'check',
  summary: 'Look for damage in an image, and repair it when told to',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    { name: 'cache', letters: 'T', argument: 'CACHE', help: 'accepted for compatibility' },
    {
      name: 'repair',
      letters: 'r',
      argument: 'WHAT',
      help: 'leaks: give lost space back; all: repair everything, at the risk of choosing wrongly',
    },
    output,
    quiet,
    ...looking,
  ],
  examples: ['check disk.qcow2', 'check -r leaks disk.qcow2'],
} as const satisfies CommandSpec;
