/** The options of `dehydrate`. */
import { forceShare, help } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'dehydrate',
  summary: 'Write the structure of an image, for a report of a fault, without anything the guest wrote',
  operands: 'FILE OUTPUT',
  options: [
    { name: 'strings', help: 'keep names: of backing and data files, snapshots and bitmaps' },
    { name: 'bitmap-contents', help: 'keep the bits of bitmaps: where the guest wrote' },
    forceShare,
    help,
  ],
  examples: [
    'dehydrate broken.qcow2 broken.dry',
    'dehydrate broken.qcow2 - | ssh support "cat > broken.dry"',
  ],
} as const satisfies CommandSpec;
