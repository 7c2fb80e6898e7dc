/** Copying what differs between two planned disks, held against the same found in plain buffers. */
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { Codec, Content, hiddenHost, native, spareBuffers, transferStride } from '../../lib/native.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const unitBytes = 256 * KiB;
const path = useTempDir();

/** A disk as pieces of a file describe it. */
interface Planned {
  readonly content: Buffer;
  /** By units. */
  readonly pieces: number[][][];
}

/** What a job gave: the runs, and the file it wrote into. */
interface Result {
  readonly runs: number[][];
  readonly out: Buffer;
}

/** Fills some stretches of a disk from a file, plainly or decoded, here and there with zeros that are stored. */
function plan(random: Random, file: number, stored: Buffer[], size: number, like: Planned | null): Planned {
  const content = Buffer.alloc(size);
  const pieces: number[][][] = [];
  let end = stored.reduce((sum, { length }) => sum + length, 0);
  const store = (bytes: Buffer): number => {
    stored.push(bytes);
    end += bytes.length;
    return end - bytes.length;
  };
  for (let start = 0; start < size; start += unitBytes) {
    const length = Math.min(unitBytes, size - start);
    const ofUnit: number[][] = [];
    for (let at = random.below(9) * 512; at < length; at += random.below(3) * random.below(40_000)) {
      const part = Math.min(length - at, 1 + random.below(70_000));
      const same = like?.content.subarray(start + at, start + at + part);
      const bytes =
        same !== undefined && random.chance(0.6)
          ? Buffer.from(same)
          : random.pick([pattern(random.next(), part), Buffer.alloc(part)] as const);
      if (random.chance(0.2)) bytes.fill(9, random.below(part));
      bytes.copy(content, start + at);
      if (random.chance(0.3) && part <= 64 * KiB) {
        const before = random.below(64 * KiB - part + 1);
        const cluster = Buffer.concat([
          Buffer.alloc(before, 3),
          bytes,
          Buffer.alloc(64 * KiB - part - before),
        ]);
        const stream = deflateRawSync(cluster);
        ofUnit.push([file, store(stream), stream.length, at, part, 64 * KiB, before, Codec.deflate]);
      } else {
        ofUnit.push([file, store(bytes), part, at, part, 0, 0, 0]);
      }
      at += part;
    }
    pieces.push(ofUnit);
  }
  return { content, pieces };
}

async function copyDiffering(
  disks: readonly [Planned, Planned],
  stored: readonly [Buffer[], Buffer[]],
  places: number[][],
  { block, workers = 2 }: { block: number; workers?: number },
): Promise<Result | null> {
  const fds = stored.map((bytes, i) => {
    writeFileSync(path(`in${i}`), Buffer.concat(bytes));
    return openSync(path(`in${i}`), 'r');
  });
  const out = openSync(path('out'), 'w');
  try {
    const { length: size } = disks[0].content;
    const units = disks[0].pieces.map((own, i) => [
      i * unitBytes,
      Math.min(unitBytes, size - i * unitBytes),
      own.length,
      disks[1].pieces[i]?.length ?? 0,
    ]);
    const pieces = disks[0].pieces.flatMap((own, i) => [...own, ...(disks[1].pieces[i] ?? [])]);
    const placed = new Float64Array(3 * (Math.ceil(unitBytes / block) * units.length + places.length));
    const scratch = new Uint8Array((workers + spareBuffers) * 2 * Math.ceil(unitBytes / block) * block).fill(
      0xa5,
    );
    const work = native.transfer(
      out,
      Float64Array.from(fds),
      Float64Array.from(units.flat()),
      Float64Array.from(pieces.flat()),
      Float64Array.from(places.flat()),
      block,
      scratch,
      placed,
      workers,
      new Float64Array(0),
      new Float64Array(0),
      Content.differing,
      new Uint8Array(0),
      false,
    );
    await Promise.allSettled(work);
    const results = await Promise.all(work);
    if (results.includes(-1)) return null;
    const runs = Array.from({ length: Math.max(...results) }, (_, i) => [
      ...placed.subarray(i * transferStride.placed, (i + 1) * transferStride.placed),
    ]);
    return { runs, out: readFileSync(path('out')) };
  } finally {
    for (const fd of [...fds, out]) closeSync(fd);
  }
}

/** For each block: what has to be written of it, that it has to be hidden, or nothing. */
function expectedBlocks(
  [own, other]: readonly [Planned, Planned],
  block: number,
): (Buffer | 'hidden' | null)[] {
  const blocks: (Buffer | 'hidden' | null)[] = [];
  for (let at = 0; at < own.content.length; at += block) {
    const bytes = own.content.subarray(at, at + block);
    const isSame = bytes.equals(other.content.subarray(at, at + block));
    blocks.push(isSame ? null : bytes.some((byte) => byte !== 0) ? bytes : 'hidden');
  }
  return blocks;
}

describe('what differs', () => {
  it.each(Array.from({ length: 24 }, (_, seed) => seed))(
    'is copied, and nothing else: seed %i',
    async (seed) => {
      const random = new Random(seed);
      const block = random.pick([512, 4 * KiB, 64 * KiB, unitBytes] as const);
      const size = 3 * unitBytes + 512 * random.below(500) + 512;
      const stored: [Buffer[], Buffer[]] = [[], []];
      const own = plan(random, 0, stored[0], size, null);
      const disks = [own, plan(random, 1, stored[1], size, own)] as const;
      const expected = expectedBlocks(disks, block);
      // In pieces that are out of order in the file.
      const count = expected.length;
      const half = Math.ceil(count / 2);
      const places = [
        [(half + 3) * block, half * block],
        [0, half * block],
      ];
      const result = await copyDiffering(disks, stored, places, { block, workers: random.between(1, 4) });
      const found: (Buffer | 'hidden' | null)[] = expected.map(() => null);
      let end = 0;
      for (const [guest = 0, length = 0, host = 0] of result?.runs ?? []) {
        expect(guest).toBeGreaterThanOrEqual(end);
        end = guest + length;
        for (let at = guest; at < end; at += block) {
          const bytes = result?.out.subarray(host + at - guest, host + at - guest + block) ?? Buffer.alloc(0);
          found[at / block] = host === hiddenHost ? 'hidden' : bytes.subarray(0, Math.min(block, size - at));
        }
      }
      expect(result).not.toBe(null);
      for (const [i, bytes] of expected.entries()) {
        const isRight = Buffer.isBuffer(bytes)
          ? Buffer.isBuffer(found[i]) && bytes.equals(found[i])
          : found[i] === bytes;
        expect(isRight, `block ${i}`).toBe(true);
      }
    },
  );

  it('needs room for what has something to be copied only', async () => {
    const block = 4 * KiB;
    const stored: [Buffer[], Buffer[]] = [[pattern(1, block)], [pattern(2, unitBytes)]];
    const own = Buffer.alloc(unitBytes);
    stored[0][0]?.copy(own, 5 * block - 1);
    const disks: [Planned, Planned] = [
      { content: own, pieces: [[[0, 0, block, 5 * block - 1, block, 0, 0, 0]]] },
      { content: stored[1][0] ?? own, pieces: [[[1, 0, unitBytes, 0, unitBytes, 0, 0, 0]]] },
    ];
    const result = await copyDiffering(disks, stored, [[0, 2 * block]], { block });
    expect(result?.runs).toEqual([
      [0, 4 * block, hiddenHost],
      [4 * block, 2 * block, 0],
      [6 * block, unitBytes - 6 * block, hiddenHost],
    ]);
    await expect(copyDiffering(disks, stored, [[0, block]], { block })).rejects.toThrow('room for all units');
  });

  it.each([0, 1])('is not told where a file is shorter than planned: file %i', async (file) => {
    const stored: [Buffer[], Buffer[]] = [[pattern(1, unitBytes)], [pattern(1, unitBytes)]];
    stored[file] = [pattern(1, unitBytes - 1)];
    const disk = (index: number): Planned => ({
      content: pattern(1, unitBytes),
      pieces: [[[index, 0, unitBytes, 0, unitBytes, 0, 0, 0]]],
    });
    const result = await copyDiffering([disk(0), disk(1)], stored, [[0, unitBytes]], { block: 4 * KiB });
    expect(result).toBe(null);
  });

  it('is not compressed', () => {
    const none = new Float64Array(0);
    const compression = Float64Array.of(Codec.deflate, 1, 1, 1);
    const scratch = new Uint8Array(64 * KiB);
    const copy = (): unknown =>
      native.transfer(
        0,
        none,
        none,
        none,
        none,
        512,
        scratch,
        none,
        1,
        compression,
        new Float64Array(4),
        Content.differing,
        new Uint8Array(0),
        false,
      );
    expect(copy).toThrow(TypeError);
  });
});
