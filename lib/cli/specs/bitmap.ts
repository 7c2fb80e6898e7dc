/** The options of `bitmap`. */
import { format, help, imageOpts, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'bitmap',
  summary: 'Make, change and remove persistent bitmaps; several actions are done in their order',
  operands: 'FILE BITMAP',
  options: [
    { name: 'add', help: 'make the bitmap' },
    { name: 'remove', help: 'remove the bitmap' },
    { name: 'clear', help: 'let it say that nothing has changed' },
    { name: 'enable', help: 'let it record changes' },
    { name: 'disable', help: 'stop it from recording changes' },
    { name: 'merge', argument: 'SOURCE', help: 'add what the bitmap SOURCE has recorded' },
    {
      name: 'granularity',
      letters: 'g',
      argument: 'SIZE',
      help: 'bytes that one bit stands for, with --add: 512 to 2G (default: the cluster size, within 4k to 64k)',
    },
    {
      name: 'source-file',
      letters: 'b',
      argument: 'FILE',
      help: 'the image that has the bitmaps for --merge',
    },
    { name: 'source-format', letters: 'F', argument: 'FMT', help: 'format of that image' },
    format,
    imageOpts,
    object,
    help,
  ],
  examples: ['bitmap --add disk.qcow2 backup-1', 'bitmap --add --disable --merge backup-1 disk.qcow2 sum'],
} as const satisfies CommandSpec;
