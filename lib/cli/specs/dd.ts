/** The options of `dd`. */
import { format, imageOpts, looking } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'dd',
  summary: 'Copy a part of a disk, named as for dd(1)',
  operands: '[bs=SIZE] [count=N] [skip=N] if=FILE of=FILE',
  notes: [
    'bs is 512 unless given. As for qemu-img, count includes the blocks that are skipped: skip=5 count=10 copies five.',
  ],
  options: [
    format,
    imageOpts,
    { name: 'output-format', letters: 'O', argument: 'FMT', help: 'format of the new image (default: raw)' },
    ...looking,
  ],
  examples: ['dd -f qcow2 -O raw bs=1M count=1 if=disk.qcow2 of=first-megabyte.raw'],
} as const satisfies CommandSpec;
