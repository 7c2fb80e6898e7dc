/** `encode`: makes a qcow2 image of a raw one. */
import { conversion } from '../conversion.js';
import { spec } from '../specs/encode.js';

export const run = conversion(spec, { from: 'raw', to: 'qcow2', files: (operands) => operands });
