/** Opens the LUKS header of an image with a secret: the master key, and the cipher for its sectors. */
import { outOfRange, Qcow2Error } from '../../errors.js';
import { parseLuksHeader, type LuksHeader } from '../../format/luks.js';
import { cipherOfHeader, hashNamed } from './algorithms.js';
import type { SectorCipher } from './crypt-sector.js';
import { maxIterations as mostIterations } from './key-derivation.js';
import { openSlot } from './luks-slot.js';
import { requireSecret, withSecret, type Secret } from './secret.js';
import { createSectorCipher } from './sector-cipher.js';

/** About half a minute on a current machine; QEMU asks for some nine million in an image it creates on one. */
const defaultIterationBudget = 100_000_000;

export interface UnlockOptions {
  /**
   * PBKDF2 iterations that one unlock may spend over all key slots, at most 2^31 - 1; 100 million by default.
   * An image says how many it wants, so without a limit a hostile one could keep a thread busy for hours.
   */
  maxIterations?: number;
}

export interface UnlockedLuks {
  header: LuksHeader;
  /** Secret: wipe it with `fill(0)` when it is no longer needed. The cipher does not need it. */
  masterKey: Uint8Array;
  /** Takes the host offset / 512 as sector number. */
  cipher: SectorCipher;
  /** The key slot that the secret opened. */
  slot: number;
}

/**
 * Tries the secret on every active key slot in turn.
 * @param area all bytes of the encryption area, as long as the full disk encryption header extension says
 * @throws Qcow2Error `ERR_QCOW2_SECRET` when the secret is missing or opens no slot, `ERR_QCOW2_CORRUPT`, or
 * `ERR_QCOW2_UNSUPPORTED` for an algorithm this package lacks or for more iterations than allowed
 */
export async function unlockLuks(
  area: Uint8Array,
  secret: Secret | undefined,
  options: UnlockOptions = {},
): Promise<UnlockedLuks> {
  const budget = options.maxIterations ?? defaultIterationBudget;
  if (!(budget >= 0 && budget <= mostIterations)) {
    throw outOfRange('maxIterations', `a number from 0 to ${mostIterations}`, budget);
  }
  const header = parseLuksHeader(area);
  const spec = cipherOfHeader(header);
  hashNamed(header.hashSpec);
  return withSecret(requireSecret(secret), async (bytes) => {
    let spent = 0;
    for (const [index, slot] of header.slots.entries()) {
      if (!slot.active) continue;
      spent += slot.iterations + header.masterKeyIterations;
      if (spent > budget) throw tooManyIterations(spent, index, budget);
      const masterKey = await openSlot(area, header, slot, bytes);
      if (masterKey !== null) {
        return { header, masterKey, cipher: createSectorCipher(spec, masterKey), slot: index };
      }
    }
    throw new Qcow2Error('ERR_QCOW2_SECRET', 'The secret opens none of the LUKS key slots of the image');
  });
}

function tooManyIterations(wanted: number, slot: number, budget: number): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `Trying LUKS key slots 0 to ${slot} takes ${wanted} PBKDF2 iterations, more than the ${budget} allowed; ` +
      'if you trust the image, raise maxIterations',
    { feature: 'PBKDF2 iterations' },
  );
}
