/** The options of `sha`. */
import { denyReferences, forceShare, format, help, imageOpts, object } from './shared.js';
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
    forceShare,
    denyReferences,
    object,
    help,
  ],
  examples: ['sha disk.qcow2', 'sha -a sha512 backup.qcow2'],
} as const satisfies CommandSpec;
