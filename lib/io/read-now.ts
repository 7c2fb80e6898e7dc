/** A guest read that is over when it returns, or does not happen: for callers that have no use for a promise. */
import type { GuestOffset } from '../format/units.js';
import { readAtOnce } from './at-once.js';
import type { GuestImage } from './guest-image.js';
import { readRun, type RunReader } from './read.js';

/** Says whether it was possible. */
const atHand: RunReader<boolean> = {
  done: true,
  data: ({ image }, part, _start, host) => readAtOnce(image.dataStorage, part, host),
  below: (backing, part, start) => backing.readNow?.(part, start) === true,
  compressed: () => false,
};

/**
 * Fills `buffer` with guest bytes from `position` on if tables and data are in memory, the system's or this image's own; false
 * when not, or when the range is being changed.
 * @throws as a read of damaged tables does
 */
export function readGuestNow(guest: GuestImage, buffer: Uint8Array, position: GuestOffset): boolean {
  const end = position + buffer.length;
  if (!hasDataAtHand(guest) || !guest.locks.isShareable(position, end)) return false;
  let missing = 0;
  const reached = guest.image.mapping.visitCached(position, end, false, (kind, start, length, host, aux) => {
    const part = buffer.subarray(start - position, start - position + length);
    if (missing === 0 && !readRun(atHand, guest, part, kind, start, host, aux)) missing += 1;
  });
  return missing === 0 && reached === end;
}

/** Whether data can be had without waiting: it is not encrypted, and where it is there is a memory to look into. */
function hasDataAtHand({ cipher, image }: GuestImage): boolean {
  return cipher === null && image.dataStorage.readCached !== undefined;
}
