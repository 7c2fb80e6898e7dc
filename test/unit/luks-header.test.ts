import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Qcow2Error } from '../../lib/errors.js';
import { encodeLuksHeader, encodeLuksSlot, luksSlotOffset, parseLuksHeader } from '../../lib/format/luks.js';
import { pattern } from '../support/pattern.js';

const areaLength = 4096 + 8 * 258048;

/** A header for aes-256 in XTS mode, put together field by field as the LUKS1 specification lists them. */
function specimen(): Buffer {
  const area = Buffer.alloc(areaLength);
  area.write('4c554b53babe0001', 0, 'hex');
  area.write('aes', 8);
  area.write('xts-plain64', 40);
  area.write('sha256', 72);
  area.writeUInt32BE(4040, 104);
  area.writeUInt32BE(64, 108);
  area.set(pattern(1, 20), 112);
  area.set(pattern(2, 32), 132);
  area.writeUInt32BE(10_959, 164);
  area.write('f40521f8-f1f1-4ee3-96b4-bfc2dbdc5323', 168);
  for (let slot = 0; slot < 8; slot += 1) {
    const at = 208 + 48 * slot;
    area.writeUInt32BE(slot === 2 ? 0x00ac71f3 : 0x0000dead, at);
    if (slot === 2) {
      area.writeUInt32BE(44_521, at + 4);
      area.set(pattern(3, 32), at + 8);
    }
    area.writeUInt32BE(8 + 504 * slot, at + 40);
    area.writeUInt32BE(4000, at + 44);
  }
  return area;
}

/** The specimen with one 32-bit field changed. */
function withNumber(at: number, value: number): Buffer {
  const area = specimen();
  area.writeUInt32BE(value, at);
  return area;
}

function withText(at: number, text: string): Buffer {
  const area = specimen();
  area.write(text, at, 'latin1');
  return area;
}

function errorOf(area: Uint8Array): Qcow2Error {
  try {
    parseLuksHeader(area);
  } catch (error) {
    if (error instanceof Qcow2Error) return error;
    throw error;
  }
  throw new Error('the header was accepted');
}

describe('parseLuksHeader', () => {
  it('reads every field', () => {
    const header = parseLuksHeader(specimen());
    expect(header).toMatchObject({
      cipherName: 'aes',
      cipherMode: 'xts-plain64',
      hashSpec: 'sha256',
      payloadOffset: 2_068_480,
      keyBytes: 64,
      masterKeyIterations: 10_959,
      uuid: 'f40521f8-f1f1-4ee3-96b4-bfc2dbdc5323',
    });
    expect(Buffer.from(header.masterKeyDigest)).toEqual(pattern(1, 20));
    expect(Buffer.from(header.masterKeySalt)).toEqual(pattern(2, 32));
    expect(header.slots.map(({ active }) => active)).toEqual([0, 0, 1, 0, 0, 0, 0, 0].map(Boolean));
    expect(header.slots.map((slot) => slot.keyMaterialOffset)).toEqual([
      4096, 262_144, 520_192, 778_240, 1_036_288, 1_294_336, 1_552_384, 1_810_432,
    ]);
    expect(header.slots[2]).toMatchObject({ iterations: 44_521, stripes: 4000 });
    expect(Buffer.from(header.slots[2]?.salt ?? [])).toEqual(pattern(3, 32));
  });

  it('copies what it returns, so that wiping the area leaves the record alone', () => {
    const area = specimen();
    const header = parseLuksHeader(area);
    area.fill(0);
    expect(Buffer.from(header.masterKeyDigest)).toEqual(pattern(1, 20));
    expect(Buffer.from(header.slots[2]?.salt ?? [])).toEqual(pattern(3, 32));
  });

  it('reads an area that is a view into a larger buffer', () => {
    const around = Buffer.concat([Buffer.alloc(7, 0xee), specimen(), Buffer.alloc(9, 0xee)]);
    expect(parseLuksHeader(around.subarray(7, 7 + areaLength))).toEqual(parseLuksHeader(specimen()));
  });

  it('is undone by encodeLuksHeader, byte for byte', () => {
    const area = specimen();
    const header = parseLuksHeader(area);
    expect(Buffer.from(encodeLuksHeader(header))).toEqual(area.subarray(0, 592));
    header.slots.forEach((slot, index) => {
      const at = luksSlotOffset(index);
      expect(Buffer.from(encodeLuksSlot(slot))).toEqual(area.subarray(at, at + 48));
    });
  });

  it.each<[string, Uint8Array, RegExp]>([
    ['nothing', new Uint8Array(0), /0 bytes where 592/],
    ['591 bytes', specimen().subarray(0, 591), /591 bytes/],
    ['another magic', withText(0, 'LUKX'), /magic/],
    ['a name that fills its field', withText(8, 'a'.repeat(32)), /cipher-name at byte 8/],
    ['an empty mode', withText(40, '\0'), /cipher-mode at byte 40 is empty/],
    ['escape sequences in a name', withText(72, '\x1b[2J\0'), /hash-spec at byte 72/],
    ['a key of no bytes', withNumber(108, 0), /key-bytes at byte 108 is 0/],
    ['a key of 4 GiB', withNumber(108, 0xffffffff), /key-bytes at byte 108 is 4294967295/],
    ['a digest of no iterations', withNumber(164, 0), /mk-digest-iter at byte 164/],
    ['a slot neither active nor inactive', withNumber(208 + 48, 5), /slot 1 at byte 256/],
    [
      'an active slot of no iterations',
      withNumber(208 + 48, 0x00ac71f3),
      /slot 1 is active with 0 iterations/,
    ],
    ['other stripes', withNumber(208 + 44, 2000), /slot 0 has 2000 stripes/],
    [
      'key material in the header',
      withNumber(208 + 40, 1),
      /slot 0 at byte 512 overlaps the partition header/,
    ],
    ['key material at 0', withNumber(208 + 40, 0), /slot 0 at byte 0 overlaps/],
    ['overlapping slots', withNumber(208 + 40, 13), /slot 1 at byte 262144 overlaps that of slot 0/],
    ['equal places', withNumber(208 + 40, 512), /overlaps that of slot/],
    ['key material past the end', withNumber(208 + 7 * 48 + 40, 3545), /slot 7 ends at byte 2071040/],
    ['key material far past the end', withNumber(208 + 7 * 48 + 40, 0xffffffff), /slot 7 ends/],
    ['an area cut short', specimen().subarray(0, 2_066_431), /slot 7 ends at byte 2066432/],
  ])('refuses %s as damage', (_name, area, message) => {
    const error = errorOf(area);
    expect(error.code).toBe('ERR_QCOW2_CORRUPT');
    expect(error.message).toMatch(message);
  });

  it('refuses LUKS2 as unsupported', () => {
    const area = specimen();
    area.writeUInt16BE(2, 6);
    expect(errorOf(area)).toMatchObject({ code: 'ERR_QCOW2_UNSUPPORTED', feature: 'LUKS version 2' });
  });

  it('makes a damaged uuid printable instead of refusing what the format does not use', () => {
    expect(parseLuksHeader(withText(168, '\x1b]0;')).uuid).toMatch(/^\?\]0;[0-9a-f-]+$/);
  });

  it('gives a record or a Qcow2Error for any bytes, and a record is written back as it was read', () => {
    const valid = specimen();
    const change = fc.record({ at: fc.nat(591), byte: fc.nat(255) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.boolean(), (changes, cut) => {
        const area = Buffer.from(valid);
        for (const { at, byte } of changes) area[at] = byte;
        try {
          const header = parseLuksHeader(cut ? area.subarray(0, 600) : area);
          expect(parseLuksHeader(Buffer.concat([encodeLuksHeader(header), area.subarray(592)]))).toEqual(
            header,
          );
        } catch (error) {
          if (!(error instanceof Qcow2Error)) throw error;
        }
      }),
      { numRuns: 2000 },
    );
  });
});
