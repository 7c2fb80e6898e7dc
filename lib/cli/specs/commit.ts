/** The options of `commit`. */
import { denyReferences, format, help, imageOpts, object, progress, quiet, rateLimit } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'commit',
  summary: 'Write what an image holds into its backing file',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    {
      name: 'base',
      letters: 'b',
      argument: 'BASE',
      help: 'the file to write to, anywhere down the backing chain (default: the one right below); implies -d',
    },
    { name: 'drop', letters: 'd', help: 'do not empty the image afterwards: it is to be deleted' },
    {
      name: 'cache',
      letters: 't',
      argument: 'CACHE',
      help: 'accepted for compatibility: what was committed is on the disk when the command ends',
    },
    rateLimit,
    progress,
    quiet,
    object,
    denyReferences,
    help,
  ],
  examples: ['commit overlay.qcow2', 'commit -p -d overlay.qcow2 && rm overlay.qcow2'],
} as const satisfies CommandSpec;
