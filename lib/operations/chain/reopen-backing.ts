/** Opens the backing file of an open image again, for writing or back for reading only. */
import type { Readable } from 'node:stream';
import type { Disk, Extent, WritableDisk } from '../../disk.js';
import { Qcow2Error } from '../../errors.js';
import type { GuestImage } from '../../io/guest-image.js';
import type { Below, Opened } from '../../open.js';

/** A disk that a job may write to and make larger. */
export interface GrowableDisk extends WritableDisk {
  resize(size: number): Promise<void>;
}

export type OpenBelow = (below: Below, mode: 'r' | 'r+') => Promise<GrowableDisk>;

/**
 * Closes the disk that `image` stands on and opens it in another mode: it cannot be open twice, because of its locks.
 * Reads of `top`, which is `image` or stands on it, wait meanwhile. When it cannot be opened for writing it is opened
 * for reading again; when that fails, too, all that shows through from it can no longer be read.
 */
export async function reopenBacking(
  top: GuestImage,
  image: Opened,
  mode: 'r' | 'r+',
  open: OpenBelow,
): Promise<GrowableDisk> {
  const { below, guest } = image;
  const old = guest.backing;
  if (below === null || old === null) throw new Error('there is no backing file to be opened again');
  const unlock = await top.locks.exclusive(0, Infinity);
  try {
    await old.close();
    try {
      const disk = await open(below, mode);
      replaceBacking(image, disk, below);
      return disk;
    } catch (error) {
      const again =
        mode === 'r' ? lost(old.size, error) : await open(below, 'r').catch(() => lost(old.size, error));
      replaceBacking(image, again, below);
      throw error;
    }
  } finally {
    unlock();
  }
}

/** Puts another disk below an image, which owns it from then on. The one before is forgotten, not closed. */
export function replaceBacking(image: Opened, disk: Disk | null, below: Below | null): void {
  const { guest, owned } = image;
  const index = owned.findIndex((closable) => closable === guest.backing);
  if (index >= 0) owned.splice(index, 1);
  if (disk !== null) owned.push(disk);
  guest.backing = disk;
  image.below = below;
}

/** Stands for a disk that could not be opened again: everything fails but closing. */
function lost(size: number, cause: unknown): Disk {
  const error = new Qcow2Error(
    'ERR_QCOW2_REFERENCE',
    'The backing file was to be opened again and could not; close this image and open it anew',
    { feature: 'backing file', cause },
  );
  const fail = (): Promise<never> => Promise.reject(error);
  return {
    size,
    read: fail,
    extents: (): AsyncIterable<Extent> => ({ [Symbol.asyncIterator]: () => ({ next: fail }) }),
    nextData: fail,
    nextHole: fail,
    createReadStream: (): Readable => {
      throw error;
    },
    close: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
