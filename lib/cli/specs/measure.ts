/** The options of `measure`. */
import { format, imageOpts, looking, output, snapshotChoice } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'measure',
  summary: 'Tell how large an image of a disk will be',
  operands: '[FILE]',
  options: [
    { ...format, aliases: ['source-format'] },
    { ...imageOpts, aliases: ['source-image-opts'] },
    { name: 'target-format', letters: 'O', argument: 'FMT', help: 'format of the new image (default: raw)' },
    {
      name: 'target-format-options',
      aliases: ['options'],
      letters: 'o',
      argument: 'NAME=VALUE,...',
      help: 'options of the new image, as for create',
    },
    {
      name: 'size',
      letters: 's',
      argument: 'SIZE',
      help: 'measure an empty disk of this size instead of a file',
    },
    snapshotChoice,
    output,
    ...looking,
  ],
  examples: ['measure -O qcow2 disk.raw', 'measure --output=json -O qcow2 --size 10G'],
} as const satisfies CommandSpec;
