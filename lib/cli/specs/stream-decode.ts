/** The options of `stream-decode`. */
import { help, object, progress, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'stream-decode',
  summary: 'Make a raw image of the qcow2 one on standard input',
  operands: 'RAW',
  options: [progress, quiet, object, help],
  notes: ['The same as convert -f qcow2 -O raw - RAW, for pipes, whatever the layout of the image.'],
  examples: ['stream-decode disk.raw < disk.qcow2'],
} as const satisfies CommandSpec;
