/** Adds secrets to and removes them from an existing LUKS header, as lists of bytes to write. */
import { randomBytes } from 'node:crypto';
import { outOfRange, Qcow2Error } from '../../errors.js';
import {
  encodeLuksSlot,
  keyMaterialBytes,
  luksSaltSize,
  luksSlotCount,
  luksSlotOffset,
  parseLuksHeader,
  type LuksHeader,
  type LuksKeySlot,
} from '../../format/luks.js';
import { defaultIterTimeMs, isMasterKey, sealSlot } from './luks-slot.js';
import { withSecret, type Secret } from './secret.js';

/** Bytes to write into the encryption area. Changes are listed in order: each must be durable before the next. */
export interface LuksChange {
  /** Bytes from the start of the area. */
  offset: number;
  bytes: Uint8Array;
}

export interface AddKeyOptions {
  /** The key slot to use, 0 to 7; the first inactive one by default. */
  slot?: number;
  /** Time it shall take to try the secret, ms; 2000 by default. */
  iterTimeMs?: number;
}

/**
 * Makes one more secret open the image. The area itself is left as it is.
 * @param masterKey what unlocking with an existing secret gave
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when all slots are in use, `ERR_QCOW2_CONFLICT` when the wanted one is,
 * `ERR_QCOW2_SECRET` when the master key is not the one of this header
 */
export async function addLuksKey(
  area: Uint8Array,
  masterKey: Uint8Array,
  secret: Secret,
  options: AddKeyOptions = {},
): Promise<{ slot: number; changes: LuksChange[] }> {
  const header = parseLuksHeader(area);
  const { index, slot: free } = inactiveSlot(header, options.slot);
  if (!(await isMasterKey(header, masterKey))) {
    throw new Qcow2Error('ERR_QCOW2_SECRET', 'The master key is not the one this LUKS header was made for');
  }
  return withSecret(secret, async (bytes) => {
    const time = options.iterTimeMs ?? defaultIterTimeMs;
    const { slot, material } = await sealSlot(header, free.keyMaterialOffset, masterKey, bytes, time);
    return {
      slot: index,
      changes: [
        { offset: slot.keyMaterialOffset, bytes: material },
        { offset: luksSlotOffset(index), bytes: encodeLuksSlot(slot) },
      ],
    };
  });
}

/**
 * Destroys one key slot, so that its secret no longer opens the image. The area itself is left as it is.
 * @param options `force`: also when it is the last active slot, after which nothing can read the image again
 * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND` when the slot is inactive, `ERR_QCOW2_DATA_LOSS` when it is the last one
 */
export function removeLuksKey(
  area: Uint8Array,
  index: number,
  options: { force?: boolean } = {},
): LuksChange[] {
  const header = parseLuksHeader(area);
  const slot = slotAt(header, index);
  if (!slot.active) {
    throw new Qcow2Error('ERR_QCOW2_NOT_FOUND', `LUKS key slot ${index} is not active`);
  }
  if (options.force !== true && header.slots.filter(({ active }) => active).length === 1) {
    throw new Qcow2Error(
      'ERR_QCOW2_DATA_LOSS',
      `LUKS key slot ${index} is the only active one: without it nothing can decrypt the image. Add another key first`,
    );
  }
  const cleared: LuksKeySlot = { ...slot, active: false, iterations: 0, salt: new Uint8Array(luksSaltSize) };
  // The material goes first: a crash in between must not leave a slot that looks removed but can be recovered.
  return [
    { offset: slot.keyMaterialOffset, bytes: randomBytes(keyMaterialBytes(header.keyBytes)) },
    { offset: luksSlotOffset(index), bytes: encodeLuksSlot(cleared) },
  ];
}

function inactiveSlot(header: LuksHeader, wanted: number | undefined): { index: number; slot: LuksKeySlot } {
  const index = wanted ?? header.slots.findIndex(({ active }) => !active);
  if (wanted === undefined && index < 0) {
    throw new Qcow2Error(
      'ERR_QCOW2_LIMIT',
      `All ${luksSlotCount} LUKS key slots are in use; remove one first`,
    );
  }
  const slot = slotAt(header, index);
  if (slot.active) {
    throw new Qcow2Error('ERR_QCOW2_CONFLICT', `LUKS key slot ${index} is in use; remove its key first`);
  }
  return { index, slot };
}

function slotAt(header: LuksHeader, index: number): LuksKeySlot {
  const slot = header.slots[index];
  if (slot === undefined) throw outOfRange('slot', `an integer from 0 to ${luksSlotCount - 1}`, index);
  return slot;
}
