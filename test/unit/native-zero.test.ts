/** Zero detection, wherever the one byte that is not zero may hide. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { native } from '../../lib/native.js';

describe('isZero', () => {
  it('sees a single set bit at any place of a buffer at any address', () => {
    const memory = new Uint8Array(2048);
    for (const offset of [0, 1, 3, 8]) {
      for (const length of [0, 1, 7, 15, 16, 17, 255, 256, 257, 511, 512, 513, 1000]) {
        const view = memory.subarray(offset, offset + length);
        expect(native.isZero(view)).toBe(true);
        for (let at = 0; at < length; at++) {
          view[at] = 1 << (at % 8);
          expect(native.isZero(view)).toBe(false);
          view[at] = 0;
        }
      }
    }
  });

  it('does not look past its ends', () => {
    const memory = new Uint8Array(1024).fill(0xff);
    memory.fill(0, 100, 900);
    expect(native.isZero(memory.subarray(100, 900))).toBe(true);
    expect(native.isZero(memory.subarray(99, 900))).toBe(false);
    expect(native.isZero(memory.subarray(100, 901))).toBe(false);
  });
});

/** Block by block: the ends of alternating runs, the first of them non-zero. */
function model(data: Uint8Array, granularity: number): number[] {
  const ends: number[] = [];
  let zero = false;
  for (let at = 0; at < data.length; at += granularity) {
    const blockIsZero = data.subarray(at, at + granularity).every((byte) => byte === 0);
    if (blockIsZero !== zero) ends.push(at);
    zero = blockIsZero;
  }
  return data.length === 0 ? [] : [...ends, data.length];
}

const pieces = fc
  .array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 700 })), { maxLength: 8 })
  .map((list) => Buffer.concat(list.map(([zero, length]) => Buffer.alloc(length, zero ? 0 : 7))));

describe('zeroRuns', () => {
  it('alternates between data and zeros in blocks of the granularity', () => {
    fc.assert(
      fc.property(pieces, fc.constantFrom(1, 3, 16, 64, 512, 4096), (data, granularity) => {
        const out = new Float64Array(data.length + 2);
        const count = native.zeroRuns(data, granularity, out);
        expect([...out.subarray(0, count)]).toEqual(model(data, granularity));
      }),
      { numRuns: 500 },
    );
  });

  it('stops when the output is full', () => {
    fc.assert(
      fc.property(pieces, fc.integer({ min: 2, max: 5 }), (data, room) => {
        const out = new Float64Array(room);
        const count = native.zeroRuns(data, 64, out);
        expect([...out.subarray(0, count)]).toEqual(model(data, 64).slice(0, room));
      }),
    );
  });

  it('begins with an empty run when the buffer begins with zeros', () => {
    const out = new Float64Array(8);
    expect(native.zeroRuns(new Uint8Array(8192), 4096, out)).toBe(2);
    expect([...out.subarray(0, 2)]).toEqual([0, 8192]);
  });
});
