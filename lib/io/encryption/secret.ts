/** Secrets as bytes that can be wiped after use. */
import { Qcow2Error } from '../../errors.js';

/** A passphrase: text counts as its UTF-8 bytes. */
export type Secret = string | Uint8Array;

/** A copy of the secret's bytes; the caller wipes it with `fill(0)`. */
export function secretBytes(secret: Secret): Buffer {
  return typeof secret === 'string' ? Buffer.from(secret, 'utf8') : Buffer.from(secret);
}

/** Hands a copy of the secret's bytes to `use` and wipes it afterwards. */
export async function withSecret<T>(secret: Secret, use: (bytes: Uint8Array) => Promise<T>): Promise<T> {
  const bytes = secretBytes(secret);
  try {
    return await use(bytes);
  } finally {
    bytes.fill(0);
  }
}

/** @throws Qcow2Error `ERR_QCOW2_SECRET` when there is none */
export function requireSecret(secret: Secret | undefined): Secret {
  if (secret === undefined) {
    throw new Qcow2Error('ERR_QCOW2_SECRET', 'The image is encrypted: give the secret that opens it');
  }
  return secret;
}
