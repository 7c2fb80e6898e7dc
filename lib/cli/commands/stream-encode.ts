/** `stream-encode`: writes a raw image to standard output as qcow2. */
import { conversion } from '../conversion.js';
import { spec } from '../specs/stream-encode.js';
import { standardStream } from '../standard-streams.js';

export const run = conversion(spec, {
  from: 'raw',
  to: 'qcow2',
  files: (operands) => [...operands, standardStream],
});
