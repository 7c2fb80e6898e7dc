/** The options of `hash`. */
import { format, imageOpts, looking, output, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'hash',
  summary: 'Print the hash of each block of a disk, or verify a disk by such a list',
  operands: 'FILE',
  options: [
    {
      name: 'algorithm',
      letters: 'a',
      argument: 'NAME',
      help: 'sha256 (default), or xxh64, which is faster and finds damage, but no forgery',
    },
    {
      name: 'block-size',
      letters: 'b',
      argument: 'SIZE',
      help: 'bytes of a block, a multiple of 512 up to 64M (default: 4M)',
    },
    {
      name: 'verify',
      argument: 'LIST',
      help: 'print the blocks that are not as LIST says, which hash --output=json has made before',
    },
    format,
    imageOpts,
    output,
    progress,
    quiet,
    ...looking,
  ],
  notes: [
    'Each line has the first byte of a block and its hash, the last one the hash of the whole. ' +
      'With --verify the exit code is 1 when a block differs.',
  ],
  examples: ['hash --output=json disk.qcow2 > disk.hashes', 'hash --verify disk.hashes restored.qcow2'],
} as const satisfies CommandSpec;
