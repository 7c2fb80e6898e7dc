/** Turns sector numbers into initialisation vectors: plain, plain64 and ESSIV. */
import { createCipheriv, createHash } from 'node:crypto';
import { native } from '../../native.js';
import { hashSize, type IvSpec } from './algorithms.js';

/** Bytes of an AES block and of an IV. */
export const ivSize = 16;

/** The IVs of `count` consecutive sectors, 16 bytes each; valid until the next call. */
export type IvGenerator = (firstSector: number, count: number) => Uint8Array;

/**
 * @param key the whole master key, from which ESSIV derives its own
 * @param maxCount the most sectors that one call will ask for
 */
export function ivGenerator(spec: IvSpec, key: Uint8Array, maxCount: number): IvGenerator {
  const scratch = new Uint8Array(maxCount * ivSize);
  const plain64: IvGenerator = (firstSector, count) => {
    const ivs = scratch.subarray(0, count * ivSize);
    native.plain64(firstSector, count, ivs);
    return ivs;
  };
  switch (spec.generator) {
    case 'plain64':
      return plain64;
    case 'plain':
      return (firstSector, count) => keepLow32Bits(plain64(firstSector, count));
    case 'essiv': {
      const ivKey = createHash(spec.hash).update(key).digest();
      const cipher = createCipheriv(`aes-${hashSize(spec.hash) * 8}-ecb`, ivKey, null).setAutoPadding(false);
      ivKey.fill(0);
      return (firstSector, count) => cipher.update(plain64(firstSector, count));
    }
  }
}

function keepLow32Bits(ivs: Uint8Array): Uint8Array {
  for (let at = 0; at < ivs.length; at += ivSize) ivs.fill(0, at + 4, at + 8);
  return ivs;
}
