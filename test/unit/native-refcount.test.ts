/** Refcount blocks of every width against a model that picks the bits out one by one. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { native } from '../../lib/native.js';

const orders = [0, 1, 2, 3, 4, 5, 6];
const safe = BigInt(Number.MAX_SAFE_INTEGER);

/** All refcounts of a block, as the specification defines them. */
function refcounts(block: Uint8Array, order: number): bigint[] {
  const width = 2 ** order;
  return Array.from({ length: (block.length * 8) / width }, (_, index) => {
    if (width >= 8) {
      const bytes = [...block.subarray((index * width) / 8, ((index + 1) * width) / 8)];
      return bytes.reduce((value, byte) => value * 256n + BigInt(byte), 0n);
    }
    const perByte = 8 / width;
    const byte = block[Math.floor(index / perByte)] ?? 0;
    return BigInt(Math.floor(byte / 2 ** ((index % perByte) * width)) % 2 ** width);
  });
}

const blockOf = (bytes: number): fc.Arbitrary<Uint8Array> => {
  const sparse = fc.array(fc.tuple(fc.nat(bytes - 1), fc.integer({ min: 1, max: 255 })), { maxLength: 4 });
  return fc.oneof(
    fc.uint8Array({ minLength: bytes, maxLength: bytes }),
    fc.tuple(sparse, fc.constantFrom(0, 0xff)).map(([marks, ground]) => {
      const block = new Uint8Array(bytes).fill(ground);
      for (const [at, value] of marks) block[at] = ground ^ value;
      return block;
    }),
  );
};

const blocks = fc.record({
  order: fc.constantFrom(...orders),
  block: fc.constantFrom(64, 512).chain(blockOf),
  a: fc.nat(),
  b: fc.nat(),
});

/** Two indexes of a block, in order. */
function range({ order, block, a, b }: { order: number; block: Uint8Array; a: number; b: number }): {
  first: number;
  end: number;
} {
  const entries = (block.length * 8) / 2 ** order;
  const first = a % (entries + 1);
  return { first, end: first + (b % (entries - first + 1)) };
}

describe('refcount blocks', () => {
  it.each(orders)('reads every refcount of order %i', (order) => {
    fc.assert(
      fc.property(blockOf(64), (block) => {
        const expected = refcounts(block, order).map((count) => Number(count > safe ? safe : count));
        expect(expected.map((_, index) => native.refcountGet(block, order, index))).toEqual(expected);
      }),
    );
  });

  it('sets a range and nothing beside it', () => {
    fc.assert(
      fc.property(blocks, fc.bigInt(0n, safe), (c, random) => {
        const { first, end } = range(c);
        const value = random % 2n ** BigInt(2 ** c.order);
        const expected = refcounts(c.block, c.order).map((old, index) =>
          index >= first && index < end ? value : old,
        );
        native.refcountSet(c.block, c.order, first, end - first, Number(value));
        expect(refcounts(c.block, c.order)).toEqual(expected);
      }),
      { numRuns: 700 },
    );
  });

  it('adds to a range, or changes nothing and tells the first index that cannot take it', () => {
    fc.assert(
      fc.property(blocks, fc.oneof(fc.integer({ min: -3, max: 3 }), fc.maxSafeInteger()), (c, delta) => {
        const { first, end } = range(c);
        const before = refcounts(c.block, c.order);
        const sums = before.map((old, index) => (index >= first && index < end ? old + BigInt(delta) : old));
        const stuck = sums.findIndex((sum) => sum < 0n || sum >= 2n ** BigInt(2 ** c.order));
        expect(native.refcountAdd(c.block, c.order, first, end - first, delta)).toBe(stuck);
        expect(refcounts(c.block, c.order)).toEqual(stuck === -1 ? sums : before);
      }),
      { numRuns: 1500 },
    );
  });

  it('finds the next free and the next used refcount, and counts those in use', () => {
    fc.assert(
      fc.property(blocks, (c) => {
        const { first, end } = range(c);
        const counts = refcounts(c.block, c.order).slice(0, end);
        const next = (wanted: (count: bigint) => boolean): number => {
          const found = counts.findIndex((count, index) => index >= first && wanted(count));
          return found === -1 ? end : found;
        };
        expect(native.refcountNextFree(c.block, c.order, first, end)).toBe(next((count) => count === 0n));
        expect(native.refcountNextUsed(c.block, c.order, first, end)).toBe(next((count) => count !== 0n));
        if (first < end) {
          const runEnd = next((count) => count !== counts[first]);
          expect(native.refcountRunEnd(c.block, c.order, first, end)).toBe(runEnd);
        }
        const used = counts.slice(first).filter((count) => count !== 0n).length;
        expect(native.refcountCountUsed(c.block, c.order, first, end)).toBe(used);
      }),
      { numRuns: 1500 },
    );
  });

  it('keeps 64-bit refcounts whole where numbers cannot hold them', () => {
    const block = Buffer.alloc(64);
    block.writeBigUInt64BE(2n ** 64n - 2n, 8);
    expect(native.refcountGet(block, 6, 1)).toBe(Number.MAX_SAFE_INTEGER);
    expect(native.refcountAdd(block, 6, 1, 1, 1)).toBe(-1);
    expect(block.readBigUInt64BE(8)).toBe(2n ** 64n - 1n);
    expect(native.refcountAdd(block, 6, 0, 3, 1)).toBe(1);
    expect(native.refcountAdd(block, 6, 1, 1, -2)).toBe(-1);
    expect(block.readBigUInt64BE(8)).toBe(2n ** 64n - 3n);
  });

  it.each(orders)('refuses a value that order %i cannot hold', (order) => {
    const most = order === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (2 ** order) - 1;
    const block = Buffer.alloc(64);
    native.refcountSet(block, order, 0, 1, most);
    expect(native.refcountGet(block, order, 0)).toBe(most);
    expect(() => native.refcountSet(block, order, 0, 1, most + 1)).toThrow(
      expect.objectContaining({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE' }),
    );
  });
});
