/** Changing which secrets open an image that is encrypted with LUKS. */
import { readLuksArea } from '../../io/encryption/luks-area.js';
import { hasCode, Qcow2Error } from '../../errors.js';
import { addLuksKey, removeLuksKey, type LuksChange } from '../../io/encryption/luks-keys.js';
import { unlockLuks } from '../../io/encryption/luks-unlock.js';
import type { Secret } from '../../io/encryption/secret.js';
import type { EncryptionPointer } from '../../format/header-extensions.js';
import type { Image } from '../../metadata/image.js';

/** A secret that is to open the image, and one that does already. */
export interface AddKeyOptions {
  /** A secret that opens the image already. */
  unlock: Secret;
  /** The secret that shall open it, too. */
  secret: Secret;
  /** The key slot to use, 0 to 7; the first inactive one by default. */
  slot?: number;
  /** Time it shall take to try the secret, ms; 2000 by default. */
  iterTimeMs?: number;
}

/** Which key to destroy: that in a slot, or all that a secret opens. */
export type RemoveKeyOptions = (
  | {
      /** The key slot, counted from 0. */
      slot: number;
    }
  | {
      /** All slots that this secret opens. */
      secret: Secret;
    }
) & {
  /** Also the last one: nothing can ever read the image then. */
  force?: boolean;
};

/**
 * Makes one more secret open the image. Its key material is durable before the slot is marked active.
 * @returns the slot used
 */
export async function addKey(image: Image, options: AddKeyOptions): Promise<number> {
  const { unlock, secret, slot, iterTimeMs } = options;
  const pointer = luksPointer(image);
  const area = await readLuksArea(image.storage, image.header);
  const { masterKey } = await unlockLuks(area, unlock);
  try {
    const added = await addLuksKey(area, masterKey, secret, {
      ...(slot === undefined ? {} : { slot }),
      ...(iterTimeMs === undefined ? {} : { iterTimeMs }),
    });
    await apply(image, pointer, added.changes);
    return added.slot;
  } finally {
    masterKey.fill(0);
  }
}

/** Destroys keys: the material first, so that no crash leaves a slot that looks removed but can be recovered. */
export async function removeKey(image: Image, options: RemoveKeyOptions): Promise<void> {
  const pointer = luksPointer(image);
  const force = options.force ?? false;
  if ('slot' in options) {
    const area = await readLuksArea(image.storage, image.header);
    await apply(image, pointer, removeLuksKey(area, options.slot, { force }));
    return;
  }
  for (let removed = 0; ; removed++) {
    const area = await readLuksArea(image.storage, image.header);
    const slot = await slotOf(area, options.secret, removed > 0);
    if (slot === null) return;
    await apply(image, pointer, removeLuksKey(area, slot, { force }));
  }
}

/** The slot that a secret opens; none is an error unless `mayMiss`. */
async function slotOf(area: Uint8Array, secret: Secret, mayMiss: boolean): Promise<number | null> {
  try {
    const { slot, masterKey } = await unlockLuks(area, secret);
    masterKey.fill(0);
    return slot;
  } catch (error) {
    if (mayMiss && hasCode(error, 'ERR_QCOW2_SECRET')) return null;
    throw error;
  }
}

function luksPointer({ header, storage }: Image): EncryptionPointer {
  if (header.encryption !== null) return header.encryption;
  throw new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    `${storage.name} is not encrypted with LUKS, so it has no keys`,
    {
      feature: 'crypt_method',
    },
  );
}

async function apply(
  { storage, committer }: Image,
  { offset }: EncryptionPointer,
  changes: readonly LuksChange[],
): Promise<void> {
  for (const change of changes) {
    await storage.write(change.bytes, offset + change.offset);
    await committer.barrier();
  }
}
