/** The options of `compare`. */
import { format, imageOpts, looking, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'compare',
  summary: 'Tell whether two images show the same disk',
  operands: 'FILE1 FILE2',
  options: [
    {
      ...format,
      name: 'a-format',
      help: 'format of the first image, qcow2 or raw (default: found by looking at it)',
    },
    { ...format, name: 'b-format', letters: 'F', help: 'the same for the second image' },
    { name: 'cache', letters: 'T', argument: 'CACHE', help: 'accepted for compatibility' },
    { name: 'strict', letters: 's', help: 'sizes and what is stored must be the same, too' },
    progress,
    quiet,
    imageOpts,
    ...looking,
  ],
  examples: ['compare a.qcow2 b.raw', 'compare -q -f raw -F qcow2 disk.raw disk.qcow2 && echo same'],
} as const satisfies CommandSpec;
