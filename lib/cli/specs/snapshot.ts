/** The options of `snapshot`. */
import { format, imageOpts, looking, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'snapshot',
  summary: 'List, make, apply and delete snapshots inside an image',
  operands: 'FILE',
  options: [
    format,
    { name: 'list', letters: 'l', help: 'list the snapshots' },
    { name: 'create', letters: 'c', argument: 'NAME', help: 'keep the disk as it is now' },
    {
      name: 'apply',
      letters: 'a',
      argument: 'SNAPSHOT',
      help: 'make the disk what it was (id or name); what was written since is lost',
    },
    { name: 'delete', letters: 'd', argument: 'NAME', help: 'delete a snapshot' },
    imageOpts,
    quiet,
    ...looking,
  ],
  examples: ['snapshot -c before-upgrade disk.qcow2', 'snapshot -l disk.qcow2'],
} as const satisfies CommandSpec;
