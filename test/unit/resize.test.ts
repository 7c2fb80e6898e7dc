/** Changing the size of a disk: what stays, what is gone for good, and what it costs. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type Qcow2, type WriteOptions } from '../../lib/index.js';
import { plainKind, type ImageKind } from '../support/feature-rows.js';
import { expectCleanByQemu, qemuCompare, qemuImg, qemuInfo, qemuMap } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import type { PlainDisk } from '../support/plain-disk.js';
import { contentByQemu, expectClean, makeOurs, openOurs, type KindImage } from '../support/row-images.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 2 ** 10;
const MiB = 2 ** 20;
const GiB = 2 ** 30;

const kinds: Partial<ImageKind>[] = [
  {},
  { version: 2 },
  { clusterSize: 512 },
  { clusterSize: 4096, refcountBits: 1 },
  { extendedL2: true },
  { lazyRefcounts: true, refcountBits: 64 },
  { backing: 'raw-short' },
  { backing: 'qcow2-long' },
  { backing: 'raw-long', version: 2 },
  { backing: 'raw-long', extendedL2: true, clusterSize: 16384 },
  { dataFile: 'plain' },
  { dataFile: 'plain', backing: 'qcow2-long' },
  { dataFile: 'raw' },
  { dataFile: 'raw', extendedL2: true },
  { encryption: 'luks' },
  { encryption: 'luks', backing: 'raw-long', extendedL2: true },
  { preallocation: 'metadata' },
];

describe('resizing at random, with writes between', () => {
  const inDirectory = useTempDir();

  it.each(kinds.map((kind, index) => ({ name: JSON.stringify(kind), kind, seed: index + 1 })))(
    '$name',
    async ({ kind, seed }) => {
      const random = new Random(seed);
      const { image, disk: first } = await makeOurs(
        { ...plainKind, sizeUnit: 'sector', ...kind },
        inDirectory(),
      );
      let disk = first;
      const largest = 2 * image.model.size;
      for (let round = 0; round < 25; round += 1) {
        await writeSomewhere(random, disk, image);
        const unit = random.pick([1, 512, image.kind.clusterSize]);
        const size = Math.floor(random.between(1, largest) / unit) * unit;
        await disk.resize(size, { shrink: true });
        image.model.resize(size);
        expect(disk.size).toBe(size);
        expect(await difference(disk, image.model), `round ${round}, ${size} bytes`).toBeNull();
        if (round % 8 === 7) {
          await disk.close();
          await expectSameByQemu(image);
          disk = await openOurs(image, 'r+');
        }
      }
      await disk.close();
      await expectSameByQemu(image);
    },
    60_000,
  );
});

function difference(disk: Qcow2, model: PlainDisk): Promise<string | null> {
  return model.firstDifference((buffer, position) => disk.read(buffer, position));
}

async function writeSomewhere(random: Random, disk: Qcow2, { kind, model }: KindImage): Promise<void> {
  if (model.size === 0) return;
  const position = random.below(model.size);
  const data = pattern(random.next(), random.between(1, Math.min(200_000, model.size - position)));
  await disk.write(data, position);
  model.write(data, position);
  const start = random.below(Math.ceil(model.size / kind.clusterSize)) * kind.clusterSize;
  const length = Math.min(kind.clusterSize, model.size - start);
  if (kind.dataFile !== 'none' || kind.encryption !== 'none') return;
  const text = Buffer.alloc(length, `round ${random.next()}, `);
  const compress: WriteOptions = { compress: true };
  await disk.write(text, start, compress);
  model.write(text, start);
}

async function expectSameByQemu(image: KindImage): Promise<void> {
  await expectClean(image);
  const content = await contentByQemu(image);
  expect(content.equals(image.model.read(0, content.length))).toBe(true);
  expect(image.model.size - content.length).toBeLessThan(512);
}

describe('shrinking', () => {
  const inDirectory = useTempDir();

  it.each([
    { what: 'data', prepare: (disk: Qcow2) => disk.write(pattern(1, 512), 3 * MiB) },
    {
      what: 'compressed data',
      prepare: (disk: Qcow2) => disk.write(Buffer.alloc(65536, 1), 3 * MiB, { compress: true }),
    },
    {
      what: 'data in the cluster of the new end',
      prepare: (disk: Qcow2) => disk.write(pattern(1, 512), MiB),
    },
  ])('needs shrink: true when $what would be lost', async ({ prepare }) => {
    const disk = await create(new MemoryStorage(), 4 * MiB);
    await prepare(disk);
    await expect(disk.resize(MiB)).rejects.toMatchObject({ code: 'ERR_QCOW2_DATA_LOSS' });
    expect(disk.size).toBe(4 * MiB);
    await disk.resize(MiB, { shrink: true });
    expect(disk.size).toBe(MiB);
    await disk.close();
  });

  it('needs no leave when there is nothing to lose', async () => {
    const disk = await create(new MemoryStorage(), 4 * MiB);
    await disk.write(pattern(1, MiB), 0);
    await disk.write(pattern(1, MiB), 2 * MiB);
    await disk.writeZeroes(2 * MiB, MiB);
    await disk.resize(MiB);
    expect(disk.size).toBe(MiB);
    await disk.close();
  });

  it.each([
    { what: 'the refcount table', place: (image: Buffer) => image.readBigUInt64BE(48) },
    {
      what: 'a refcount block',
      place: (image: Buffer) => image.readBigUInt64BE(Number(image.readBigUInt64BE(48))),
    },
    { what: 'the L1 table', place: (image: Buffer) => image.readBigUInt64BE(40) },
    {
      what: 'an L2 table that stays',
      place: (image: Buffer) => image.readBigUInt64BE(Number(image.readBigUInt64BE(40))) % 2n ** 63n,
    },
  ])('changes nothing where an entry past the new end takes $what for data', async ({ place }) => {
    const path = inDirectory('damaged.qcow2');
    const disk = await create(path, MiB, { clusterSize: 512 });
    await disk.write(pattern(1, 512), 0);
    await disk.write(pattern(2, 512), 512 * KiB);
    await disk.close();
    const image = await readFile(path);
    const l2Coverage = 64 * 512;
    const l1Entry = Number(image.readBigUInt64BE(40)) + ((512 * KiB) / l2Coverage) * 8;
    const l2Table = Number(image.readBigUInt64BE(l1Entry) % 2n ** 63n);
    image.writeBigUInt64BE(place(image) | (1n << 63n), l2Table);
    await writeFile(path, image);
    const damaged = await open(path, { mode: 'r+' });
    await expect(damaged.resize(64 * KiB, { shrink: true })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CORRUPT',
    });
    expect(damaged.size).toBe(MiB);
    await damaged.close();
    expect((await readFile(path)).equals(image)).toBe(true);
  });

  it('gives the space back', async () => {
    const path = inDirectory('image.qcow2');
    const disk = await create(path, 64 * MiB, { clusterSize: 4096 });
    await disk.write(pattern(1, 16 * MiB), 0);
    await disk.flush();
    const before = await stat(path);
    await disk.resize(MiB, { shrink: true });
    await disk.close();
    const after = await stat(path);
    expect(before.blocks * 512).toBeGreaterThan(16 * MiB);
    expect(after.blocks * 512).toBeLessThan(2 * MiB);
  });

  it.each([
    { shrinks: 'here', grows: 'by QEMU' },
    { shrinks: 'by QEMU', grows: 'here' },
    { shrinks: 'here', grows: 'here' },
  ])('old data does not come back when it shrinks $shrinks and grows $grows', async ({ shrinks, grows }) => {
    const path = inDirectory('image.qcow2');
    const size = 100 * KiB + 512;
    const disk = await create(path, 4 * MiB);
    await disk.write(Buffer.alloc(4 * MiB, 7), 0);
    await disk.close();
    await resizeBy(shrinks, path, size);
    await resizeBy(grows, path, 4 * MiB);
    const again = await open(path);
    const content = Buffer.alloc(4 * MiB, 1);
    await again.read(content, 0);
    await again.close();
    expect(content.equals(Buffer.concat([Buffer.alloc(size, 7), Buffer.alloc(4 * MiB - size)]))).toBe(true);
  });

  it('to nothing and back leaves a disk of zeros', async () => {
    const path = inDirectory('image.qcow2');
    const disk = await create(path, MiB);
    await disk.write(pattern(1, MiB), 0);
    await disk.resize(0, { shrink: true });
    await disk.close();
    await expectCleanByQemu(path);
    const again = await open(path, { mode: 'r+' });
    expect(again.size).toBe(0);
    await again.resize(MiB);
    const content = Buffer.alloc(MiB, 1);
    await again.read(content, 0);
    expect(content.equals(Buffer.alloc(MiB))).toBe(true);
    await again.close();
    await expectCleanByQemu(path);
  });
});

describe('limits', () => {
  const inDirectory = useTempDir();

  // 32 MiB of L1 table are 4 Mi entries, each for one L2 table of one cluster.
  it.each([
    { clusterSize: 512, extendedL2: false, largest: 128 * GiB },
    { clusterSize: 4096, extendedL2: false, largest: 8192 * GiB },
    { clusterSize: 65536, extendedL2: false, largest: 2 ** 51 },
    { clusterSize: 65536, extendedL2: true, largest: 2 ** 50 },
  ])('$clusterSize-byte clusters, extended L2 $extendedL2: up to $largest bytes', async (limit) => {
    const { largest, ...options } = limit;
    const path = inDirectory('image.qcow2');
    const disk = await create(path, MiB, options);
    await disk.write(pattern(1, 5000), 0);
    const refused = { code: 'ERR_QCOW2_LIMIT' };
    await expect(disk.resize(largest + 1)).rejects.toMatchObject(refused);
    expect(disk.size).toBe(MiB);
    await disk.resize(largest);
    await disk.write(pattern(2, 5000), largest - 5000);
    await expect(disk.resize(largest + 1)).rejects.toMatchObject(refused);
    await disk.close();
    await expectCleanByQemu(path);
    expect((await qemuInfo(path))['virtual-size']).toBe(largest);

    const again = await open(path, { mode: 'r+' });
    const ends = [Buffer.alloc(5000), Buffer.alloc(5000)] as const;
    await again.read(ends[0], 0);
    await again.read(ends[1], largest - 5000);
    expect(ends).toEqual([pattern(1, 5000), pattern(2, 5000)]);
    await again.resize(MiB, { shrink: true });
    await again.close();
    await expectCleanByQemu(path);
    await expect(create(new MemoryStorage(), largest + 1, options)).rejects.toMatchObject(refused);
  });

  it('reaches what a number can hold exactly, and refuses more', async () => {
    const path = inDirectory('image.qcow2');
    const disk = await create(path, MiB, { clusterSize: 2 * MiB });
    await expect(disk.resize(2n ** 53n)).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' });
    await disk.resize(Number.MAX_SAFE_INTEGER);
    await disk.write(pattern(1, 1000), Number.MAX_SAFE_INTEGER - 1000);
    await disk.close();
    const again = await open(path);
    const end = Buffer.alloc(1000);
    await again.read(end, Number.MAX_SAFE_INTEGER - 1000);
    await again.close();
    expect(end).toEqual(pattern(1, 1000));
    await expectCleanByQemu(path);
  });

  it.each([-1, 1.5, NaN, 2 ** 53, '1024', null])('refuses %s as a size', async (size) => {
    const disk = await create(new MemoryStorage(), MiB);
    await expect(disk.resize(size as number)).rejects.toThrow(/size/);
    expect(disk.size).toBe(MiB);
    await disk.close();
  });

  it('the refcount table grows as often as it has to', async () => {
    const path = inDirectory('image.qcow2');
    // One cluster of the refcount table counts 2 MiB of the file.
    const disk = await create(path, 24 * MiB, { clusterSize: 512, refcountBits: 64 });
    const data = pattern(1, 20 * MiB);
    for (let at = 0; at < data.length; at += MiB) await disk.write(data.subarray(at, at + MiB), at);
    await disk.close();
    await expectCleanByQemu(path);
    const again = await open(path);
    expect(again.header.refcountTableClusters).toBeGreaterThanOrEqual(10);
    const content = Buffer.alloc(data.length);
    await again.read(content, 0);
    await again.close();
    expect(content.equals(data)).toBe(true);
  });
});

describe('growing', () => {
  const inDirectory = useTempDir();

  it.each(['off', 'metadata', 'falloc', 'full'] as const)(
    'with preallocation %s takes the space that qemu-img takes',
    async (preallocation) => {
      const ours = inDirectory('ours.qcow2');
      const qemus = inDirectory('qemus.qcow2');
      for (const path of [ours, qemus]) {
        const disk = await create(path, 256 * KiB);
        await disk.write(pattern(1, 256 * KiB), 0);
        await disk.close();
      }
      const disk = await open(ours, { mode: 'r+' });
      await disk.resize(8 * MiB + 512, { preallocation });
      await disk.close();
      await qemuImg(['resize', '-q', `--preallocation=${preallocation}`, qemus, String(8 * MiB + 512)]);
      await expectCleanByQemu(ours);
      expect((await qemuCompare(ours, qemus)).same).toBe(true);
      const allocated = async (path: string): Promise<number> =>
        (await qemuMap(path)).reduce((sum, { data, length }) => sum + (data ? length : 0), 0);
      expect(await allocated(ours)).toBe(await allocated(qemus));
      const [a, b] = [await stat(ours), await stat(qemus)];
      expect(Math.abs(a.blocks - b.blocks) * 512).toBeLessThanOrEqual(4 * 65536);
    },
  );

  it('preallocated space of an encrypted disk reads as zeros', async () => {
    const encryption = { secret: 'open sesame', iterTimeMs: 10 };
    const disk = await create(new MemoryStorage(), MiB, { encryption });
    await disk.write(pattern(1, MiB), 0);
    await disk.resize(4 * MiB, { preallocation: 'metadata' });
    const content = Buffer.alloc(3 * MiB, 1);
    await disk.read(content, MiB);
    await disk.close();
    expect(content.equals(Buffer.alloc(3 * MiB))).toBe(true);
  });
});

describe('of a raw data file', () => {
  const inDirectory = useTempDir();

  it('the file follows the size of the disk', async () => {
    const data = inDirectory('data');
    const disk = await create(inDirectory('image.qcow2'), MiB, { dataFile: { name: 'data', raw: true } });
    await disk.write(pattern(1, MiB), 0);
    for (const size of [3 * MiB + 512, 512 * KiB + 512, 2 * MiB]) {
      await disk.resize(size, { shrink: true });
      expect((await stat(data)).size, `at ${size} bytes`).toBe(size);
    }
    await disk.close();
    const kept = pattern(1, MiB).subarray(0, 512 * KiB + 512);
    const zeros = Buffer.alloc(2 * MiB - kept.length);
    expect((await readFile(data)).equals(Buffer.concat([kept, zeros]))).toBe(true);
  });
});

describe('refusals', () => {
  it('a disk that is open read-only keeps its size', async () => {
    const storage = new MemoryStorage();
    await (await create(storage, MiB)).close();
    const disk = await open(storage);
    await expect(disk.resize(2 * MiB)).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await disk.close();
  });

  it('requests that are under way when the disk shrinks leave nothing past its end', async () => {
    const disk = await create(new MemoryStorage(), 4 * MiB);
    const requests = Array.from({ length: 64 }, (_, i) =>
      disk.write(Buffer.alloc(65536, i + 1), i * 65536, { compress: i % 3 === 0 }),
    );
    const [, ...results] = await Promise.allSettled([disk.resize(2 * MiB, { shrink: true }), ...requests]);
    await disk.resize(4 * MiB);
    const content = Buffer.alloc(4 * MiB);
    await disk.read(content, 0);
    await disk.close();
    expect(content.subarray(2 * MiB).equals(Buffer.alloc(2 * MiB))).toBe(true);
    results.forEach((result, i) => {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'ERR_OUT_OF_RANGE' });
      if (i >= 32) return;
      expect(result.status).toBe('fulfilled');
      expect(content.subarray(i * 65536, (i + 1) * 65536).equals(Buffer.alloc(65536, i + 1))).toBe(true);
    });
  });
});

async function resizeBy(who: string, path: string, size: number): Promise<void> {
  if (who === 'by QEMU') {
    await qemuImg(['resize', '-q', '--shrink', path, String(size)]);
    return;
  }
  const disk = await open(path, { mode: 'r+' });
  await disk.resize(size, { shrink: true });
  await disk.close();
}
