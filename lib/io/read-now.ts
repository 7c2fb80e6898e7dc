/** A guest read that is over when it returns, or does not happen: for callers that have no use for a promise. */
import type { Disk } from '../disk.js';
import type { GuestOffset, HostOffset } from '../format/units.js';
import { invalidRun } from '../metadata/run.js';
import { RunKind } from '../native.js';
import { readAtOnce } from './at-once.js';
import type { GuestImage } from './guest-image.js';
import { checkPlace, partBelow } from './read.js';

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
    if (missing === 0 && !readRunNow(guest, part, kind, start, host, aux)) missing += 1;
  });
  return missing === 0 && reached === end;
}

/** Whether data can be had without waiting: it is not encrypted, and where it is there is a memory to look into. */
function hasDataAtHand({ cipher, image }: GuestImage): boolean {
  return cipher === null && image.dataStorage.readCached !== undefined;
}

function readRunNow(
  guest: GuestImage,
  part: Uint8Array,
  kind: RunKind,
  start: GuestOffset,
  host: HostOffset,
  aux: number,
): boolean {
  switch (kind) {
    case RunKind.data:
      checkPlace(guest, start, host, part.length);
      return readAtOnce(guest.image.dataStorage, part, host);
    case RunKind.zero:
    case RunKind.zeroAllocated:
      part.fill(0);
      return true;
    case RunKind.unallocated:
    case RunKind.unallocatedInCluster:
      return readBelowNow(guest.backing, part, start);
    case RunKind.compressed:
      return false;
    case RunKind.invalid:
      throw invalidRun(start, aux);
  }
}

function readBelowNow(
  backing: Pick<Disk, 'size' | 'readNow'> | null,
  part: Uint8Array,
  start: GuestOffset,
): boolean {
  const there = partBelow(backing?.size ?? 0, part, start);
  return there.length === 0 || backing?.readNow?.(there, start) === true;
}
