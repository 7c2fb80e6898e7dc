/** AES-XTS and AES-CBC made of bulk AES-ECB and the native masks give what node:crypto gives sector by sector. */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { native } from '../../lib/native.js';
import { pattern } from '../support/pattern.js';

const sectorSizes = [16, 32, 512, 4096];
const count = 37;

function ecb(direction: 'encrypt' | 'decrypt', key: Uint8Array, data: Uint8Array): Buffer {
  const make = direction === 'encrypt' ? createCipheriv : createDecipheriv;
  const cipher = make(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
  return Buffer.concat([cipher.update(data), cipher.final()]);
}

/** The sectors one after the other through node:crypto, each with its own vector. */
function bySector(
  direction: 'encrypt' | 'decrypt',
  algorithm: string,
  key: Uint8Array,
  data: Uint8Array,
  ivs: Uint8Array,
  sectorSize: number,
): Buffer {
  const make = direction === 'encrypt' ? createCipheriv : createDecipheriv;
  const sectors = Array.from({ length: data.length / sectorSize }, (_, index) => {
    const cipher = make(algorithm, key, ivs.subarray(index * 16, index * 16 + 16));
    cipher.setAutoPadding(false);
    const sector = data.subarray(index * sectorSize, (index + 1) * sectorSize);
    return Buffer.concat([cipher.update(sector), cipher.final()]);
  });
  return Buffer.concat(sectors);
}

function vectors(firstSector: number, sectors: number): Uint8Array {
  const out = new Uint8Array(sectors * 16).fill(0xee);
  native.plain64(firstSector, sectors, out);
  return out;
}

describe('xtsMasks and xorInto', () => {
  for (const bits of [128, 256]) {
    for (const sectorSize of sectorSizes) {
      it(`make AES-${bits}-XTS of sectors of ${sectorSize} bytes`, () => {
        const key = pattern(1, bits / 4);
        const plain = pattern(2, count * sectorSize);
        // Across 2^32, so that more than the low bytes of the number matter.
        const ivs = vectors(2 ** 32 - 5, count);

        const masks = new Uint8Array(plain.length);
        native.xtsMasks(ecb('encrypt', key.subarray(bits / 8), ivs), sectorSize, masks);
        const through = (direction: 'encrypt' | 'decrypt', data: Uint8Array): Uint8Array => {
          const masked = Uint8Array.from(data);
          native.xorInto(masked, masks);
          const result = ecb(direction, key.subarray(0, bits / 8), masked);
          native.xorInto(result, masks);
          return result;
        };

        const expected = bySector('encrypt', `aes-${bits}-xts`, key, plain, ivs, sectorSize);
        expect(expected.equals(through('encrypt', plain))).toBe(true);
        expect(plain.equals(through('decrypt', expected))).toBe(true);
      });
    }
  }

  it('xor buffers of any length and alignment, and nothing beside them', () => {
    for (const offset of [0, 1, 7]) {
      for (const length of [0, 1, 15, 16, 17, 63, 64, 1000]) {
        const target = pattern(3, 1100);
        const mask = pattern(4, 1100);
        const expected = target.map((byte, index) =>
          index >= offset && index < offset + length ? byte ^ (mask[index + 1] ?? 0) : byte,
        );
        native.xorInto(
          target.subarray(offset, offset + length),
          mask.subarray(offset + 1, offset + 1 + length),
        );
        expect(target.equals(expected)).toBe(true);
      }
    }
  });
});

describe('cbcDecryptFinish', () => {
  for (const sectorSize of sectorSizes) {
    it(`makes AES-CBC of sectors of ${sectorSize} bytes`, () => {
      const key = pattern(5, 16);
      const plain = pattern(6, count * sectorSize);
      const ivs = vectors(3, count);
      const ciphertext = bySector('encrypt', 'aes-128-cbc', key, plain, ivs, sectorSize);

      const blocks = ecb('decrypt', key, ciphertext);
      native.cbcDecryptFinish(blocks, ciphertext, ivs, sectorSize);
      expect(blocks.equals(plain)).toBe(true);
    });
  }
});

describe('plain64', () => {
  it('writes sector numbers as 64 little-endian bits', () => {
    for (const first of [0, 255, 2 ** 32 - 2, Number.MAX_SAFE_INTEGER]) {
      const expected = Buffer.alloc(4 * 16);
      for (let i = 0; i < 4; i += 1) expected.writeBigUInt64LE(BigInt(first) + BigInt(i), i * 16);
      expect(expected.equals(vectors(first, 4))).toBe(true);
    }
  });
});

describe('arguments', () => {
  const bytes = (length: number): Uint8Array => new Uint8Array(length);
  const refused: [name: string, code: string, call: () => void][] = [
    [
      'a sector that is no multiple of 16',
      'ERR_OUT_OF_RANGE',
      () => native.xtsMasks(bytes(16), 24, bytes(24)),
    ],
    ['a sector of 0 bytes', 'ERR_OUT_OF_RANGE', () => native.xtsMasks(bytes(0), 0, bytes(0))],
    ['half a tweak', 'ERR_INVALID_ARG_VALUE', () => native.xtsMasks(bytes(8), 32, bytes(32))],
    ['too little room for masks', 'ERR_INVALID_ARG_VALUE', () => native.xtsMasks(bytes(32), 32, bytes(32))],
    ['a mask of another length', 'ERR_INVALID_ARG_VALUE', () => native.xorInto(bytes(16), bytes(15))],
    [
      'ciphertext of another length',
      'ERR_INVALID_ARG_VALUE',
      () => native.cbcDecryptFinish(bytes(512), bytes(496), bytes(16), 512),
    ],
    [
      'too few vectors',
      'ERR_INVALID_ARG_VALUE',
      () => native.cbcDecryptFinish(bytes(1024), bytes(1024), bytes(16), 512),
    ],
    [
      'part of a sector',
      'ERR_INVALID_ARG_VALUE',
      () => native.cbcDecryptFinish(bytes(528), bytes(528), bytes(16), 512),
    ],
    ['a negative sector', 'ERR_OUT_OF_RANGE', () => native.plain64(-1, 1, bytes(16))],
    ['more sectors than room', 'ERR_INVALID_ARG_VALUE', () => native.plain64(0, 2, bytes(16))],
    [
      'a view that is not of bytes',
      'ERR_INVALID_ARG_TYPE',
      () => native.xorInto(new Uint16Array(8) as unknown as Uint8Array, bytes(16)),
    ],
  ];
  for (const [name, code, call] of refused) {
    it(`refuse ${name}`, () => expect(call).toThrow(expect.objectContaining({ code })));
  }
});
