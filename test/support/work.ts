/** Carries out guest requests through this package on a disk and its model alike. */
import { open, type Qcow2 } from '../../lib/index.js';
import { guestRequests, type GuestRequest } from './guest-requests.js';
import { makeImage, type ImageKind, type MadeImage } from './image-kinds.js';
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

/** Makes an image of a kind, opens it, and carries out requests drawn from a seed. */
export async function openWorkedOn(
  kind: ImageKind,
  path: (name: string) => string,
  seed: number,
): Promise<{ made: MadeImage; disk: Qcow2 }> {
  const { size, clusterSize, compress } = kind;
  const made = await makeImage(kind, path);
  const disk = await open(made.path, made.open);
  for (const request of guestRequests(seed, size, clusterSize, { unit: 512, compress })) {
    await perform(disk, made.model, request);
  }
  return { made, disk };
}
