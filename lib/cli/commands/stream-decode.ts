/** `stream-decode`: makes a raw image of a qcow2 one that comes through standard input. */
import { conversion } from '../conversion.js';
import { spec } from '../specs/stream-decode.js';
import { standardStream } from '../standard-streams.js';

export const run = conversion(spec, {
  from: 'qcow2',
  to: 'raw',
  files: (operands) => [standardStream, ...operands],
});
