/** Changing L2 tables: every entry becomes what a subcluster-by-subcluster model of the specification makes of it. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { L2Flag, native, RunKind } from '../../lib/native.js';
import {
  clusterSize,
  compressedPart,
  decode,
  encode,
  type Entry,
  entriesOf,
  isExtended,
  type Shape,
  shapes,
  subclusterSize,
} from './native-l2-model.js';

const copied = 1n << 63n;
const compressedFlag = 1n << 62n;
const placeBits = (2n ** 56n - 512n) | copied;

interface Case {
  shape: Shape;
  entries: Entry[];
  start: number;
  length: number;
}

/** A table and a range of it that begins and ends at subclusters. */
const cases = (allowed: (flags: number) => boolean): fc.Arbitrary<Case> =>
  shapes
    .filter(({ flags }) => allowed(flags))
    .chain((shape) =>
      fc
        .record({ entries: entriesOf(shape), a: fc.nat(), b: fc.nat(), whole: fc.boolean() })
        .map(({ entries, a, b, whole }) => {
          const unit = whole ? clusterSize(shape) : subclusterSize(shape);
          const units = (entries.length * clusterSize(shape)) / unit;
          const first = a % (units + 1);
          return { shape, entries, start: first * unit, length: (b % (units - first + 1)) * unit };
        }),
    );

/** The covered subclusters of each entry the range touches: index -> subcluster numbers. */
function coverage({ shape, start, length }: Case): Map<number, number[]> {
  const perCluster = isExtended(shape) ? 32 : 1;
  const covered = new Map<number, number[]>();
  for (let at = start; at < start + length; at += subclusterSize(shape)) {
    const number = at / subclusterSize(shape);
    const index = Math.floor(number / perCluster);
    covered.set(index, [...(covered.get(index) ?? []), number % perCluster]);
  }
  return covered;
}

const isWhole = (shape: Shape, subclusters: number[]): boolean =>
  subclusters.length === (isExtended(shape) ? 32 : 1);
const setBits = (word: bigint, at: number[]): bigint =>
  at.reduce((bits, n) => bits | (1n << BigInt(n)), word);
const clearBits = (word: bigint, at: number[]): bigint =>
  at.reduce((bits, n) => bits & ~(1n << BigInt(n)), word);
const upper = (at: number[]): number[] => at.map((n) => n + 32);

/** The table after each touched entry went through `change`. */
function changed(c: Case, change: (entry: Entry, subclusters: number[], nth: number) => Entry): Entry[] {
  const result = [...c.entries];
  [...coverage(c)].forEach(([index, subclusters], nth) => {
    const old = c.entries[index] ?? { descriptor: 0n, bitmap: 0n };
    const plain = (old.descriptor & compressedFlag) !== 0n ? { descriptor: 0n, bitmap: 0n } : old;
    const next = change(plain, subclusters, nth);
    result[index] = isExtended(c.shape) ? next : { ...next, bitmap: 0n };
  });
  return result;
}

function apply(c: Case, set: (table: Buffer) => void): Entry[] {
  const table = encode(c.shape, c.entries);
  set(table);
  return decode(c.shape, table);
}

describe('l2SetData', () => {
  it('makes exactly the range data in consecutive clusters', () => {
    fc.assert(
      fc.property(
        cases(() => true),
        fc.nat(1000),
        (c, place) => {
          const { shape, start, length } = c;
          const host = (place + 1) * clusterSize(shape);
          const expected = changed(c, (entry, subclusters, nth) => ({
            descriptor: BigInt(host + nth * clusterSize(shape)) | copied,
            bitmap: setBits(clearBits(entry.bitmap, upper(subclusters)), subclusters),
          }));
          const actual = apply(c, (table) => {
            native.l2SetData(table, shape.flags, shape.clusterBits, start, length, host);
          });
          expect(actual).toEqual(expected);
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('takes host offset 0 only for an external data file', () => {
    const table = Buffer.alloc(64);
    expect(() => native.l2SetData(table, L2Flag.zeroFlag, 16, 0, 65536, 0)).toThrow(
      expect.objectContaining({ code: 'ERR_OUT_OF_RANGE' }),
    );
    native.l2SetData(table, L2Flag.zeroFlag | L2Flag.externalData, 16, 0, 65536, 0);
    expect(table.readBigUInt64BE(0)).toBe(copied);
  });

  it('reaches the last host cluster and no further', () => {
    const table = Buffer.alloc(64);
    const table2M = Buffer.alloc(64);
    const last = Number.MAX_SAFE_INTEGER + 1 - 2 ** 21;
    native.l2SetData(table2M, L2Flag.zeroFlag, 21, 0, 2 ** 21, last);
    expect(table2M.readBigUInt64BE(0)).toBe(BigInt(last) | copied);
    expect(() => native.l2SetData(table, L2Flag.zeroFlag, 16, 0, 65536, 2 ** 53)).toThrow(
      expect.objectContaining({ code: 'ERR_OUT_OF_RANGE' }),
    );
    expect(() => native.l2SetData(table, L2Flag.zeroFlag, 16, 0, 65536, 65536 + 512)).toThrow(
      expect.objectContaining({ code: 'ERR_OUT_OF_RANGE' }),
    );
  });
});

describe('l2SetZero', () => {
  it('makes exactly the range zero, keeping or dropping host clusters', () => {
    fc.assert(
      fc.property(
        cases((flags) => (flags & (L2Flag.extended | L2Flag.zeroFlag)) !== 0),
        fc.boolean(),
        (c, keepHost) => {
          const { shape, start, length } = c;
          const expected = changed(c, (entry, subclusters) => {
            const drops = isWhole(shape, subclusters) && !keepHost;
            const place = drops ? 0n : entry.descriptor & placeBits;
            return {
              descriptor: isExtended(shape) ? place : place | 1n,
              bitmap: clearBits(setBits(entry.bitmap, upper(subclusters)), subclusters),
            };
          });
          const actual = apply(c, (table) => {
            native.l2SetZero(table, shape.flags, shape.clusterBits, start, length, keepHost);
          });
          expect(actual).toEqual(expected);
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('refuses version 2, which has no zero clusters', () => {
    expect(() => native.l2SetZero(Buffer.alloc(64), 0, 16, 0, 65536, false)).toThrow(
      expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG_VALUE' }),
    );
  });
});

describe('l2SetUnallocated', () => {
  it('makes exactly the range unallocated; clusters still in part used keep their host', () => {
    fc.assert(
      fc.property(
        cases(() => true),
        (c) => {
          const { shape, start, length } = c;
          const expected = changed(c, (entry, subclusters) =>
            isWhole(shape, subclusters)
              ? { descriptor: 0n, bitmap: 0n }
              : {
                  descriptor: entry.descriptor,
                  bitmap: clearBits(entry.bitmap, [...subclusters, ...upper(subclusters)]),
                },
          );
          const actual = apply(c, (table) => {
            native.l2SetUnallocated(table, shape.flags, shape.clusterBits, start, length);
          });
          expect(actual).toEqual(expected);
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe('l2SetCompressed', () => {
  it('writes a descriptor that leads back to the data, using no sector more than needed', () => {
    fc.assert(
      fc.property(
        shapes.filter(({ flags }) => (flags & L2Flag.externalData) === 0),
        fc.bigInt(1n, 2n ** 53n - 1n),
        fc.nat(),
        (shape, place, size) => {
          const offsetBits = BigInt(62 - (shape.clusterBits - 8));
          const host = Number(place % 2n ** offsetBits) || 1;
          const length = 1 + (size % (clusterSize(shape) * 2 - (host % 512)));
          const table = encode(shape, [
            { descriptor: copied | 0x10000n, bitmap: isExtended(shape) ? 0xffffffffn : 0n },
            { descriptor: copied | 0x20000n, bitmap: isExtended(shape) ? 0xffffffffn : 0n },
          ]);
          const before = decode(shape, table)[0];
          native.l2SetCompressed(table, shape.flags, shape.clusterBits, 1, host, length);
          const [first, second] = decode(shape, table);
          expect(first).toEqual(before);
          expect(second?.bitmap).toBe(0n);
          expect((second?.descriptor ?? 0n) >> 62n).toBe(1n);
          const part = compressedPart(shape, second?.descriptor ?? 0n);
          expect(Number(part.offset)).toBe(host);
          expect(Number(part.length)).toBeGreaterThanOrEqual(length);
          expect(Number(part.length)).toBeLessThan(length + 512);
          const out = new Float64Array(128);
          native.mapL2(table, shape.flags, shape.clusterBits, 1, 1, out);
          expect([...out.subarray(0, 4)]).toEqual([
            RunKind.compressed,
            clusterSize(shape),
            host,
            Number(part.length),
          ]);
        },
      ),
      { numRuns: 1000 },
    );
  });

  it.each([
    ['an offset past what the descriptor holds', 2 ** 49, 100, 'ERR_OUT_OF_RANGE'],
    ['no bytes', 65536, 0, 'ERR_OUT_OF_RANGE'],
    ['more sectors than the descriptor counts', 65536 + 1, 2 ** 22, 'ERR_OUT_OF_RANGE'],
    ['the header as its place', 0, 100, 'ERR_OUT_OF_RANGE'],
  ])('refuses %s', (_, host, length, code) => {
    expect(() => native.l2SetCompressed(Buffer.alloc(64), L2Flag.zeroFlag, 21, 0, host, length)).toThrow(
      expect.objectContaining({ name: 'RangeError', code }),
    );
  });

  it('refuses an external data file, where nothing is compressed', () => {
    expect(() => native.l2SetCompressed(Buffer.alloc(64), L2Flag.externalData, 16, 0, 65536, 100)).toThrow(
      expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG_VALUE' }),
    );
  });
});
