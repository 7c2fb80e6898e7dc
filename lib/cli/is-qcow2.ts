/** Telling qcow2 images from raw ones once they are open. */
import { Qcow2 } from '../index.js';
import type { Disk } from '../index.js';

export function isQcow2(disk: Disk): disk is Qcow2 {
  return disk instanceof Qcow2;
}
