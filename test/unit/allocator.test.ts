/** Allocator and Refcounts against a plain map of counts, for every width, through growing refcount tables. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage } from '../../lib/index.js';
import { hostCluster, hostOffset } from '../../lib/format/units.js';
import { readHeader } from '../../lib/metadata/header-io.js';
import { Image } from '../../lib/metadata/image.js';
import { Random } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const clusterSize = 512;

async function newImage(
  refcountBits: number,
  shuffle?: Random,
): Promise<{ image: Image; memory: MemoryStorage }> {
  const memory = new MemoryStorage();
  await (await create(memory, 4096, { clusterSize, refcountBits })).close();
  const storage = await RecordingStorage.over(memory, shuffle === undefined ? {} : { shuffle });
  return { image: await openImage(storage), memory };
}

async function openImage(storage: MemoryStorage | RecordingStorage): Promise<Image> {
  const header = await readHeader(storage, false);
  return Image.open(storage, null, header, { writable: true, forRepair: false, cacheBytes: 4096 });
}

/** The counts of all clusters that have one, in order. */
async function countsOf(image: Image): Promise<[cluster: number, count: number][]> {
  const counts: [number, number][] = [];
  for (let cluster = 0; cluster < image.refcounts.capacity; cluster += 1) {
    const count = await image.refcounts.get(cluster);
    if (count > 0) counts.push([cluster, count]);
  }
  return counts;
}

/** The clusters that hold refcount blocks and table. */
function ownClusters(image: Image): number[] {
  const { refcounts } = image;
  const table = refcounts.tableOffset / clusterSize;
  const blocks = [...refcounts.blocks()].map((offset) => offset / clusterSize);
  return [
    ...blocks,
    ...Array.from({ length: refcounts.tableBytes.length / clusterSize }, (_, i) => table + i),
  ];
}

describe.each([1, 2, 4, 8, 16, 32, 64])('refcounts of %i bits', (refcountBits) => {
  it('give out every cluster once and take back what is freed', async () => {
    const random = new Random(refcountBits);
    const { image, memory } = await newImage(refcountBits);
    const { allocator, committer, refcounts } = image;
    const max = Math.min(5, image.geometry.maxRefcount);
    const before = new Set((await countsOf(image)).map(([cluster]) => cluster));
    /** Cluster -> references, of what this test has taken. */
    const model = new Map<number, number>();
    const freeing: number[] = [];
    const take = (first: number, count: number): void => {
      for (let cluster = first; cluster < first + count; cluster += 1) {
        expect(model.has(cluster), `cluster ${cluster} was given out twice`).toBe(false);
        model.set(cluster, 1);
      }
    };
    const settleFrees = async (): Promise<void> => {
      await committer.flush();
      for (const cluster of freeing.splice(0)) {
        const left = (model.get(cluster) ?? 0) - 1;
        if (left === 0) model.delete(cluster);
        else model.set(cluster, left);
      }
    };
    // Eight-byte counts fill a table of one cluster at 4096 clusters: go past that.
    const goal = refcountBits === 64 ? 4600 : 700;
    while (model.size < goal) {
      const wanted = random.between(1, 40);
      const choice = random.below(10);
      if (choice < 5) {
        const { first, count } = await allocator.allocate(wanted);
        expect(count).toBeGreaterThanOrEqual(1);
        expect(count).toBeLessThanOrEqual(wanted);
        take(first, count);
      } else if (choice < 7) take(await allocator.allocateContiguous(wanted), wanted);
      else if (choice === 7) {
        const cluster = random.below(model.size * 2 + 10);
        const isFree = (await refcounts.get(cluster)) === 0;
        const got = await allocator.allocateAt(hostCluster(cluster));
        if (got) expect(isFree).toBe(true);
        if (got) take(cluster, 1);
      } else {
        const [cluster] = random.pick([...model] as [[number, number], ...[number, number][]]);
        const count = model.get(cluster) ?? 0;
        if (count < max && !freeing.includes(cluster)) {
          await refcounts.add(cluster, 1, 1);
          model.set(cluster, count + 1);
        }
        if (!freeing.includes(cluster)) {
          committer.freeLater(hostOffset(cluster * clusterSize), clusterSize, false);
          freeing.push(cluster);
        }
        if (random.chance(0.3)) await settleFrees();
      }
      await committer.relieve();
    }
    await settleFrees();
    await committer.settle();

    const again = await openImage(memory);
    const own = ownClusters(again);
    const expected = new Map(model);
    for (const cluster of [...own, ...[...before].filter((one) => one === 0 || isL1(again, one))])
      expected.set(cluster, 1);
    expect(new Map(await countsOf(again))).toEqual(expected);
  });
});

function isL1(image: Image, cluster: number): boolean {
  return cluster === Math.floor(image.mapping.l1Offset / clusterSize);
}

describe('allocating', () => {
  it('from many sides at once gives nothing out twice', async () => {
    const { image } = await newImage(64, new Random(9));
    const { allocator, committer } = image;
    const taken = new Set<number>((await countsOf(image)).map(([cluster]) => cluster));
    // A refcount table that moved leaves its old place, which may be given out then.
    committer.onFreed((first, count) => {
      for (let cluster = first; cluster < first + count; cluster += 1) taken.delete(cluster);
    });
    const take = (first: number, count: number): void => {
      for (let cluster = first; cluster < first + count; cluster += 1) {
        expect(taken.has(cluster)).toBe(false);
        taken.add(cluster);
      }
    };
    const work = async (side: number): Promise<void> => {
      const random = new Random(side);
      for (let i = 0; i < 40; i += 1) {
        if (random.chance(0.5)) {
          const { first, count } = await allocator.allocate(random.between(1, 60));
          take(first, count);
        } else {
          const count = random.between(1, 60);
          take(await allocator.allocateContiguous(count), count);
        }
        if (random.chance(0.2)) await committer.flush();
      }
    };
    await Promise.all([1, 2, 3, 4].map(work));
    expect(image.refcounts.capacity).toBeGreaterThan(4096);
    for (const cluster of ownClusters(image)) expect(await image.refcounts.get(cluster)).toBe(1);
  });

  it('finds the lowest free cluster, also one freed while another was being looked for', async () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const { image } = await newImage(64, new Random(seed));
      const { allocator, committer, refcounts } = image;
      const first = await allocator.allocateContiguous(300);
      await allocator.allocate(1);
      await committer.flush();
      refcounts.cache.forgetClean();
      committer.freeLater(hostOffset((first + 5) * clusterSize), clusterSize, false);
      await Promise.all([committer.flush(), allocator.allocate(1)]);
      let lowest = 0;
      while ((await refcounts.get(lowest)) > 0) lowest += 1;
      expect((await allocator.allocate(1)).first, `seed ${seed}`).toBe(lowest);
    }
  });

  it('refuses to hand out metadata that the refcounts call free', async () => {
    const { image } = await newImage(16);
    const block = [...image.refcounts.blocks()][0];
    await image.refcounts.set((block ?? 0) / clusterSize, 1, 0);
    await expect(image.allocator.allocate(100)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
  });

  it('refuses counts that leave their range, changing nothing', async () => {
    const { image } = await newImage(2);
    const { first } = await image.allocator.allocate(1);
    await image.refcounts.add(first, 1, 2);
    await expect(image.refcounts.add(first, 1, 1)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    expect(await image.refcounts.get(first)).toBe(3);
    await expect(image.refcounts.add(first, 1, -4)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    expect(await image.refcounts.get(first)).toBe(3);
  });
});
