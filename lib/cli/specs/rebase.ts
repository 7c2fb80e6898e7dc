/** The options of `rebase`. */
import { forceShare, format, help, imageOpts, object, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'rebase',
  summary: 'Put an image on another backing file, or on none',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    {
      name: 'backing',
      letters: 'b',
      argument: 'FILE',
      help: "the new backing file, as it is to be named in the image; '' for none",
    },
    {
      name: 'backing-format',
      letters: 'FB',
      argument: 'FMT',
      help: 'format of the new backing file, qcow2 or raw',
    },
    {
      name: 'backing-unsafe',
      letters: 'u',
      help: 'change only the name: the disk is another one unless the files have the same content',
    },
    { name: 'compress', letters: 'c', help: 'compress the clusters that have to be copied' },
    { name: 'cache', letters: 't', argument: 'CACHE', help: 'accepted for compatibility' },
    { name: 'backing-cache', letters: 'T', argument: 'CACHE', help: 'accepted for compatibility' },
    forceShare,
    progress,
    quiet,
    object,
    help,
  ],
  examples: ['rebase -b base.qcow2 -F qcow2 overlay.qcow2', "rebase -b '' overlay.qcow2"],
} as const satisfies CommandSpec;
