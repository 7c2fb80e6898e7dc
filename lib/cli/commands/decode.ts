/** `decode`: makes a raw image of a qcow2 one. */
import { conversion } from '../conversion.js';
import { spec } from '../specs/decode.js';

export const run = conversion(spec, { from: 'qcow2', to: 'raw', files: (operands) => operands });
