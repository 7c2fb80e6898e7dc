/** The options of `stream-encode`. */
import { compress, targetOptions } from './convert.js';
import { help, object } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'stream-encode',
  summary: 'Write a raw image to standard output as qcow2',
  operands: 'RAW',
  options: [compress, targetOptions, object, help],
  notes: [
    'The same as convert -f raw -O qcow2 RAW -, for pipes. Nothing is sought in the output, and no file is made on the way.',
  ],
  examples: ['stream-encode disk.raw | ssh host "cat > disk.qcow2"'],
} as const satisfies CommandSpec;
