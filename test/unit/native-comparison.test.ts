/** Planned comparisons of files, held against comparing the same disks as plain buffers. */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { Codec, native } from '../../lib/native.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const unit = 512 * KiB;
const clusterSize = 32 * KiB;
const path = useTempDir();

/** A disk of one unit in pieces of the file `in`, and what they make. */
interface Side {
  readonly pieces: number[][];
  readonly bytes: Buffer;
}

/** The file: bytes as they are, behind them compressed clusters. */
const plainBytes = pattern(1, 2 * unit);
const clusters = [2, 3, 4, 5].map((seed) => Buffer.concat([pattern(seed, 20 * KiB), Buffer.alloc(12 * KiB)]));
const streams = clusters.map((cluster) => deflateRawSync(cluster));
const streamAt = (index: number): number =>
  plainBytes.length + streams.slice(0, index).reduce((sum, { length }) => sum + length, 0);

/** Pieces of any length at any place, in any order, that do not overlap. */
function someSide(random: Random): Side {
  const bytes = Buffer.alloc(unit);
  const pieces: number[][] = [];
  for (let at = random.below(100 * KiB); at < unit;) {
    const kind = random.below(3);
    if (kind === 0) {
      at += random.between(1, 150 * KiB);
      continue;
    }
    const longest = Math.min(kind === 1 ? unit : clusterSize, unit - at);
    const length = random.between(1, longest);
    if (kind === 1) {
      const position = random.below(plainBytes.length - length);
      plainBytes.copy(bytes, at, position, position + length);
      pieces.push([0, position, length, at, length, 0, 0, 0]);
    } else {
      const index = random.below(clusters.length);
      const skip = random.below(clusterSize - length + 1);
      clusters[index]?.copy(bytes, at, skip, skip + length);
      const stored = streams[index]?.length ?? 0;
      pieces.push([0, streamAt(index), stored, at, length, clusterSize, skip, Codec.deflate]);
    }
    at += length;
  }
  pieces.sort(() => (random.chance(0.5) ? 1 : -1));
  return { pieces, bytes };
}

/** The same bytes in one piece of another file, of which byte `changed` is another. */
async function differs(sides: readonly Side[], changed: readonly (number | null)[]): Promise<number[]> {
  writeFileSync(path('in'), Buffer.concat([plainBytes, ...streams]));
  const others = sides.map(({ bytes }, i) => {
    const other = Buffer.from(bytes);
    const at = changed[i] ?? null;
    if (at !== null) other[at] = (other[at] ?? 0) ^ 1;
    return other;
  });
  writeFileSync(path('other'), Buffer.concat(others));
  const fds = [path('in'), path('other')].map((name) => openSync(name, 'r'));
  const workers = 2;
  const found = new Uint8Array(sides.length).fill(7);
  try {
    const work = native.comparePieces(
      Float64Array.from(fds),
      Float64Array.from(sides.flatMap(({ pieces }) => [unit, pieces.length, 1])),
      Float64Array.from(
        sides.flatMap(({ pieces }, i) => [...pieces.flat(), ...[1, i * unit, unit, 0, unit, 0, 0, 0]]),
      ),
      new Uint8Array(workers * 2 * unit),
      found,
      workers,
    );
    const results = await Promise.all(work);
    expect(results.every((result) => result === 0)).toBe(true);
    return [...found];
  } finally {
    fds.forEach((fd) => closeSync(fd));
  }
}

describe('comparePieces', () => {
  it.each([1, 2, 3])('finds units the same whatever pieces they are in (seed %i)', async (seed) => {
    const random = new Random(seed);
    const sides = Array.from({ length: 16 }, () => someSide(random));
    const same = sides.map(() => null);
    expect(await differs(sides, same)).toEqual(sides.map(() => 0));
  });

  it.each([4, 5, 6])('finds the one byte that differs, wherever it is (seed %i)', async (seed) => {
    const random = new Random(seed);
    const sides = Array.from({ length: 24 }, () => someSide(random));
    const ends = [0, 64 * KiB - 1, 64 * KiB, unit - 1];
    const changed = sides.map((_, i) => (i % 3 === 2 ? null : (ends[i] ?? random.below(unit))));
    expect(await differs(sides, changed)).toEqual(changed.map((at) => (at === null ? 0 : 1)));
  });

  it('takes what neither disk has anything for as the same, and zeros as nothing', async () => {
    writeFileSync(path('in'), Buffer.concat([Buffer.alloc(unit), Buffer.alloc(1, 1)]));
    const fd = openSync(path('in'), 'r');
    const found = new Uint8Array(3).fill(7);
    const zeros = [0, 0, 100 * KiB, 90 * KiB, 100 * KiB, 0, 0, 0];
    const one = [0, unit, 1, 300 * KiB, 1, 0, 0, 0];
    try {
      const work = native.comparePieces(
        Float64Array.of(fd),
        Float64Array.of(unit, 0, 0, unit, 0, 1, unit, 2, 0),
        Float64Array.from([zeros, zeros, one].flat()),
        new Uint8Array(2 * unit),
        found,
        1,
      );
      expect(await Promise.all(work)).toEqual([0]);
    } finally {
      closeSync(fd);
    }
    expect([...found]).toEqual([0, 0, 1]);
  });
});
