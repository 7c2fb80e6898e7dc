/** Planned copies between files, held against the same copies made with plain buffers. */
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import {
  blocksAhead,
  Codec,
  Content,
  native,
  PackingArea,
  spareBuffers,
  transferStride,
} from '../../lib/native.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const path = useTempDir();

interface Plan {
  compression?: number[];
  area?: Float64Array;
  units: number[][];
  pieces: number[][];
  places?: number[][];
  granularity?: number;
  workers?: number;
  sparse?: boolean;
  /** What pieces name by 2. */
  memory?: Uint8Array;
  reservesAhead?: boolean;
}

/** Runs a plan from the file `in`, which pieces name by 0, into the file `out`. */
async function transfer(plan: Plan): Promise<{ runs: number[][]; result: number }> {
  const { granularity = 4096, workers = 3, places = [], sparse = true } = plan;
  const from = openSync(path('in'), 'r');
  const to = openSync(path('out'), 'w');
  try {
    const placed = new Float64Array(3 * 4096);
    const work = native.transfer(
      to,
      // The second is no open file.
      Float64Array.of(from, 1_000_000),
      Float64Array.from(plan.units.flat()),
      Float64Array.from(plan.pieces.flat()),
      Float64Array.from(places.flat()),
      granularity,
      new Uint8Array((workers + spareBuffers) * 64 * KiB * (plan.compression === undefined ? 1 : 2)),
      placed,
      workers,
      Float64Array.from(plan.compression ?? []),
      plan.area ?? new Float64Array(0),
      sparse ? Content.data : Content.read,
      plan.memory ?? new Uint8Array(0),
      plan.reservesAhead ?? false,
    );
    expect(work.length).toBe(workers);
    const settled = await Promise.allSettled(work);
    const results = await Promise.all(work);
    expect(settled.length).toBe(workers);
    const result = results.includes(-1) ? -1 : Math.max(...results);
    const runs = Array.from({ length: Math.max(0, result) }, (_, i) => [
      ...placed.subarray(i * transferStride.placed, (i + 1) * transferStride.placed),
    ]);
    return { runs, result };
  } finally {
    closeSync(from);
    closeSync(to);
  }
}

const plain = (position: number, length: number, offset = 0): number[] => [
  0,
  position,
  length,
  offset,
  length,
  0,
  0,
  0,
];

/** A disk of 1 MiB + 512 bytes in units of 64 KiB. */
const disk = mixedDisk(1, 1024 * KiB + 512);
const content = disk.read(0, disk.size);
const unitStarts = Array.from({ length: 17 }, (_, i) => i * 64 * KiB);
const unitLength = (start: number): number => Math.min(64 * KiB, disk.size - start);
const wholeUnits = {
  units: unitStarts.map((start) => [start, unitLength(start), 1]),
  pieces: unitStarts.map((start) => plain(start, unitLength(start))),
};

describe('to the same places', () => {
  it.each([1, 2, 8])('copies everything with %i workers and leaves zeros out', async (workers) => {
    writeFileSync(path('in'), content);
    expect(await transfer({ ...wholeUnits, workers })).toEqual({ runs: [], result: 0 });
    expect(readFileSync(path('out')).equals(content)).toBe(true);
  });

  it('takes what no piece fills for zeros, whatever a buffer held before', async () => {
    writeFileSync(path('in'), pattern(1, 64 * KiB));
    const units = [0, 1, 2, 3].map((i) => [i * 64 * KiB, 64 * KiB, i % 2 === 0 ? 1 : 2]);
    const pieces = [
      plain(0, 64 * KiB),
      plain(100, 5000, 3000),
      plain(0, 1, 65535),
      plain(0, 64 * KiB),
      plain(9, 1, 0),
      plain(7, 2, 40000),
    ];
    await transfer({ units, pieces, workers: 1 });
    const source = readFileSync(path('in'));
    const expected = Buffer.alloc(256 * KiB);
    source.copy(expected, 0);
    source.copy(expected, 64 * KiB + 3000, 100, 5100);
    source.copy(expected, 128 * KiB - 1, 0, 1);
    source.copy(expected, 128 * KiB);
    source.copy(expected, 192 * KiB, 9, 10);
    source.copy(expected, 192 * KiB + 40000, 7, 9);
    const out = readFileSync(path('out'));
    expect(out.equals(expected.subarray(0, out.length))).toBe(true);
    expect(expected.subarray(out.length).every((byte) => byte === 0)).toBe(true);
  });

  it('takes pieces out of memory, compressed ones too', async () => {
    writeFileSync(path('in'), pattern(2, 64 * KiB));
    const packed = deflateRawSync(content.subarray(4096, 8192));
    const memory = Buffer.concat([pattern(5, 9000), packed, Buffer.alloc(100)]);
    const pieces = [
      [2, 1000, 8000, 0, 8000, 0, 0, 0],
      [2, 9000, packed.length + 50, 12_288, 4096, 4096, 0, Codec.deflate],
      [2, 9000, packed.length, 20_000, 1000, 4096, 96, Codec.deflate],
      plain(64, 4096, 28_672),
    ];
    await transfer({ units: [[0, 64 * KiB, 4]], pieces, memory });
    const expected = Buffer.alloc(32_768);
    expected.set(memory.subarray(1000, 9000));
    expected.set(content.subarray(4096, 8192), 12_288);
    expected.set(content.subarray(4192, 5192), 20_000);
    expected.set(readFileSync(path('in')).subarray(64, 4160), 28_672);
    expect(readFileSync(path('out')).equals(expected)).toBe(true);
    const damaged = [[2, 1000, 500, 0, 4096, 4096, 0, Codec.deflate]];
    expect((await transfer({ units: [[0, 4096, 1]], pieces: damaged, memory })).result).toBe(-1);
    for (const [position, length] of [
      [memory.length - 10, 11],
      [memory.length, 1],
      [2 ** 40, 1],
    ] as const) {
      const outside = [[2, position, length, 0, length, 0, 0, 0]];
      await expect(transfer({ units: [[0, 4096, 1]], pieces: outside, memory })).rejects.toThrow(
        /inside the memory/,
      );
    }
    await expect(transfer({ units: [[0, 4096, 1]], pieces: [[2, 0, 1, 0, 1, 0, 0, 0]] })).rejects.toThrow(
      RangeError,
    );
  });

  it('takes the pieces of a unit in any order', async () => {
    writeFileSync(path('in'), pattern(2, 64 * KiB));
    const pieces = [plain(20_000, 5000, 40_000), plain(0, 4000, 1000), plain(9000, 10_000, 5000)];
    await transfer({ units: [[0, 64 * KiB, 3]], pieces, workers: 1 });
    const source = readFileSync(path('in'));
    const expected = Buffer.alloc(45_056);
    source.copy(expected, 40_000, 20_000, 25_000);
    source.copy(expected, 1000, 0, 4000);
    source.copy(expected, 5000, 9000, 19_000);
    expect(readFileSync(path('out')).equals(expected)).toBe(true);
  });
});

describe('packed', () => {
  it.each([
    [1, false],
    [3, true],
    [8, true],
  ])(
    'puts data one behind the other in the order of the disk: %i workers, space reserved ahead: %s',
    async (workers, reservesAhead) => {
      writeFileSync(path('in'), content);
      const places = [
        [1024 * KiB, 12 * KiB],
        [64 * KiB, 512 * KiB],
        [2048 * KiB, 2048 * KiB],
      ];
      const { runs } = await transfer({ ...wholeUnits, places, workers, reservesAhead });
      const out = readFileSync(path('out'));
      // The same by hand: blocks that are not zeros, in order, into the places in order.
      const free = places.flatMap(([at = 0, length = 0]) =>
        Array.from({ length: length / 4096 }, (_, i) => at + i * 4096),
      );
      const expected = new Map<number, number>();
      for (let at = 0; at < content.length; at += 4096) {
        if (content.subarray(at, at + 4096).some((byte) => byte !== 0)) expected.set(at, free.shift() ?? -1);
      }
      const got = new Map<number, number>();
      for (const [guest = 0, length = 0, host = 0] of runs) {
        for (let at = 0; at < length; at += 4096) got.set(guest + at, host + at);
      }
      expect([...got]).toEqual([...expected]);
      for (const [guest, host] of got) {
        const block = Buffer.alloc(4096);
        content.copy(block, 0, guest, guest + 4096);
        expect(out.subarray(host, host + 4096).equals(block)).toBe(true);
      }
    },
  );
});

describe('compressing', () => {
  const block = 4096;
  const places = [
    [64 * KiB, 40 * block],
    [512 * KiB, 500 * block],
  ];

  it.each([
    [1, 1000, 64],
    [3, 1000, 1],
    [8, 1000, 64],
    [2, 2, 64],
    [2, 1, 64],
  ])(
    'packs streams in the order of the disk, none over another: %i workers, %i streams a block, %i blocks ahead',
    async (workers, maxShares, ahead) => {
      writeFileSync(path('in'), content);
      const area = new Float64Array(PackingArea.length);
      const compression = [Codec.deflate, 6, maxShares, ahead];
      const { runs } = await transfer({ ...wholeUnits, places, workers, compression, area });
      const out = readFileSync(path('out'));
      const restored = Buffer.alloc(Math.ceil(content.length / block) * block);
      const touched = new Map<number, number>();
      const taken: [number, number][] = [];
      let compressed = 0;
      for (const [guest = 0, length = 0, host = 0] of runs) {
        const stored = out.subarray(host, host + length);
        taken.push([host, host + length]);
        if (length >= block) {
          expect(host % block).toBe(0);
          stored.copy(restored, guest);
          continue;
        }
        compressed += 1;
        inflateRawSync(stored).copy(restored, guest);
        for (let at = Math.floor(host / block); at <= Math.floor((host + length - 1) / block); at++) {
          touched.set(at, (touched.get(at) ?? 0) + 1);
        }
      }
      expect(restored.subarray(0, content.length).equals(content)).toBe(true);
      expect(compressed).toBeGreaterThan(10);
      expect(Math.max(...touched.values())).toBeLessThanOrEqual(maxShares);
      expect(area[PackingArea.blocks]).toBeGreaterThanOrEqual(touched.size);
      taken.sort(([a], [b]) => a - b);
      for (const [i, [start]] of taken.entries())
        expect(start).toBeGreaterThanOrEqual(taken[i - 1]?.[1] ?? 0);
      const inside = (start: number, end: number): boolean =>
        places.some(([at = 0, length = 0]) => start >= at && end <= at + length);
      for (const [start, end] of taken) expect(inside(start, end)).toBe(true);
      // However many threads there are, the result is the same.
      const again = new Float64Array(PackingArea.length);
      const alone = await transfer({ ...wholeUnits, places, workers: 1, compression, area: again });
      expect(alone.runs).toEqual(runs);
      expect(again).toEqual(area);
      expect(readFileSync(path('out')).equals(out)).toBe(true);
    },
  );

  it('goes on in the block where the last job ended', async () => {
    writeFileSync(path('in'), content);
    const area = new Float64Array(PackingArea.length);
    const compression = [Codec.deflate, 6, 1000, 1];
    const plan = { units: [[0, 4096, 1]], pieces: [plain(0, 4096)], places, compression, area };
    writeFileSync(path('in'), Buffer.alloc(4096, 'words '));
    const first = await transfer(plan);
    const [[, length = 0, host = 0] = []] = first.runs;
    expect(host).toBe(64 * KiB);
    expect((await transfer(plan)).runs).toEqual([[0, length, host + length]]);
  });

  it.each<[string, number[], Float64Array]>([
    ['no area', [Codec.deflate, 6, 1, 1], new Float64Array(0)],
    ['an area that ends before it begins', [Codec.deflate, 6, 1, 1], Float64Array.of(8192, 4096, 0, 0)],
    ['an area that ends inside a block', [Codec.deflate, 6, 1, 1], Float64Array.of(0, 100, 0, 0)],
    ['an unknown codec', [2, 6, 1, 1], new Float64Array(4)],
    ['a level that is too high', [Codec.deflate, 13, 1, 1], new Float64Array(4)],
    ['more blocks ahead than there may be', [Codec.deflate, 6, 1, 65], new Float64Array(4)],
    ['blocks for no stream', [Codec.deflate, 6, 0, 1], new Float64Array(4)],
  ])('refuses %s', async (_, compression, area) => {
    writeFileSync(path('in'), content);
    await expect(transfer({ ...wholeUnits, places, compression, area })).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_(OUT_OF_RANGE|INVALID_ARG_VALUE)$/) as string,
    });
  });

  it('refuses places without room for what streams have ahead', async () => {
    writeFileSync(path('in'), content);
    const compression = [Codec.deflate, 6, 1, 1];
    const area = new Float64Array(PackingArea.length);
    const blocks = Math.ceil(content.length / block) + blocksAhead;
    for (const [missing, code] of [
      [1, 'ERR_INVALID_ARG_VALUE'],
      [0, null],
    ] as const) {
      const job = transfer({
        ...wholeUnits,
        places: [[block, (blocks - missing) * block]],
        compression,
        area,
      });
      if (code === null) await job;
      else await expect(job).rejects.toMatchObject({ code });
    }
  });
});

describe('compressed clusters', () => {
  it('are decoded, whole or in part', async () => {
    const cluster = Buffer.alloc(32 * KiB, 'to be compressed, ');
    const stream = deflateRawSync(cluster);
    writeFileSync(path('in'), Buffer.concat([Buffer.alloc(1000), stream]));
    const compressed = (offset: number, length: number, skip: number): number[] => [
      0,
      1000,
      // What the format stores is whole sectors, and the file may end before the last does.
      stream.length + 300,
      offset,
      length,
      32 * KiB,
      skip,
      Codec.deflate,
    ];
    await transfer({
      units: [[0, 64 * KiB, 2]],
      pieces: [compressed(32 * KiB, 32 * KiB, 0), compressed(100, 9000, 77)],
    });
    const expected = Buffer.alloc(64 * KiB);
    cluster.copy(expected, 32 * KiB);
    cluster.copy(expected, 100, 77, 9077);
    expect(readFileSync(path('out')).equals(expected)).toBe(true);
  });

  it('that cannot be decoded are told', async () => {
    writeFileSync(path('in'), Buffer.alloc(5000, 0xff));
    const piece = [0, 0, 5000, 0, 32 * KiB, 32 * KiB, 0, Codec.deflate];
    expect((await transfer({ units: [[0, 32 * KiB, 1]], pieces: [piece] })).result).toBe(-1);
  });
});

describe('trouble', () => {
  it('a file that is shorter than planned is told, by all workers together', async () => {
    writeFileSync(path('in'), content.subarray(0, 300 * KiB));
    for (const places of [[], [[0, 4096 * KiB]]]) {
      expect((await transfer({ ...wholeUnits, places, workers: 4 })).result).toBe(-1);
    }
  });

  it('a failed system call rejects with its code', async () => {
    writeFileSync(path('in'), content);
    const pieces = wholeUnits.pieces.map(([, ...rest], i) => [i === 9 ? 1 : 0, ...rest]);
    await expect(transfer({ units: wholeUnits.units, pieces })).rejects.toMatchObject({
      code: 'EBADF',
      syscall: 'read',
    });
  });

  const unit = [0, 4096, 1];
  it.each<[string, Plan]>([
    ['a unit that is longer than its buffer', { units: [[0, 65 * KiB, 0]], pieces: [] }],
    ['a unit of no bytes', { units: [[0, 0, 0]], pieces: [] }],
    ['a position before the file', { units: [[-4096, 4096, 0]], pieces: [] }],
    ['a position that is no number', { units: [[NaN, 4096, 0]], pieces: [] }],
    ['a file that is not there', { units: [unit], pieces: [[2, 0, 100, 0, 100, 0, 0, 0]] }],
    ['more pieces than there are', { units: [[0, 4096, 2]], pieces: [plain(0, 4096)] }],
    ['half a row', { units: [[0, 4096]], pieces: [] }],
    ['a piece outside its unit', { units: [unit], pieces: [plain(0, 4096, 1)] }],
    ['a plain piece of two lengths', { units: [unit], pieces: [[0, 0, 100, 0, 99, 0, 0, 0]] }],
    ['a piece outside its cluster', { units: [unit], pieces: [[0, 0, 100, 0, 600, 1024, 500, 0]] }],
    ['an unknown codec', { units: [unit], pieces: [[0, 0, 100, 0, 512, 512, 0, 2]] }],
    ['too little room', { units: [unit, unit], pieces: [plain(0, 1), plain(0, 1)], places: [[0, 4096]] }],
    ['a place that is no whole block', { units: [unit], pieces: [plain(0, 1)], places: [[0, 5000]] }],
  ])('refuses %s', async (_, plan) => {
    writeFileSync(path('in'), content);
    await expect(transfer(plan)).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_(OUT_OF_RANGE|INVALID_ARG_VALUE)$/) as string,
    });
  });
});
