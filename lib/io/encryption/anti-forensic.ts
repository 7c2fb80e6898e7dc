/** LUKS's anti-forensic splitter: a key spread over many stripes, all of which are needed to get it back. */
import { hash as digest, randomBytes } from 'node:crypto';
import { hashSize, type HashName } from './algorithms.js';

/** Spreads `key` over `stripes` times its length; the result differs at each call. */
export function antiForensicSplit(key: Uint8Array, stripes: number, hash: HashName): Uint8Array {
  const material = randomBytes(key.length * stripes);
  const last = material.subarray(key.length * (stripes - 1));
  last.set(mixStripes(material, key.length, stripes, hash));
  xor(last, key);
  return material;
}

/** Gets the key of `keyBytes` bytes back from what {@link antiForensicSplit} made of it. */
export function antiForensicMerge(
  material: Uint8Array,
  keyBytes: number,
  stripes: number,
  hash: HashName,
): Uint8Array {
  const key = mixStripes(material, keyBytes, stripes, hash);
  xor(key, material.subarray(keyBytes * (stripes - 1), keyBytes * stripes));
  return key;
}

/** Folds all stripes but the last into one: each is added to what came before, then everything is diffused. */
function mixStripes(material: Uint8Array, keyBytes: number, stripes: number, hash: HashName): Uint8Array {
  const mixed = new Uint8Array(keyBytes);
  for (let stripe = 0; stripe < stripes - 1; stripe++) {
    xor(mixed, material.subarray(stripe * keyBytes, (stripe + 1) * keyBytes));
    diffuse(mixed, hash);
  }
  return mixed;
}

/**
 * Replaces each digest-sized piece by its hash together with the piece's number, the last one cut to what is left.
 * Thousands of hashes of some bytes are asked for; in one call each they take half the time.
 */
function diffuse(block: Uint8Array, hash: HashName): void {
  const size = hashSize(hash);
  for (let at = 0; at < block.length; at += size) {
    const piece = block.subarray(at, at + size);
    const numbered = Buffer.alloc(4 + piece.length);
    numbered.writeUInt32BE(at / size);
    numbered.set(piece, 4);
    piece.set(digest(hash, numbered, 'buffer').subarray(0, piece.length));
  }
}

function xor(target: Uint8Array, mask: Uint8Array): void {
  for (let i = 0; i < target.length; i++) target[i] = (target[i] ?? 0) ^ (mask[i] ?? 0);
}
