/** Jobs that rely on all references of an image being right refuse one in which they are not. */
import { Qcow2Error } from '../../errors.js';
import type { GuestImage } from '../../io/guest-image.js';
import { checkGuest } from '../repair.js';

/**
 * Checks an image, and gives back how many clusters leak.
 * @param purpose what is to be done with it: `it is compacted`
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when anything but leaks is found; the signal's reason
 */
export async function requireSound(
  guest: GuestImage,
  purpose: string,
  signal: AbortSignal | undefined,
): Promise<number> {
  const options = { maxFindings: 1, ...(signal === undefined ? {} : { signal }) };
  const { corruptions, checkErrors, leaks, findings } = await checkGuest(guest, options);
  if (corruptions + checkErrors === 0) return leaks;
  throw new Qcow2Error(
    'ERR_QCOW2_CORRUPT',
    `${guest.image.storage.name} is damaged (${corruptions} corruptions, ${checkErrors} errors); check and repair it ` +
      `before ${purpose}. First: ${findings[0]?.message ?? 'unknown'}`,
    { feature: 'check' },
  );
}
