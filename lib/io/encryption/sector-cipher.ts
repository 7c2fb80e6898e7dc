/** Encrypts and decrypts runs of 512-byte sectors in place: AES in XTS, CBC, CTR and ECB mode. */
import { createCipheriv, createDecipheriv, createSecretKey } from 'node:crypto';
import { invalidArgValue, outOfRange } from '../../errors.js';
import { native } from '../../native.js';
import { masterKeySize, type CipherSpec } from './algorithms.js';
import { cryptSectorSize, type SectorCipher } from './crypt-sector.js';
import { ivGenerator, ivSize, type IvGenerator } from './sector-iv.js';

/** Sectors worked on at once: data, masks and OpenSSL's output together stay in a core's cache. */
const chunkSectors = 256;

/** Changes at most {@link chunkSectors} sectors in place. */
type ChunkTransform = (chunk: Uint8Array, firstSector: number) => void;
interface ChunkCipher {
  decrypt: ChunkTransform;
  encrypt: ChunkTransform;
}

/** Applies AES to every block by itself and returns the result in memory of its own. */
type BlockTransform = (blocks: Uint8Array) => Uint8Array;

/**
 * @param key the master key, {@link masterKeySize} bytes; it is not kept and may be wiped afterwards
 * @throws TypeError `ERR_INVALID_ARG_VALUE` when the key has another length
 */
export function createSectorCipher(spec: CipherSpec, key: Uint8Array): SectorCipher {
  if (key.length !== masterKeySize(spec)) {
    throw invalidArgValue('key', `must be ${masterKeySize(spec)} bytes long`, `${key.length} bytes`);
  }
  const chunks = chunkCipher(spec, key, ivGenerator(spec.iv, key, chunkSectors));
  return {
    sectorSize: cryptSectorSize,
    decrypt: (buffer, firstSector) => inChunks(buffer, firstSector, chunks.decrypt),
    encrypt: (buffer, firstSector) => inChunks(buffer, firstSector, chunks.encrypt),
  };
}

function inChunks(buffer: Uint8Array, firstSector: number, transform: ChunkTransform): void {
  if (buffer.length % cryptSectorSize !== 0) {
    throw invalidArgValue(
      'buffer',
      `must be a multiple of ${cryptSectorSize} bytes`,
      `${buffer.length} bytes`,
    );
  }
  if (!Number.isSafeInteger(firstSector) || firstSector < 0) {
    throw outOfRange('firstSector', 'a safe integer, 0 or more', firstSector);
  }
  const chunkBytes = chunkSectors * cryptSectorSize;
  for (let at = 0; at < buffer.length; at += chunkBytes) {
    transform(buffer.subarray(at, at + chunkBytes), firstSector + at / cryptSectorSize);
  }
}

function chunkCipher(spec: CipherSpec, key: Uint8Array, ivs: IvGenerator): ChunkCipher {
  switch (spec.mode) {
    case 'xts':
      return xts(spec, key, ivs);
    case 'cbc':
      return cbc(spec, key, ivs);
    case 'ctr':
      return ctr(spec, key, ivs);
    case 'ecb':
      return ecb(spec, key);
  }
}

/** Both halves of the key work on all blocks of a chunk at once, since OpenSSL's own XTS takes one sector a call. */
function xts(spec: CipherSpec, key: Uint8Array, ivs: IvGenerator): ChunkCipher {
  const dataKey = key.subarray(0, key.length / 2);
  const encryptTweaks = ecbEncrypt(spec, key.subarray(key.length / 2));
  const scratch = new Uint8Array(chunkSectors * cryptSectorSize);
  const between =
    (transform: BlockTransform): ChunkTransform =>
    (chunk, firstSector) => {
      const masks = scratch.subarray(0, chunk.length);
      native.xtsMasks(encryptTweaks(ivs(firstSector, sectorsIn(chunk))), cryptSectorSize, masks);
      native.xorInto(chunk, masks);
      chunk.set(transform(chunk));
      native.xorInto(chunk, masks);
    };
  return { decrypt: between(ecbDecrypt(spec, dataKey)), encrypt: between(ecbEncrypt(spec, dataKey)) };
}

function cbc(spec: CipherSpec, key: Uint8Array, ivs: IvGenerator): ChunkCipher {
  const decryptBlocks = ecbDecrypt(spec, key);
  return {
    decrypt: (chunk, firstSector) => {
      const blocks = decryptBlocks(chunk);
      native.cbcDecryptFinish(blocks, chunk, ivs(firstSector, sectorsIn(chunk)), cryptSectorSize);
      chunk.set(blocks);
    },
    encrypt: chainedEncrypt(spec, key, ivs),
  };
}

/** One cipher for all sectors: the chain runs on, and xoring with the last block before each sector starts it anew. */
function chainedEncrypt(spec: CipherSpec, key: Uint8Array, ivs: IvGenerator): ChunkTransform {
  let last: Uint8Array = new Uint8Array(ivSize);
  const cipher = createCipheriv(`aes-${spec.bits}-cbc`, key, last).setAutoPadding(false);
  return (chunk, firstSector) => {
    const iv = ivs(firstSector, sectorsIn(chunk));
    for (let sector = 0; sector < sectorsIn(chunk); sector++) {
      const plain = sectorOf(chunk, sector);
      for (let i = 0; i < ivSize; i++) {
        plain[i] = (plain[i] ?? 0) ^ (last[i] ?? 0) ^ (iv[sector * ivSize + i] ?? 0);
      }
      const encrypted = cipher.update(plain);
      plain.set(encrypted);
      last = encrypted.subarray(-ivSize);
    }
  };
}

function ctr(spec: CipherSpec, key: Uint8Array, ivs: IvGenerator): ChunkCipher {
  // Kept by OpenSSL, so that the caller may wipe its own copy.
  const secretKey = createSecretKey(key);
  const transform: ChunkTransform = (chunk, firstSector) => {
    const iv = ivs(firstSector, sectorsIn(chunk));
    for (let sector = 0; sector < sectorsIn(chunk); sector++) {
      const counter = iv.subarray(sector * ivSize, (sector + 1) * ivSize);
      const bytes = sectorOf(chunk, sector);
      bytes.set(createCipheriv(`aes-${spec.bits}-ctr`, secretKey, counter).update(bytes));
    }
  };
  return { decrypt: transform, encrypt: transform };
}

function ecb(spec: CipherSpec, key: Uint8Array): ChunkCipher {
  const decryptBlocks = ecbDecrypt(spec, key);
  const encryptBlocks = ecbEncrypt(spec, key);
  return {
    decrypt: (chunk) => chunk.set(decryptBlocks(chunk)),
    encrypt: (chunk) => chunk.set(encryptBlocks(chunk)),
  };
}

function ecbEncrypt({ bits }: CipherSpec, key: Uint8Array): BlockTransform {
  const cipher = createCipheriv(`aes-${bits}-ecb`, key, null).setAutoPadding(false);
  return (blocks) => cipher.update(blocks);
}

function ecbDecrypt({ bits }: CipherSpec, key: Uint8Array): BlockTransform {
  const cipher = createDecipheriv(`aes-${bits}-ecb`, key, null).setAutoPadding(false);
  return (blocks) => cipher.update(blocks);
}

const sectorsIn = (chunk: Uint8Array): number => chunk.length / cryptSectorSize;

function sectorOf(chunk: Uint8Array, index: number): Uint8Array {
  return chunk.subarray(index * cryptSectorSize, (index + 1) * cryptSectorSize);
}
