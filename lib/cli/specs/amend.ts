/** The options of `amend`. */
import { denyReferences, format, help, imageOpts, object, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'amend',
  summary: 'Change what kind of image an image is, and its keys',
  operands: 'FILE',
  options: [
    {
      name: 'options',
      letters: 'o',
      argument: 'NAME=VALUE,...',
      help: 'what to change; -o help lists what there is',
    },
    format,
    imageOpts,
    { name: 'cache', letters: 't', argument: 'CACHE', help: 'accepted for compatibility' },
    { name: 'force', help: 'allow to destroy the last key: nothing can read the image then' },
    progress,
    quiet,
    denyReferences,
    object,
    help,
  ],
  examples: ['amend -o compat=1.1,lazy_refcounts=on disk.qcow2', 'amend -f qcow2 -o help'],
} as const satisfies CommandSpec;
