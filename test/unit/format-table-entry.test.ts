/** L1, refcount table and bitmap table entries against the same rules written with BigInt. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  describeEntryProblem,
  EntryProblem,
  isBitmapAllOnes,
  isL1EntryCopied,
  nextEntry,
  readBitmapTableEntry,
  readL1Entry,
  readRefcountTableEntry,
  tableLength,
  tableView,
  writeBitmapAllOnes,
  writeBitmapTableEntry,
  writeL1Entry,
  writeRefcountTableEntry,
} from '../../lib/format/table-entry.js';

const clusterSizes = fc.integer({ min: 9, max: 21 }).map((bits) => 2 ** bits);

/** The bits a reader must take as an offset and those it must refuse, in the words of the specification. */
function expected(raw: bigint, offsetBits: bigint, ignored: bigint, clusterSize: number): number {
  const offset = raw & offsetBits;
  if ((raw & ~offsetBits & ~ignored) !== 0n) return EntryProblem.reservedBits;
  if (offset % BigInt(clusterSize) !== 0n) return EntryProblem.unaligned;
  return offset > BigInt(Number.MAX_SAFE_INTEGER) ? EntryProblem.tooFar : Number(offset);
}
const bits = (from: bigint, to: bigint): bigint => ((1n << (to - from + 1n)) - 1n) << from;

/** Entries with few bits set and aligned ones are as likely as wholly random ones. */
const entries = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  fc
    .uniqueArray(fc.integer({ min: 0, max: 63 }), { maxLength: 3 })
    .map((set) => set.reduce((raw, bit) => raw | (1n << BigInt(bit)), 0n)),
  fc.bigInt({ min: 0n, max: (1n << 33n) - 1n }).map((cluster) => cluster << 21n),
);

function holding(raw: bigint): DataView {
  const table = tableView(new Uint8Array(24));
  table.setBigUint64(8, raw);
  return table;
}

describe('going from entry to entry', () => {
  it('finds each that has a bit set, and no other', () => {
    const used = fc.uniqueArray(fc.integer({ min: 0, max: 299 }), { maxLength: 40 });
    fc.assert(
      fc.property(used, fc.array(fc.integer({ min: 0, max: 63 }), { minLength: 1 }), (indexes, bitsSet) => {
        // A view into the middle of a buffer, with other bytes around it.
        const table = tableView(new Uint8Array(8 * 302).fill(255).subarray(8, 8 * 301));
        new Uint8Array(table.buffer, 8, 8 * 300).fill(0);
        indexes.forEach((index, i) => {
          table.setBigUint64(index * 8, 1n << BigInt(bitsSet[i % bitsSet.length] ?? 0));
        });
        const found: number[] = [];
        for (let at = nextEntry(table, 0); at < tableLength(table); at = nextEntry(table, at + 1))
          found.push(at);
        expect(found).toEqual(indexes.toSorted((a, b) => a - b));
        expect(nextEntry(table, 300)).toBe(300);
      }),
    );
  });
});

describe('reading', () => {
  it('follows the specification for every entry', () => {
    fc.assert(
      fc.property(entries, clusterSizes, (raw, clusterSize) => {
        const table = holding(raw);
        expect(readL1Entry(table, 1, clusterSize)).toBe(expected(raw, bits(9n, 55n), 1n << 63n, clusterSize));
        expect(isL1EntryCopied(table, 1)).toBe(raw >> 63n === 1n);
        expect(readRefcountTableEntry(table, 1, clusterSize)).toBe(
          expected(raw, bits(9n, 63n), 0n, clusterSize),
        );
        const onesBit = (raw & bits(9n, 55n)) === 0n ? 1n : 0n;
        expect(readBitmapTableEntry(table, 1, clusterSize)).toBe(
          expected(raw, bits(9n, 55n), onesBit, clusterSize),
        );
        expect(isBitmapAllOnes(table, 1)).toBe(raw === 1n);
      }),
      { numRuns: 3000 },
    );
  });

  it('tells every problem apart', () => {
    expect(new Set(Object.values(EntryProblem).map(describeEntryProblem)).size).toBe(3);
  });

  it('works on a part of a buffer and ignores a cut-off last entry', () => {
    const bytes = new Uint8Array(64);
    bytes.set([0x80, 0, 0, 0, 0, 5, 0, 0], 11);
    const table = tableView(bytes.subarray(3, 3 + 23));
    expect(tableLength(table)).toBe(2);
    expect(readL1Entry(table, 1, 65536)).toBe(0x50000);
    expect(isL1EntryCopied(table, 1)).toBe(true);
  });
});

describe('writing', () => {
  const offsets = fc.bigInt({ min: 0n, max: (1n << 32n) - 1n }).map((cluster) => Number(cluster << 21n));

  it('writes the offset, COPIED and nothing else', () => {
    fc.assert(
      fc.property(offsets, fc.boolean(), (offset, copied) => {
        const table = holding((1n << 64n) - 1n);
        writeL1Entry(table, 1, offset, copied);
        expect(table.getBigUint64(8)).toBe(BigInt(offset) | (copied ? 1n << 63n : 0n));
        writeRefcountTableEntry(table, 1, offset);
        expect(table.getBigUint64(8)).toBe(BigInt(offset));
        writeBitmapAllOnes(table, 1);
        expect(table.getBigUint64(8)).toBe(1n);
        writeBitmapTableEntry(table, 1, offset);
        expect(table.getBigUint64(8)).toBe(BigInt(offset));
        expect([table.getBigUint64(0), table.getBigUint64(16)]).toEqual([0n, 0n]);
      }),
    );
  });
});
