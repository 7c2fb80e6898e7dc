/** The encryption of crypt_method 1: AES-128 in CBC mode, the password itself being the key. */
import type { SectorCipher } from './crypt-sector.js';
import { createSectorCipher } from './sector-cipher.js';
import { requireSecret, secretBytes, type Secret } from './secret.js';

/** Bytes of the key; a longer password is cut, a shorter one filled up with zeros. */
const keySize = 16;

/**
 * The cipher of an image with legacy AES encryption; it takes the guest offset / 512 as sector number. The image holds
 * nothing to check the secret against: with a wrong one, reads return noise.
 * @throws Qcow2Error `ERR_QCOW2_SECRET` when the secret is missing
 */
export function legacyAesCipher(secret: Secret | undefined): SectorCipher {
  const password = secretBytes(requireSecret(secret));
  const key = new Uint8Array(keySize);
  key.set(password.subarray(0, keySize));
  password.fill(0);
  const cipher = createSectorCipher({ bits: 128, mode: 'cbc', iv: { generator: 'plain64' } }, key);
  key.fill(0);
  return cipher;
}
