/** The options of `sha`. */
import { format, imageOpts, looking } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'sha',
  summary: 'Print a hash of what a disk shows its guest, the same whatever the image is like',
  operands: 'FILE',
  options: [
    {
      name: 'algorithm',
      letters: 'a',
      argument: 'NAME',
      help: 'sha256 (default) or any other that OpenSSL has',
    },
    format,
    imageOpts,
    ...looking,
  ],
  examples: ['sha disk.qcow2', 'sha -a sha512 backup.qcow2'],
} as const satisfies CommandSpec;
