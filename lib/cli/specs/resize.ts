/** The options of `resize`. */
import { denyReferences, format, help, imageOpts, object, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'resize',
  summary: 'Change the size of a disk',
  operands: 'FILE [+|-]SIZE',
  options: [
    format,
    imageOpts,
    {
      name: 'preallocation',
      argument: 'MODE',
      help: 'space for what is added: off (default), metadata, falloc or full',
    },
    { name: 'shrink', help: 'allow the disk to become smaller, which loses what was at its end' },
    denyReferences,
    quiet,
    object,
    help,
  ],
  examples: ['resize disk.qcow2 +10G', 'resize --shrink disk.qcow2 5G'],
} as const satisfies CommandSpec;
