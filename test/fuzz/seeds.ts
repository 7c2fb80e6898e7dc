/** The images that the fuzzer starts from: all of the corpus, what this package makes, and what qemu-img makes. */
import { readFile } from 'node:fs/promises';
import { create, MemoryStorage, type CreateOptions } from '../../lib/index.js';
import { corpus } from '../hostile/corpus.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import { pattern, type Random } from '../support/pattern.js';
import { withTempDir } from '../support/temp-dir.js';

export interface Seed {
  readonly name: string;
  readonly bytes: Buffer;
}

const largestSeed = 2 ** 20;
const KiB = 1024;

export interface Seeds {
  /** More can be learned from damaging these than from damaging the others further. */
  readonly sound: readonly Seed[];
  readonly hostile: readonly Seed[];
}

export async function makeSeeds(): Promise<Seeds> {
  const hostile = corpus()
    .filter(({ bytes }) => bytes.length <= largestSeed)
    .map(({ name, bytes }) => ({ name, bytes }));
  const own = await Promise.all(ownKinds.map(([name, options]) => ownImage(name, options)));
  return { sound: [...own, ...(await qemuImages())], hostile };
}

export function chooseSeed({ sound, hostile }: Seeds, random: Random): Seed {
  const seeds = random.chance(0.6) ? sound : hostile;
  const seed = seeds[random.below(seeds.length)];
  if (seed === undefined) throw new Error('there are no seeds');
  return seed;
}

const ownKinds: readonly (readonly [string, CreateOptions])[] = [
  ['own, clusters of 512 bytes', { clusterSize: 512 }],
  ['own, clusters of 4 KiB', { clusterSize: 4 * KiB }],
  ['own, version 2', { version: 2, clusterSize: 4 * KiB }],
  ['own, refcounts of a bit', { clusterSize: 512, refcountBits: 1 }],
  ['own, refcounts of 64 bits', { clusterSize: 4 * KiB, refcountBits: 64 }],
  ['own, extended L2 entries', { clusterSize: 16 * KiB, extendedL2: true }],
  ['own, zstd', { clusterSize: 4 * KiB, compressionType: 'zstd' }],
  ['own, lazy refcounts', { clusterSize: 4 * KiB, lazyRefcounts: true }],
  ['own, metadata preallocated', { clusterSize: 4 * KiB, preallocation: 'metadata' }],
];

async function ownImage(name: string, options: CreateOptions): Promise<Seed> {
  const storage = new MemoryStorage();
  const { clusterSize = 64 * KiB } = options;
  const disk = await create(storage, 300 * KiB + 512, options);
  await disk.write(pattern(1, 5 * clusterSize), 0);
  await disk.write(Buffer.alloc(2 * clusterSize, 'squeeze '), 8 * clusterSize, { compress: true });
  await disk.writeZeroes(clusterSize, clusterSize);
  const counts = (options.refcountBits ?? 16) > 1;
  if (counts) await disk.snapshots.create({ name: 'before' });
  if (options.version !== 2) await disk.bitmaps.create({ name: 'changes', granularity: 512 });
  await disk.write(pattern(2, clusterSize + 300), 3 * clusterSize + 100);
  await disk.close();
  const bytes = Buffer.alloc(await storage.size());
  await storage.read(bytes, 0);
  return { name, bytes };
}

const qemuKinds = [
  ['qemu, clusters of 512 bytes', 'cluster_size=512'],
  ['qemu, clusters of 4 KiB', 'cluster_size=4k'],
  ['qemu, extended L2 entries', 'cluster_size=16k,extended_l2=on'],
] as const;

function qemuImages(): Promise<Seed[]> {
  return withTempDir((path) =>
    Promise.all(
      qemuKinds.map(async ([name, options], index) => {
        const file = path(`${index}.qcow2`);
        await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, file, '256k']);
        await qemuIo(file, ['write -P 1 0 50k', 'write -z 60k 10k']);
        await qemuImg(['snapshot', '-c', 'one', file]);
        await qemuIo(file, ['write -P 2 20k 20k', 'discard 0 16k']);
        return { name, bytes: await readFile(file) };
      }),
    ),
  );
}
