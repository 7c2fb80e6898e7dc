/** The options of `create`. */
import { backingFormat, help, object, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'create',
  summary: 'Make a new image',
  operands: 'FILE [SIZE]',
  options: [
    { name: 'format', letters: 'f', argument: 'FMT', help: 'format of the new image (default: raw)' },
    {
      name: 'options',
      letters: 'o',
      argument: 'NAME=VALUE,...',
      help: 'options of the format; -o help lists them',
    },
    { name: 'backing', letters: 'b', argument: 'FILE', help: 'what the image shows until it is written to' },
    { name: 'backing-format', letters: 'FB', ...backingFormat },
    { name: 'backing-unsafe', letters: 'u', help: 'do not look at the backing file' },
    quiet,
    object,
    help,
  ],
  examples: ['create -f qcow2 disk.qcow2 20G', 'create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2'],
} as const satisfies CommandSpec;
