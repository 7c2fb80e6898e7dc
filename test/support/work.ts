/** Carries out guest requests through this package on a disk and its model alike. */
import type { Qcow2 } from '../../lib/index.js';
import type { GuestRequest } from './guest-requests.js';
import { pattern } from './pattern.js';
import type { PlainDisk } from './plain-disk.js';

export async function perform(disk: Qcow2, model: PlainDisk, request: GuestRequest): Promise<void> {
  const { what, position, length, fill } = request;
  if (what === 'write' || what === 'compress') {
    const data = pattern(fill, length);
    if (what === 'compress') data.fill(fill, 0, Math.floor(length / 2));
    await disk.write(data, position, { compress: what === 'compress' });
    model.write(data, position);
  } else {
    await (what === 'zero' ? disk.writeZeroes(position, length) : disk.discard(position, length));
    model.zero(position, length);
  }
}
