/** The options of `compact`. */
import { denyReferences, help, imageOpts, object, output, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'compact',
  summary: 'Make an image file as small as it can be',
  operands: 'FILE',
  options: [
    { name: 'detect-zeroes', letters: 'z', help: 'drop clusters that hold nothing but zeros, too' },
    { name: 'sort', letters: 's', help: 'put the clusters of the disk in the order of the disk, too' },
    progress,
    imageOpts,
    denyReferences,
    output,
    quiet,
    object,
    help,
  ],
  examples: ['compact disk.qcow2', 'compact -p --detect-zeroes disk.qcow2'],
} as const satisfies CommandSpec;
