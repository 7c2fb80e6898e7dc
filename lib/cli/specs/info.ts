/** The options of `info`. */
import { format, imageOpts, looking, output } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'info',
  summary: 'Tell what an image is',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    { name: 'backing-chain', help: 'tell about its backing files, too' },
    output,
    ...looking,
  ],
  examples: ['info disk.qcow2', 'info --backing-chain --output=json overlay.qcow2'],
} as const satisfies CommandSpec;
