/** Pictures of L2 tables: the native sums are those of the specification's runs, for any table and any grid. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { L2Flag, native, RunKind } from '../../lib/native.js';
import { guestPartStride, hostPartStride, piecesColumn } from '../../lib/native/l2-picture.js';
import { clusterSize, encode, entrySize, mapModel, tables, type Run } from './native-l2-model.js';

const isStored = ({ kind }: Run): boolean =>
  kind === RunKind.data || kind === RunKind.compressed || kind === RunKind.zeroAllocated;

const hostColumn = (kind: RunKind): number =>
  [RunKind.data, RunKind.compressed, RunKind.zeroAllocated].indexOf(kind as 2);

/** Adds byte after byte (in steps of `unit`), as slowly and plainly as it can be done. */
function model(runs: readonly Run[], start: number, end: number, grid: Grid): Sums {
  const { guestParts, hostParts, guestPart, hostPart, side } = grid;
  const guest = new Float64Array(guestParts * guestPartStride);
  const host = new Float64Array(hostParts * hostPartStride);
  const links = new Float64Array(side * side);
  const at = (offset: number, part: number, parts: number): number =>
    Math.min(parts - 1, Math.floor(offset / part));
  const add = (list: Float64Array, index: number, bytes: number): void => {
    list[index] = (list[index] ?? 0) + bytes;
  };
  let position = start;
  let expected = 0;
  for (const run of runs) {
    const length = Math.min(run.length, end - position);
    if (length <= 0) break;
    const row = at(position, guestPart, guestParts);
    if (isStored(run)) {
      const stored = run.kind === RunKind.compressed ? run.aux : length;
      const goesOn =
        run.kind === RunKind.compressed
          ? run.host <= expected && expected - run.host < 512
          : run.host === expected;
      if (!goesOn) add(guest, row * guestPartStride + piecesColumn, 1);
      expected = run.host + stored;
      for (let done = 0; done < stored; done += 1) {
        const column = at(run.host + done, hostPart, hostParts);
        const from = run.kind === RunKind.compressed ? row : at(position + done, guestPart, guestParts);
        // As far as the same parts go.
        let step = Math.min(
          stored - done,
          column === hostParts - 1 ? Infinity : (column + 1) * hostPart - run.host - done,
        );
        if (run.kind !== RunKind.compressed && from < guestParts - 1)
          step = Math.min(step, (from + 1) * guestPart - position - done);
        add(host, column * hostPartStride + hostColumn(run.kind), step);
        add(
          links,
          Math.floor((from * side) / guestParts) * side + Math.floor((column * side) / hostParts),
          step,
        );
        done += step - 1;
      }
    }
    for (let done = 0; done < length;) {
      const part = at(position + done, guestPart, guestParts);
      const step = Math.min(
        length - done,
        part === guestParts - 1 ? Infinity : (part + 1) * guestPart - position - done,
      );
      add(guest, part * guestPartStride + run.kind, step);
      done += step;
    }
    position += run.length;
  }
  return { guest, host, links, expected: Math.min(expected, Number.MAX_SAFE_INTEGER) };
}

interface Grid {
  guestPart: number;
  hostPart: number;
  guestParts: number;
  hostParts: number;
  side: number;
}

interface Sums {
  guest: Float64Array;
  host: Float64Array;
  links: Float64Array;
  expected: number;
}

const grids: fc.Arbitrary<Grid> = fc.record({
  guestPart: fc.integer({ min: 1, max: 300 }).map((n) => n * 4096),
  hostPart: fc.integer({ min: 1, max: 2 ** 20 }).map((n) => n * 2 ** 30),
  guestParts: fc.integer({ min: 1, max: 40 }),
  hostParts: fc.integer({ min: 1, max: 40 }),
  side: fc.integer({ min: 1, max: 12 }),
});

it('adds up any table as the specification reads it', () => {
  fc.assert(
    fc.property(tables, grids, fc.nat({ max: 1000 }), ({ shape, entries }, grid, lessThanAll) => {
      const start = 3 * 4096;
      const size = clusterSize(shape);
      const end = start + Math.max(1, entries.length * size - Math.floor((lessThanAll * size) / 400));
      const merging = { ...shape, flags: shape.flags | L2Flag.ignoreCopied };
      const expected = model(mapModel(merging, entries), start, end, grid);
      const guest = new Float64Array(grid.guestParts * guestPartStride);
      const host = new Float64Array(grid.hostParts * hostPartStride);
      const links = new Float64Array(grid.side ** 2);
      const { guestPart, hostPart } = grid;
      const table = encode(shape, entries);
      const last = native.addToPicture(
        table,
        shape.flags,
        shape.clusterBits,
        start,
        end,
        0,
        guestPart,
        hostPart,
        guest,
        host,
        links,
      );
      expect({ guest, host, links, expected: last }).toEqual(expected);
    }),
    { numRuns: 150 },
  );
});

it('refuses what it cannot add to', () => {
  const table = Buffer.alloc(entrySize({ flags: 0, clusterBits: 16 }));
  const add = (parts: number, guest: number, host: number, links: number): number =>
    native.addToPicture(
      table,
      0,
      16,
      0,
      65536,
      0,
      parts,
      1,
      new Float64Array(guest),
      new Float64Array(host),
      new Float64Array(links),
    );
  expect(add(1, 8, 3, 1)).toBe(0);
  for (const [parts, guest, host, links] of [
    [0, 8, 3, 1],
    [1, 7, 3, 1],
    [1, 0, 3, 1],
    [1, 8, 4, 1],
    [1, 8, 3, 2],
    [1, 8, 3, 0],
  ] as const) {
    expect(() => add(parts, guest, host, links)).toThrow(RangeError);
  }
});
