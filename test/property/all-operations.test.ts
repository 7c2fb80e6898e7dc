/** Random histories of all operations mixed, on all kinds of images; QCOW2_RUNS and QCOW2_SEED make more of them. */
import { afterAll, describe, it } from 'vitest';
import { Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';
import { History } from './operation-history.js';
import { secret, type HistoryKind } from './operation-model.js';

const KiB = 1024;
const runs = Number(process.env.QCOW2_RUNS ?? 1);
const firstSeed = Number(process.env.QCOW2_SEED ?? 1);
const only = process.env.QCOW2_KIND;
const steps = Number(process.env.QCOW2_STEPS ?? 30);
const told = new Map<string, number>();

const kinds: readonly HistoryKind[] = [
  { name: '512 B clusters', options: { clusterSize: 512 }, sectors: [200, 900], chain: 'start' },
  { name: 'version 2', options: { clusterSize: 4096, version: 2 }, sectors: [300, 2000], chain: 'possible' },
  { name: '64 KiB clusters', options: {}, sectors: [300, 3000], chain: 'start' },
  { name: '2 MiB clusters', options: { clusterSize: 2048 * KiB }, sectors: [3000, 9000], chain: 'possible' },
  {
    name: 'extended L2, zstd',
    options: { clusterSize: 16 * KiB, extendedL2: true, compressionType: 'zstd' },
    sectors: [300, 3000],
    chain: 'start',
  },
  {
    name: 'lazy refcounts of 64 bits',
    options: { clusterSize: 4096, lazyRefcounts: true, refcountBits: 64 },
    sectors: [300, 2000],
    chain: 'none',
  },
  {
    name: 'LUKS',
    options: { clusterSize: 4096, encryption: { secret, iterTimeMs: 10 } },
    sectors: [300, 2000],
    chain: 'start',
  },
  {
    name: 'external data file',
    options: { clusterSize: 4096, dataFile: { name: 'data' } },
    sectors: [300, 2000],
    chain: 'possible',
  },
];

describe('random histories of all operations', () => {
  const temp = useTempDir();
  const cases = kinds
    .filter(({ name }) => only === undefined || name.includes(only))
    .flatMap((kind) =>
      Array.from({ length: runs }, (_, run) => ({ kind, name: kind.name, seed: firstSeed + run })),
    );

  it.each(cases)('$name, seed $seed', { timeout: 180_000 }, async ({ kind, seed }) => {
    const history = await History.begin(kind, new Random(seed * 1000 + kinds.indexOf(kind)), temp);
    try {
      // Snapshots of large clusters take their time to be copied and judged.
      const count = kind.options.clusterSize === 2048 * KiB ? steps / 2 : steps;
      for (let i = 1; i <= count; i += 1) {
        await history.step();
        if (i % 5 === 0) await history.judge();
      }
      await history.end();
    } catch (error) {
      throw new Error(`after ${history.told.join(', ')}`, { cause: error });
    }
    for (const what of history.told) {
      const name = what
        .replaceAll(/\d.*|(?<=(snapshot|apply|delete|bitmap|rebase to|commit to|of)) .*/g, '')
        .trim();
      told.set(name, (told.get(name) ?? 0) + 1);
    }
  });

  afterAll(() => {
    console.log(`${cases.length} histories: ${JSON.stringify(Object.fromEntries(told))}`);
  });
});
