/** The check of the random histories: faults planted in the library and in its storage, each of which a history must notice. */
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { CompressedSpace } from '../../lib/io/compressed-space.js';
import { Committer } from '../../lib/metadata/commit.js';
import { DirtyBitmaps } from '../../lib/metadata/dirty-bitmaps.js';
import { Mapping } from '../../lib/metadata/mapping.js';
import { FileStorage } from '../../lib/storage/file.js';
import { Random } from '../support/pattern.js';
import { withTempDir } from '../support/temp-dir.js';
import { History } from './operation-history.js';
import type { HistoryKind } from './operation-model.js';

const kind: HistoryKind = {
  name: '512 B clusters',
  options: { clusterSize: 512 },
  sectors: [200, 600],
  chain: 'start',
};
const steps = 30;
/** A fault survives that none of these histories notices. */
const seeds = [1, 2, 3, 4];

/** A method as it is before it is mocked; it is called with its object. */
function originalOf<T extends object, K extends keyof T>(prototype: T, name: K): T[K] {
  return Reflect.get(prototype, name);
}

/** Each plants a fault until all mocks are restored. */
const faults: Record<string, () => void> = {
  'clusters that are dropped stay counted': () => {
    vi.spyOn(Committer.prototype, 'freeLater').mockReturnValue(undefined);
  },
  'bitmaps hear of no change': () => {
    vi.spyOn(DirtyBitmaps.prototype, 'changing').mockReturnValue(undefined);
  },
  'all compressed clusters get one place': () => {
    const take = originalOf(CompressedSpace.prototype, 'take');
    let first: ReturnType<CompressedSpace['take']> | undefined;
    vi.spyOn(CompressedSpace.prototype, 'take').mockImplementation(function (this: CompressedSpace, length) {
      return (first ??= take.call(this, length));
    });
  },
  'L2 tables outlive the end of the disk': () => {
    vi.spyOn(Mapping.prototype, 'dropTables').mockReturnValue(undefined);
  },
  'every 30th write is lost': () => {
    const writev = originalOf(FileStorage.prototype, 'writev');
    let count = 0;
    vi.spyOn(FileStorage.prototype, 'write').mockImplementation(function (
      this: FileStorage,
      bytes,
      position,
    ) {
      count += 1;
      return count % 30 === 0 ? Promise.resolve() : writev.call(this, [bytes], position);
    });
  },
  'every 50th read has a wrong bit': () => {
    const read = originalOf(FileStorage.prototype, 'read');
    let count = 0;
    vi.spyOn(FileStorage.prototype, 'read').mockImplementation(async function (
      this: FileStorage,
      bytes,
      position,
    ) {
      const got = await read.call(this, bytes, position);
      count += 1;
      if (count % 50 === 0) bytes[0] = (bytes[0] ?? 0) ^ 1;
      return got;
    });
  },
  'holes are a sector too long': () => {
    const punch = originalOf(FileStorage.prototype, 'punch');
    vi.spyOn(FileStorage.prototype, 'punch').mockImplementation(function (
      this: FileStorage,
      position,
      length,
    ) {
      return punch.call(this, position, length + 512);
    });
  },
};

let noticed = 0;
afterEach(() => void vi.restoreAllMocks());
afterAll(() =>
  console.log(`faults planted under random histories: ${Object.keys(faults).length}, noticed: ${noticed}`),
);

describe('random histories', () => {
  it('pass without a fault', () => expectNoProblem(), 60_000);

  it.each(Object.entries(faults))('notice that %s', { timeout: 120_000 }, async (_, plant) => {
    plant();
    let problem: unknown;
    for (const seed of seeds) problem ??= await problemOf(seed);
    expect(problem).toBeInstanceOf(Error);
    noticed += 1;
  });
});

async function expectNoProblem(): Promise<void> {
  for (const seed of seeds.slice(0, 1)) expect(await problemOf(seed)).toBe(undefined);
}

/** What a history finds wrong, or undefined. */
function problemOf(seed: number): Promise<unknown> {
  return withTempDir(async (path) => {
    try {
      const history = await History.begin(kind, new Random(seed), path);
      for (let i = 1; i <= steps; i += 1) {
        await history.step();
        if (i % 5 === 0) await history.judge();
      }
      await history.end();
      return undefined;
    } catch (error) {
      return error;
    }
  });
}
