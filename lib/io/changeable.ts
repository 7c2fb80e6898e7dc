/** Which images may be changed, and what stands in the way. */
import { Qcow2Error } from '../errors.js';
import { hasFeature } from '../format/features.js';
import type { Image } from '../metadata/image.js';
import type { GuestImage } from './guest-image.js';

/** Refuses what changes guest data. */
export function assertWritable({ image, backing }: GuestImage): void {
  assertChangeable(image);
  if (image.header.backingFile !== null && backing === null) {
    throw new Qcow2Error(
      'ERR_QCOW2_REFERENCE',
      `${image.storage.name} was opened without its backing file: read-only`,
      { feature: 'backing file' },
    );
  }
}

/** Refuses what changes the image. */
export function assertChangeable(image: Image): void {
  if (!image.writable) {
    throw new Qcow2Error(
      'ERR_QCOW2_READ_ONLY',
      `${image.storage.name} is open read-only; open it with the mode 'r+'`,
    );
  }
  if (hasFeature(image.header, 'corrupt')) {
    throw new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      `${image.storage.name} is marked corrupt; repair it before writing`,
      { feature: 'corrupt bit' },
    );
  }
  if (image.needsRepair) {
    throw new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      `The refcounts of ${image.storage.name} are not right; repair it before writing (check with repair: 'all')`,
      { feature: 'refcounts' },
    );
  }
}
