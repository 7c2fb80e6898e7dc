/** Mapping L2 tables: the native runs are those of the specification, for any table. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InvalidEntry, L2Flag, native, runStride, RunKind } from '../../lib/native.js';
import {
  clusterSize,
  encode,
  entrySize,
  isExtended,
  mapModel,
  type Run,
  type Shape,
  tables,
} from './native-l2-model.js';

const v3 = L2Flag.zeroFlag;

function readRuns(out: Float64Array, count: number): Run[] {
  return Array.from({ length: count }, (_, index) => {
    const [kind, length, host, aux] = out.subarray(index * runStride);
    return { kind, length, host, aux } as Run;
  });
}

function map(shape: Shape, table: Uint8Array, first = 0, count = table.length / entrySize(shape)): Run[] {
  const out = new Float64Array(runStride * Math.max(32, 32 * count));
  return readRuns(out, native.mapL2(table, shape.flags, shape.clusterBits, first, count, out));
}

const words = (...entries: bigint[]): Buffer =>
  encode(
    { flags: 0, clusterBits: 16 },
    entries.map((descriptor) => ({ descriptor, bitmap: 0n })),
  );

describe('mapL2', () => {
  it('maps any table, and any part of it, to the runs of the specification', () => {
    fc.assert(
      fc.property(tables, fc.nat(), fc.nat(), ({ shape, entries }, a, b) => {
        const first = a % (entries.length + 1);
        const count = b % (entries.length - first + 1);
        const table = encode(shape, entries);
        expect(map(shape, table)).toEqual(mapModel(shape, entries));
        expect(map(shape, table, first, count)).toEqual(mapModel(shape, entries.slice(first, first + count)));
      }),
      { numRuns: 3000 },
    );
  });

  it('stops between two entries when the output is full, so that the rest follows from where the lengths end', () => {
    fc.assert(
      fc.property(tables, fc.integer({ min: 0, max: 5 }), ({ shape, entries }, extra) => {
        const table = encode(shape, entries);
        const size = clusterSize(shape);
        const out = new Float64Array(runStride * ((isExtended(shape) ? 32 : 1) + extra));
        for (let first = 0; first < entries.length;) {
          const count = native.mapL2(
            table,
            shape.flags,
            shape.clusterBits,
            first,
            entries.length - first,
            out,
          );
          const runs = readRuns(out, count);
          const covered = runs.reduce((sum, run) => sum + run.length, 0) / size;
          expect(Number.isInteger(covered)).toBe(true);
          expect(covered).toBeGreaterThan(0);
          expect(runs).toEqual(mapModel(shape, entries.slice(first, first + covered)));
          first += covered;
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('merges consecutive clusters, and splits at COPIED unless told to ignore it', () => {
    const copied = 1n << 63n;
    const table = words(0x50000n | copied, 0x60000n | copied, 0x70000n, 0x90000n);
    expect(map({ flags: v3, clusterBits: 16 }, table)).toEqual([
      { kind: RunKind.data, length: 0x20000, host: 0x50000, aux: 1 },
      { kind: RunKind.data, length: 0x10000, host: 0x70000, aux: 0 },
      { kind: RunKind.data, length: 0x10000, host: 0x90000, aux: 0 },
    ]);
    expect(map({ flags: v3 | L2Flag.ignoreCopied, clusterBits: 16 }, table)).toEqual([
      { kind: RunKind.data, length: 0x30000, host: 0x50000, aux: 1 },
      { kind: RunKind.data, length: 0x10000, host: 0x90000, aux: 0 },
    ]);
  });

  it('does not take reserved bits for the continuation of the last host cluster', () => {
    const last = (1n << 56n) - 0x10000n;
    expect(map({ flags: v3, clusterBits: 16 }, words(last, 1n << 56n))).toEqual([
      { kind: RunKind.data, length: 0x10000, host: Number(last), aux: 0 },
      { kind: RunKind.invalid, length: 0x10000, host: 0, aux: InvalidEntry.reservedBits },
    ]);
  });

  it('reads offset 0 with COPIED as data only in an external data file', () => {
    const table = words(1n << 63n, 0x10000n | (1n << 63n), 0n);
    expect(map({ flags: v3 | L2Flag.externalData | L2Flag.ignoreCopied, clusterBits: 16 }, table)).toEqual([
      { kind: RunKind.data, length: 0x20000, host: 0, aux: 1 },
      { kind: RunKind.unallocated, length: 0x10000, host: 0, aux: 0 },
    ]);
    expect(map({ flags: v3, clusterBits: 16 }, table)[0]).toEqual({
      kind: RunKind.invalid,
      length: 0x10000,
      host: 0,
      aux: InvalidEntry.copiedWithoutHost,
    });
  });

  it('reads a table at an odd address', () => {
    const table = words(0x50000n, 0x60000n, 1n);
    const shifted = new Uint8Array(table.length + 3).subarray(3);
    shifted.set(table);
    expect(map({ flags: v3, clusterBits: 16 }, shifted)).toEqual(map({ flags: v3, clusterBits: 16 }, table));
  });

  it('maps a 2 MiB table of one run', () => {
    const table = Buffer.alloc(2 ** 21);
    for (let index = 0; index < 2 ** 18; index++) table.writeBigUInt64BE(BigInt(index + 5) << 21n, index * 8);
    expect(map({ flags: v3, clusterBits: 21 }, table, 1, 2 ** 18 - 1)).toEqual([
      { kind: RunKind.data, length: (2 ** 18 - 1) * 2 ** 21, host: 6 * 2 ** 21, aux: 0 },
    ]);
  });
});
