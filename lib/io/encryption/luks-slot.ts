/** One LUKS key slot: sealing the master key under a secret, and opening it again. */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import {
  keyMaterialBytes,
  luksDigestSize,
  luksSaltSize,
  luksStripes,
  type LuksHeader,
  type LuksKeySlot,
} from '../../format/luks.js';
import { cipherOfHeader, hashNamed } from './algorithms.js';
import { antiForensicMerge, antiForensicSplit } from './anti-forensic.js';
import { deriveKey, iterationsFor } from './key-derivation.js';
import { createSectorCipher } from './sector-cipher.js';

/** Time that deriving a key from a secret takes unless told otherwise, the same as in QEMU, ms. */
export const defaultIterTimeMs = 2000;

/**
 * Encrypts the master key under a secret, with a new salt, for the slot at `keyMaterialOffset`.
 * @returns the record of the slot and the key material that belongs at its offset
 */
export async function sealSlot(
  header: LuksHeader,
  keyMaterialOffset: number,
  masterKey: Uint8Array,
  secret: Uint8Array,
  iterTimeMs: number,
): Promise<{ slot: LuksKeySlot; material: Uint8Array }> {
  const hash = hashNamed(header.hashSpec);
  const slot: LuksKeySlot = {
    active: true,
    iterations: await iterationsFor(iterTimeMs, header.keyBytes, hash),
    salt: randomBytes(luksSaltSize),
    keyMaterialOffset,
    stripes: luksStripes,
  };
  const slotKey = await deriveKey(secret, slot.salt, slot.iterations, header.keyBytes, hash);
  const split = antiForensicSplit(masterKey, slot.stripes, hash);
  const material = new Uint8Array(keyMaterialBytes(header.keyBytes));
  material.set(split);
  split.fill(0);
  createSectorCipher(cipherOfHeader(header), slotKey).encrypt(material, 0);
  slotKey.fill(0);
  return { slot, material };
}

/** @returns the master key if the secret is the one of this slot, else null */
export async function openSlot(
  area: Uint8Array,
  header: LuksHeader,
  slot: LuksKeySlot,
  secret: Uint8Array,
): Promise<Uint8Array | null> {
  const hash = hashNamed(header.hashSpec);
  const slotKey = await deriveKey(secret, slot.salt, slot.iterations, header.keyBytes, hash);
  const end = slot.keyMaterialOffset + keyMaterialBytes(header.keyBytes);
  const material = area.slice(slot.keyMaterialOffset, end);
  createSectorCipher(cipherOfHeader(header), slotKey).decrypt(material, 0);
  slotKey.fill(0);
  const masterKey = antiForensicMerge(material, header.keyBytes, slot.stripes, hash);
  material.fill(0);
  if (await isMasterKey(header, masterKey)) return masterKey;
  masterKey.fill(0);
  return null;
}

/** Whether a key is the one the header's digest was made from. */
export async function isMasterKey(header: LuksHeader, key: Uint8Array): Promise<boolean> {
  const { masterKeySalt, masterKeyIterations, masterKeyDigest } = header;
  return timingSafeEqual(
    await digestMasterKey(key, masterKeySalt, masterKeyIterations, header.hashSpec),
    masterKeyDigest,
  );
}

/** The 20 bytes by which a LUKS header recognizes its master key. */
export function digestMasterKey(
  key: Uint8Array,
  salt: Uint8Array,
  iterations: number,
  hashSpec: string,
): Promise<Uint8Array> {
  return deriveKey(key, salt, iterations, luksDigestSize, hashNamed(hashSpec));
}
