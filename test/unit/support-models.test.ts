import { readFile, stat } from 'node:fs/promises';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { Random, pattern } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();

describe('Random', () => {
  it('gives the same numbers for a seed, others for another', () => {
    const numbers = (seed: number): number[] => {
      const random = new Random(seed);
      return Array.from({ length: 10 }, () => random.next());
    };
    expect(numbers(1)).toEqual(numbers(1));
    expect(numbers(1)).not.toEqual(numbers(2));
  });

  it('spreads evenly over a range, both ends included', () => {
    const random = new Random(1);
    const counts = new Map<number, number>();
    for (let i = 0; i < 10_000; i += 1) {
      const value = random.between(5, 14);
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    expect([...counts.keys()].sort((a, b) => a - b)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(150);
    expect(random.below(2 ** 53)).toBeGreaterThan(2 ** 32);
  });
});

describe('pattern', () => {
  it('is the same for a seed, does not compress and has no runs of zeros', () => {
    const bytes = pattern(1, 65_537);
    expect(bytes).toHaveLength(65_537);
    expect(pattern(1, 100)).toEqual(bytes.subarray(0, 100));
    expect(pattern(2, 65_537).equals(bytes)).toBe(false);
    expect(deflateRawSync(bytes).length).toBeGreaterThanOrEqual(65_537);
    expect(bytes.includes(Buffer.alloc(4))).toBe(false);
  });
});

describe('PlainDisk', () => {
  it('does the same as one buffer', async () => {
    const random = new Random(4);
    let size = 50_000;
    const disk = new PlainDisk(size);
    const model = Buffer.alloc(100_000);
    for (let step = 0; step < 500; step += 1) {
      const position = random.below(size + 1);
      const length = random.below(Math.min(20_000, size - position) + 1);
      const kind = random.below(4);
      if (kind === 0) {
        disk.write(pattern(step, length), position);
        pattern(step, length).copy(model, position);
      } else if (kind === 1) {
        disk.zero(position, length);
        model.fill(0, position, position + length);
      } else if (kind === 2) {
        disk.discard(position, length, 512);
        for (let at = 0; at < size; at += 512) {
          const end = Math.min(at + 512, size);
          if (at >= position && end <= position + length) model.fill(0, at, end);
        }
      } else {
        size = random.between(40_000, 100_000);
        disk.resize(size);
        model.fill(0, size);
      }
      expect(disk.size).toBe(size);
      expect(disk.read(0, size).equals(model.subarray(0, size))).toBe(true);
    }
    await disk.saveAs(temp('raw'));
    expect((await readFile(temp('raw'))).equals(model.subarray(0, size))).toBe(true);
  });

  it('refuses what is outside of it', () => {
    const disk = new PlainDisk(100);
    expect(() => disk.read(90, 11)).toThrow(RangeError);
    expect(() => disk.write(pattern(1, 1), 100)).toThrow(RangeError);
    expect(() => disk.zero(-1, 1)).toThrow(RangeError);
  });

  it('tells where a disk differs, also on a huge one near to what was written', async () => {
    for (const size of [100_000, 2 ** 50]) {
      const disk = new PlainDisk(size);
      disk.write(pattern(1, 5000), size - 60_000);
      const copy = disk.clone();
      const read = (buffer: Buffer, position: number): Promise<void> => {
        copy.read(position, buffer.length).copy(buffer);
        return Promise.resolve();
      };
      expect(await disk.firstDifference(read)).toBeNull();
      copy.write(Buffer.of(1), size - 60_000 + 5001);
      expect(await disk.firstDifference(read)).toContain(`at ${size - 60_000 + 5001}:`);
    }
  });

  it('saves holes as holes', async () => {
    const disk = new PlainDisk(2 ** 30);
    disk.write(pattern(1, 10), 2 ** 29);
    await disk.saveAs(temp('raw'));
    const { size, blocks } = await stat(temp('raw'));
    expect(size).toBe(2 ** 30);
    expect(blocks * 512).toBeLessThan(2 ** 20);
  });
});
