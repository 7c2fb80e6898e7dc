/** Makes the encryption area of a new LUKS image: a random master key, sealed in key slot 0. */
import { randomBytes, randomUUID } from 'node:crypto';
import {
  encodeLuksHeader,
  keyMaterialBytes,
  luksHeaderSize,
  luksSaltSize,
  luksSlotCount,
  luksStripes,
  parseLuksHeader,
  type LuksHeader,
} from '../../format/luks.js';
import { alignUp } from '../../format/units.js';
import {
  cipherModeField,
  cipherOfNames,
  hashNamed,
  masterKeySize,
  type CipherNames,
  type CipherSpec,
  type HashName,
} from './algorithms.js';
import { iterationsFor } from './key-derivation.js';
import { defaultIterTimeMs, digestMasterKey, sealSlot } from './luks-slot.js';
import type { UnlockedLuks } from './luks-unlock.js';
import { withSecret, type Secret } from './secret.js';
import { createSectorCipher } from './sector-cipher.js';

/** The partition header and each slot's key material begin at multiples of this, bytes. */
const areaAlignment = 4096;
/** The digest of the master key gets this part of the time that a secret gets. */
const digestTimeShare = 1 / 8;
/** Bytes of the master key's digest are one hash long, however long the key. */
const digestMeasureBytes = 20;

export interface CreateLuksOptions extends CipherNames {
  secret: Secret;
  /** Hash of PBKDF2 and the anti-forensic splitter: md5, sha1, sha224, sha256 (default), sha384, sha512, ripemd160. */
  hashAlg?: string;
  /** Time it shall take to try a secret, ms; 2000 by default. */
  iterTimeMs?: number;
}

export interface CreatedLuks extends UnlockedLuks {
  /** What to write at the place the full disk encryption header extension names; its length is the extension's length. */
  headerArea: Uint8Array;
}

/**
 * Makes a LUKS1 encryption area as QEMU lays it out.
 * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED` for an algorithm this package, or QEMU in LUKS images, does not know
 */
export async function createLuksHeader(options: CreateLuksOptions): Promise<CreatedLuks> {
  const spec = cipherOfNames(options);
  const hash = hashNamed(options.hashAlg ?? 'sha256');
  const iterTimeMs = options.iterTimeMs ?? defaultIterTimeMs;
  const masterKey = randomBytes(masterKeySize(spec));
  const header = await emptyHeader(spec, hash, masterKey, iterTimeMs);
  const headerArea = new Uint8Array(header.payloadOffset);
  await withSecret(options.secret, async (secret) => {
    const { slot, material } = await sealSlot(
      header,
      slotPlace(header.keyBytes, 0),
      masterKey,
      secret,
      iterTimeMs,
    );
    header.slots[0] = slot;
    headerArea.set(material, slot.keyMaterialOffset);
  });
  headerArea.set(encodeLuksHeader(header));
  return {
    headerArea,
    header: parseLuksHeader(headerArea),
    masterKey,
    cipher: createSectorCipher(spec, masterKey),
    slot: 0,
  };
}

/** Bytes of the encryption area for a cipher: what the full disk encryption header extension gives as length. */
export function luksAreaSize(names: CipherNames): number {
  return slotPlace(masterKeySize(cipherOfNames(names)), luksSlotCount);
}

/** A header for a master key with all slots inactive. */
async function emptyHeader(
  spec: CipherSpec,
  hash: HashName,
  masterKey: Uint8Array,
  iterTimeMs: number,
): Promise<LuksHeader> {
  const keyBytes = masterKey.length;
  const masterKeySalt = randomBytes(luksSaltSize);
  const masterKeyIterations = await iterationsFor(iterTimeMs * digestTimeShare, digestMeasureBytes, hash);
  return {
    cipherName: 'aes',
    cipherMode: cipherModeField(spec),
    hashSpec: hash,
    payloadOffset: slotPlace(keyBytes, luksSlotCount),
    keyBytes,
    masterKeyDigest: await digestMasterKey(masterKey, masterKeySalt, masterKeyIterations, hash),
    masterKeySalt,
    masterKeyIterations,
    uuid: randomUUID(),
    slots: Array.from({ length: luksSlotCount }, (_, index) => ({
      active: false,
      iterations: 0,
      salt: new Uint8Array(luksSaltSize),
      keyMaterialOffset: slotPlace(keyBytes, index),
      stripes: luksStripes,
    })),
  };
}

/** Where the key material of slot `index` begins; that of the slot after the last is where the area ends. */
function slotPlace(keyBytes: number, index: number): number {
  return alignUp(luksHeaderSize, areaAlignment) + index * alignUp(keyMaterialBytes(keyBytes), areaAlignment);
}
