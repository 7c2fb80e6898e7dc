/** Packing compressed clusters while others allocate and commits free what they packed before. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage } from '../../lib/index.js';
import { CompressedSpace } from '../../lib/io/compressed-space.js';
import { readHeader } from '../../lib/metadata/header-io.js';
import { Image } from '../../lib/metadata/image.js';

const clusterSize = 512;

describe('CompressedSpace', () => {
  it('does not go on in a cluster that was freed and given to another meanwhile', async () => {
    const storage = new MemoryStorage();
    await (await create(storage, 4096, { clusterSize, refcountBits: 64 })).close();
    const image = await Image.open(storage, null, await readHeader(storage, false), {
      writable: true,
      forRepair: false,
      cacheBytes: 65536,
    });
    const { allocator, committer } = image;
    const space = new CompressedSpace(image);
    const first = await space.take(300);
    await committer.flush();
    committer.freeLater(first, 300, false);

    // Growing the refcount table commits, which frees the cluster; the next to allocate get it and the old table's.
    const grown = allocator.allocateContiguous(5000);
    const plain = [allocator.allocate(1), allocator.allocate(1)];
    const packed = space.take(300);
    await grown;
    const given = first / clusterSize;
    expect((await Promise.all(plain)).map((run) => run.first)).toContain(given);
    const start = Math.floor((await packed) / clusterSize);
    const end = Math.floor(((await packed) + 299) / clusterSize);
    expect([start, end]).not.toContain(given);
    expect(await image.refcounts.get(given)).toBe(1);
  });

  it('counts one reference for each packed cluster in every host cluster it touches', async () => {
    const storage = new MemoryStorage();
    await (await create(storage, 4096, { clusterSize, refcountBits: 2 })).close();
    const image = await Image.open(storage, null, await readHeader(storage, false), {
      writable: true,
      forRepair: false,
      cacheBytes: 65536,
    });
    const space = new CompressedSpace(image);
    const expected = new Map<number, number>();
    let previousEnd = -1;
    for (const length of [100, 100, 100, 100, 100, 511, 3, 2, 300, 212, 512, 40]) {
      const start = await space.take(length);
      expect(start >= previousEnd || start + length <= previousEnd).toBe(true);
      previousEnd = start + length;
      const last = Math.floor((start + length - 1) / clusterSize);
      for (let cluster = Math.floor(start / clusterSize); cluster <= last; cluster += 1)
        expected.set(cluster, (expected.get(cluster) ?? 0) + 1);
    }
    for (const [cluster, references] of expected) {
      expect(references).toBeLessThanOrEqual(3);
      expect(await image.refcounts.get(cluster)).toBe(references);
    }
  });
});
