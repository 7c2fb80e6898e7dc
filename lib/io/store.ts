/** Puts guest bytes into their place in the file, encrypted where the image is. */
import { alignUp, type GuestOffset, type HostOffset } from '../format/units.js';
import { writeAll } from '../storage/storage.js';
import { cryptSectorSize } from './encryption/crypt-sector.js';
import type { GuestImage } from './guest-image.js';

/**
 * Writes buffers one behind the other. With encryption `start` and the length of all together must be multiples of 512
 * bytes. The buffers are not changed.
 */
export async function storeData(
  guest: GuestImage,
  buffers: readonly Uint8Array[],
  start: GuestOffset,
  host: HostOffset,
): Promise<void> {
  const { dataStorage, committer } = guest.image;
  const bytes = guest.cipher === null ? buffers : [encrypted(guest.cipher, buffers, start, host)];
  committer.dataWritten();
  await writeAll(dataStorage, bytes, host);
  // A commit that ran meanwhile may have been too early for these bytes.
  committer.dataWritten();
}

/** Whether bytes [start, start + length) can be stored as they are, without the rest of an encrypted sector. */
export function isStorable(guest: GuestImage, start: number, length: number): boolean {
  return guest.cipher === null || (start % cryptSectorSize === 0 && length % cryptSectorSize === 0);
}

function encrypted(
  { cipher, sectors }: NonNullable<GuestImage['cipher']>,
  buffers: readonly Uint8Array[],
  start: GuestOffset,
  host: HostOffset,
): Uint8Array {
  const length = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
  const joined = new Uint8Array(alignUp(length, cryptSectorSize));
  let at = 0;
  for (const buffer of buffers) {
    joined.set(buffer, at);
    at += buffer.length;
  }
  cipher.encrypt(joined, (sectors === 'host' ? host : start) / cryptSectorSize);
  return joined;
}
