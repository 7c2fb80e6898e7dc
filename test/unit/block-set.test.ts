/** Block sets beside a plain Set, and the blocks of disks beside their extents. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import {
  BlockSet,
  create,
  difference,
  MemoryStorage,
  open,
  openDisk,
  storedBlocks,
  type Disk,
  type Storage,
} from '../../lib/index.js';
import { native } from '../../lib/native.js';
import { guestRequests } from '../support/guest-requests.js';
import { imageKinds, makeImage } from '../support/image-kinds.js';
import { Random } from '../support/pattern.js';
import { makeChain } from '../support/random-chain.js';
import { useTempDir } from '../support/temp-dir.js';
import { perform } from '../support/work.js';

const path = useTempDir();
const MiB = 2 ** 20;

describe('BlockSet', () => {
  it('of 1 PiB in blocks of 64 KiB is refused, and what the error says to do instead works', async () => {
    const size = 2 ** 50;
    expect(() => new BlockSet(size, 65536)).toThrow(/`difference` and `extents` take start and length/);
    const image = await create(new MemoryStorage(), size, { clusterSize: 2 * MiB });
    await image.bitmaps.create({ name: 'nightly', granularity: 2 * MiB });
    const written = [0, 2 ** 45 - 2 * MiB, 2 ** 45, 2 ** 49, size - 2 * MiB];
    for (const at of written) await image.write(Buffer.alloc(1, 1), at);
    const found: number[] = [];
    for (let start = 0; start < size; start += 2 ** 45) {
      const part = new BlockSet(2 ** 45, 65536);
      for await (const run of difference(image, { bitmap: 'nightly' }, { start, length: 2 ** 45 })) {
        part.addBytes({ start: run.start - start, length: run.length });
      }
      found.push(...[...part].map((index) => start + index * 65536));
    }
    expect(found).toEqual(written.flatMap((at) => Array.from({ length: 32 }, (_, i) => at + i * 65536)));
    await image.close();
  });

  it('is what a plain set is', () => {
    const random = new Random(1);
    const set = new BlockSet(1000 * 512 - 5, 512);
    const model = new Set<number>();
    expect(set.length).toBe(1000);
    for (let round = 0; round < 400; round += 1) {
      const first = random.below(1000);
      const end = Math.min(1000, first + random.between(1, 60));
      const adds = random.chance(0.5);
      if (adds) set.add(first, end);
      else set.delete(first, end);
      for (let at = first; at < end; at += 1) {
        if (adds) model.add(at);
        else model.delete(at);
      }
      const at = random.below(1001);
      expect(set.has(at)).toBe(model.has(at));
      expect(set.count()).toBe(model.size);
      expect(set.next(at)).toBe([...model].filter((one) => one >= at).sort((a, b) => a - b)[0] ?? 1000);
    }
    expect([...set]).toEqual([...model].sort((a, b) => a - b));
    const extents = [...set.extents()];
    expect(extents.every(({ start, length }) => start + length <= set.size)).toBe(true);
    const again = new BlockSet(set.size, 512);
    for (const extent of extents) again.addBytes(extent);
    expect([...again]).toEqual([...set]);
  });

  it('is combined with others', () => {
    const make = (...blocks: number[]): BlockSet => {
      const set = new BlockSet(100 * 4096, 4096);
      for (const block of blocks) set.add(block);
      return set;
    };
    const a = make(1, 2, 3, 50, 99);
    const union = a.clone();
    union.unite(make(2, 4));
    expect([...union]).toEqual([1, 2, 3, 4, 50, 99]);
    const common = a.clone();
    common.intersect(make(2, 50, 51));
    expect([...common]).toEqual([2, 50]);
    const rest = a.clone();
    rest.subtract(make(2, 99));
    expect([...rest]).toEqual([1, 3, 50]);
    expect([...a]).toEqual([1, 2, 3, 50, 99]);
    expect(() => a.unite(new BlockSet(100 * 4096, 8192))).toThrow(TypeError);
  });

  it('16 TiB in blocks of 64 KiB take 32 MiB', async () => {
    const before = process.memoryUsage().arrayBuffers;
    const set = await BlockSet.from([{ start: 0, length: 2 ** 44 }], 2 ** 44, 65536);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(33 * MiB);
    expect(set.count()).toBe(2 ** 28);
    set.delete(2 ** 28 - 1);
    expect(set.nextMissing(0)).toBe(2 ** 28 - 1);
    expect(set.has(2 ** 28 - 2)).toBe(true);
    expect(set.has(2 ** 28 - 1)).toBe(false);
  });

  it('refuses what makes no sense', () => {
    expect(() => new BlockSet(2 ** 52, 512)).toThrow(/larger blocks/);
    for (const blockSize of [0, 100, 1000, 513, NaN, -512]) {
      expect(() => new BlockSet(MiB, blockSize)).toThrow(RangeError);
    }
    const set = new BlockSet(MiB, 512);
    for (const [first, end] of [
      [-1, 4],
      [3, 2],
      [0, 2049],
      [0.5, 2],
    ] as const) {
      expect(() => set.add(first, end)).toThrow(RangeError);
    }
    for (const index of [-1, 0.5, 2048, Infinity, NaN]) expect(set.has(index)).toBe(false);
    const bits = new Uint8Array(8);
    expect(() => native.bitsSet(bits, 0, 65, true)).toThrow(RangeError);
    expect(() => native.bitsNext(bits, 5, 4, true)).toThrow(RangeError);
    expect(() => native.bitsCount([] as unknown as Uint8Array, 0, 0)).toThrow(TypeError);
    expect(() => native.bitsCombine(bits, new Uint8Array(7), 0)).toThrow(RangeError);
    expect(() => native.bitsCombine(bits, bits, 3 as 0)).toThrow(RangeError);
  });
});

/** A disk of 16 TiB of which everything is stored: 2 GiB of tables, made up as they are read, that are all the same. */
async function hugeImage(): Promise<Storage> {
  const size = 2 ** 44;
  const clusterSize = 65536;
  const tables = size / (clusterSize / 8) / clusterSize;
  const storage = new MemoryStorage();
  const made = await create(storage, size);
  const { l1TableOffset } = made.header;
  await made.close();
  const start = await storage.size();
  const copied = 0x8000_0000;
  const l1 = Buffer.alloc(tables * 8);
  for (let index = 0; index < tables; index += 1) {
    l1.writeBigUInt64BE((BigInt(copied) << 32n) + BigInt(start + index * clusterSize), index * 8);
  }
  await storage.write(l1, l1TableOffset);
  const table = Buffer.alloc(clusterSize);
  const data = start + tables * clusterSize;
  for (let at = 0; at < clusterSize; at += 8) {
    table.writeBigUInt64BE((BigInt(copied) << 32n) + BigInt(data + (at / 8) * clusterSize), at);
  }
  const end = data + (clusterSize / 8) * clusterSize;
  return {
    name: 'made up',
    readOnly: true,
    size: () => Promise.resolve(end),
    read: async (buffer, position) => {
      if (position < start) return storage.read(buffer, position);
      // Turns in which the memory is looked at.
      if (position % (32 * clusterSize) === 0) await nextTurn();
      buffer.set(table.subarray(0, buffer.length));
      return buffer.length;
    },
    write: () => Promise.reject(new Error('read-only')),
    truncate: () => Promise.reject(new Error('read-only')),
    flush: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

/** The same by the extents, one by one. */
async function byExtents(disk: Disk, blockSize: number): Promise<number[]> {
  const blocks = new Set<number>();
  for await (const { start, length, type } of disk.extents()) {
    if (type !== 'data' && type !== 'compressed') continue;
    for (let at = Math.floor(start / blockSize); at * blockSize < start + length; at += 1) blocks.add(at);
  }
  return [...blocks].sort((a, b) => a - b);
}

describe('storedBlocks', () => {
  it.each(imageKinds.filter(({ size }) => size < 30 * MiB))('$name', async (kind) => {
    const made = await makeImage(kind, path);
    await using disk = await open(made.path, made.open);
    for (const request of guestRequests(1, kind.size, kind.clusterSize, {
      unit: 512,
      compress: kind.compress,
    })) {
      await perform(disk, made.model, request);
    }
    for (const blockSize of [512, kind.clusterSize, 3 * 512, 4 * MiB]) {
      expect([...(await storedBlocks(disk, blockSize))]).toEqual(await byExtents(disk, blockSize));
    }
  });

  it('chains and raw files', async () => {
    const files = [
      { format: 'raw', size: 2 * MiB },
      { format: 'qcow2', size: MiB, options: 'cluster_size=4k' },
      { format: 'qcow2', size: 3 * MiB, options: 'extended_l2=on' },
    ] as const;
    for (const file of await makeChain(path, 'x', files, 5)) {
      const { disk } = await openDisk(file, { resolve: 'any' });
      for (const blockSize of [512, 65536]) {
        expect([...(await storedBlocks(disk, blockSize))]).toEqual(await byExtents(disk, blockSize));
      }
      await disk.close();
    }
  });

  it('lists the blocks of 16 TiB in the memory of the list and of the cache', async () => {
    const image = await hugeImage();
    const used = (): number => process.memoryUsage().arrayBuffers;
    await using disk = await open(image, { cacheBytes: 4 * MiB });
    const before = used();
    let most = 0;
    const looking = setInterval(() => (most = Math.max(most, used())), 1);
    const blocks = await storedBlocks(disk, 65536);
    clearInterval(looking);
    expect(blocks.count()).toBe(2 ** 28);
    expect(most).toBeGreaterThan(32 * MiB);
    expect(most).toBeLessThan(before + (32 + 4 + 24) * MiB);
  });

  it('says where a table is damaged, and stops when told to', async () => {
    const storage = new MemoryStorage();
    const disk = await create(storage, MiB);
    await disk.write(Buffer.alloc(10), 0);
    await disk.close();
    const copy = storage.clone();
    const l1 = Buffer.alloc(8);
    await copy.read(l1, 3 * 65536);
    l1.writeUInt8(1, 7);
    await copy.write(l1, 3 * 65536);
    await using damaged = await open(copy);
    await expect(storedBlocks(damaged, 65536)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    const reason = new Error('enough');
    await expect(storedBlocks(damaged, 65536, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
