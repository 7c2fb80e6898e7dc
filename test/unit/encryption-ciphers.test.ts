import { createCipheriv, createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { cipherOfNames, type CipherSpec, masterKeySize } from '../../lib/io/encryption/algorithms.js';
import { antiForensicMerge, antiForensicSplit } from '../../lib/io/encryption/anti-forensic.js';
import { createSectorCipher } from '../../lib/io/encryption/sector-cipher.js';
import { pattern } from '../support/pattern.js';

/** The number of a sector in 16 bytes, little-endian, `bytes` of it kept. */
function numberIv(sector: number, bytes: 4 | 8): Buffer {
  const iv = Buffer.alloc(16);
  iv.writeBigUInt64LE(BigInt(sector));
  return iv.fill(0, bytes);
}

function ivOf(spec: CipherSpec, key: Uint8Array, sector: number): Buffer {
  if (spec.iv.generator !== 'essiv') return numberIv(sector, spec.iv.generator === 'plain' ? 4 : 8);
  const ivKey = createHash(spec.iv.hash).update(key).digest();
  return createCipheriv(`aes-${ivKey.length * 8}-ecb`, ivKey, null).update(numberIv(sector, 8));
}

/** XTS as IEEE 1619 writes it down, a block at a time with big integers. */
function xtsByTheBook(bits: number, key: Uint8Array, iv: Uint8Array, sector: Uint8Array): Buffer {
  const block = (half: Uint8Array, bytes: Uint8Array): Buffer =>
    createCipheriv(`aes-${bits}-ecb`, half, null).setAutoPadding(false).update(bytes);
  const number = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
  const bytes = (value: bigint): Buffer => Buffer.from(value.toString(16).padStart(32, '0'), 'hex').reverse();
  const [dataKey, tweakKey] = [key.subarray(0, key.length / 2), key.subarray(key.length / 2)];
  let tweak = number(block(tweakKey, iv));
  const out: Buffer[] = [];
  for (let at = 0; at < sector.length; at += 16) {
    const masked = bytes(number(sector.subarray(at, at + 16)) ^ tweak);
    out.push(bytes(number(block(dataKey, masked)) ^ tweak));
    tweak <<= 1n;
    if (tweak >> 128n) tweak = (tweak ^ 0x87n) & ((1n << 128n) - 1n);
  }
  return Buffer.concat(out);
}

/** One sector at a time, without anything of the library. */
function encryptByTheBook(spec: CipherSpec, key: Uint8Array, plain: Uint8Array, firstSector: number): Buffer {
  const sectors: Buffer[] = [];
  for (let at = 0; at < plain.length; at += 512) {
    const sector = plain.subarray(at, at + 512);
    const iv = ivOf(spec, key, firstSector + at / 512);
    if (spec.mode === 'xts') sectors.push(xtsByTheBook(spec.bits, key, iv, sector));
    else {
      const cipher = createCipheriv(`aes-${spec.bits}-${spec.mode}`, key, spec.mode === 'ecb' ? null : iv);
      sectors.push(cipher.setAutoPadding(false).update(sector));
    }
  }
  return Buffer.concat(sectors);
}

const specs: CipherSpec[] = ([128, 192, 256] as const).flatMap((bits) =>
  (['xts', 'cbc', 'ctr', 'ecb'] as const).flatMap((mode) => [
    { bits, mode, iv: { generator: 'plain' } as const },
    { bits, mode, iv: { generator: 'plain64' } as const },
    { bits, mode, iv: { generator: 'essiv', hash: 'sha256' } as const },
    { bits, mode, iv: { generator: 'essiv', hash: 'md5' } as const },
  ]),
);
const title = ({ bits, mode, iv }: CipherSpec): string =>
  `aes-${bits} ${mode} ${iv.generator === 'essiv' ? `essiv:${iv.hash}` : iv.generator}`;

describe('sector ciphers', () => {
  it.each(specs.map((spec) => [title(spec), spec] as const))('%s encrypts and decrypts', (_title, spec) => {
    const key = pattern(11, masterKeySize(spec));
    const cipher = createSectorCipher(spec, key);
    // Sector numbers on both sides of 2^32, and a length that ends within a chunk.
    for (const [firstSector, sectors] of [
      [0, 3],
      [2 ** 32 - 2, 5],
    ] as const) {
      const plain = pattern(firstSector % 1000, sectors * 512);
      const buffer = Buffer.from(plain);
      cipher.encrypt(buffer, firstSector);
      expect(buffer.equals(encryptByTheBook(spec, key, plain, firstSector))).toBe(true);
      cipher.decrypt(buffer, firstSector);
      expect(buffer.equals(plain)).toBe(true);
    }
  });

  it.each(['xts', 'cbc', 'ctr', 'ecb'] as const)('%s treats a long run like its sectors', (mode) => {
    const spec: CipherSpec = { bits: 256, mode, iv: { generator: 'plain64' } };
    const cipher = createSectorCipher(spec, pattern(12, masterKeySize(spec)));
    const plain = pattern(13, 1301 * 512);
    const whole = Buffer.from(plain);
    cipher.encrypt(whole, 77);
    const pieces = Buffer.from(plain);
    for (let sector = 0; sector < 1301; sector += 1) {
      cipher.encrypt(pieces.subarray(sector * 512, (sector + 1) * 512), 77 + sector);
    }
    expect(whole.equals(pieces)).toBe(true);
    cipher.decrypt(whole, 77);
    expect(whole.equals(plain)).toBe(true);
  });

  it('agrees with the XTS-AES-128 vector 4 of IEEE 1619', () => {
    const key = Buffer.from('2718281828459045235360287471352631415926535897932384626433832795', 'hex');
    const buffer = Buffer.from(Array.from({ length: 512 }, (_, index) => index & 255));
    createSectorCipher({ bits: 128, mode: 'xts', iv: { generator: 'plain64' } }, key).encrypt(buffer, 0);
    expect(buffer.subarray(0, 32).toString('hex')).toBe(
      '27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c',
    );
  });

  it.each(['xts', 'cbc', 'ctr', 'ecb'] as const)(
    '%s still works once the caller has wiped the key',
    (mode) => {
      const spec: CipherSpec = { bits: 128, mode, iv: { generator: 'essiv', hash: 'sha256' } };
      const key = pattern(14, masterKeySize(spec));
      const wiped = Buffer.from(key);
      const cipher = createSectorCipher(spec, wiped);
      wiped.fill(0);
      const buffer = pattern(15, 1024);
      cipher.encrypt(buffer, 5);
      expect(buffer.equals(encryptByTheBook(spec, key, pattern(15, 1024), 5))).toBe(true);
    },
  );

  it('leaves an empty buffer and the bytes around a view alone', () => {
    const cipher = createSectorCipher(
      { bits: 128, mode: 'xts', iv: { generator: 'plain64' } },
      pattern(16, 32),
    );
    cipher.encrypt(new Uint8Array(0), 0);
    const around = Buffer.alloc(512 + 26, 0xaa);
    cipher.encrypt(around.subarray(13, 525), 0);
    expect(around.subarray(0, 13).equals(Buffer.alloc(13, 0xaa))).toBe(true);
    expect(around.subarray(525).equals(Buffer.alloc(13, 0xaa))).toBe(true);
    cipher.decrypt(around.subarray(13, 525), 0);
    expect(around.equals(Buffer.alloc(512 + 26, 0xaa))).toBe(true);
  });

  it('refuses parts of sectors, impossible sector numbers and keys of another length', () => {
    const spec = cipherOfNames({});
    const cipher = createSectorCipher(spec, pattern(17, 64));
    expect(() => cipher.decrypt(new Uint8Array(511), 0)).toThrow(/multiple of 512/);
    expect(() => cipher.encrypt(new Uint8Array(512), -1)).toThrow(/firstSector/);
    expect(() => cipher.encrypt(new Uint8Array(512), 0.5)).toThrow(/firstSector/);
    expect(() => createSectorCipher(spec, pattern(17, 32))).toThrow(/64 bytes/);
  });
});

describe('the anti-forensic splitter', () => {
  it.each(['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160'] as const)(
    'gets a key back that was split with %s, and only from all of the material',
    (hash) => {
      for (const keyBytes of [16, 24, 32, 48, 64]) {
        const key = pattern(keyBytes, keyBytes);
        const material = antiForensicSplit(key, 50, hash);
        expect(material.length).toBe(50 * keyBytes);
        expect(Buffer.from(antiForensicMerge(material, keyBytes, 50, hash)).equals(key)).toBe(true);
        for (const at of [0, 25 * keyBytes, 50 * keyBytes - 1]) {
          const damaged = Uint8Array.from(material);
          damaged[at] = (damaged[at] ?? 0) ^ 1;
          expect(Buffer.from(antiForensicMerge(damaged, keyBytes, 50, hash)).equals(key)).toBe(false);
        }
      }
    },
  );

  it('splits the same key differently each time', () => {
    const key = pattern(18, 32);
    const [one, two] = [antiForensicSplit(key, 4, 'sha256'), antiForensicSplit(key, 4, 'sha256')];
    expect(Buffer.from(one).equals(two)).toBe(false);
  });
});
