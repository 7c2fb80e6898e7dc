/** Compacting: everything gets out of the end of the file, nothing is lost, requests go on, and QEMU finds nothing wrong. */
import { stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type CompactReport, type CreateOptions } from '../../lib/index.js';
import { inspectImage } from '../support/image-invariants.js';
import { contentOf, imageKinds, makeImage } from '../support/image-kinds.js';
import { expectCleanByQemu, qemuCheck, qemuContent, qemuImg, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const kib = 1024;
const temp = useTempDir('memory');

async function expectFull(path: string, clusterSize: number): Promise<void> {
  const report = await qemuCheck(path);
  const { size } = await stat(path);
  expect(size, 'the file ends with what is used').toBe(report['image-end-offset']);
  const image = await open(path);
  const { refcounts } = image.guest.image;
  expect(await refcounts.countUsed(0, refcounts.capacity), 'no hole is left').toBe(size / clusterSize);
  await image.close();
}

describe.each([512, 4096, 65536])('clusters of %i bytes', (clusterSize) => {
  it('shrinks to its metadata when everything was discarded', async () => {
    const path = temp('image');
    const size = clusterSize * 300;
    const empty = temp('empty');
    await (await create(empty, size, { clusterSize })).close();
    const disk = await create(path, size, { clusterSize });
    await disk.write(pattern(1, size), 0);
    await disk.discard(0, size);
    const { newSize } = await disk.compact();
    await disk.close();
    expect(newSize).toBe((await stat(path)).size);
    expect(newSize - (await stat(empty)).size).toBeLessThan(clusterSize);
    await expectCleanByQemu(path);
    expect((await qemuContent(path)).equals(Buffer.alloc(size))).toBe(true);
  });

  it('halves when every other cluster was discarded, and finds nothing to do the second time', async () => {
    const path = temp('image');
    const size = clusterSize * 300;
    const disk = await create(path, size, { clusterSize });
    const content = pattern(2, size);
    await disk.write(content, 0);
    for (let at = 0; at < size; at += 2 * clusterSize) {
      await disk.discard(at, clusterSize);
      content.fill(0, at, at + clusterSize);
    }
    const progress: number[] = [];
    const report = await disk.compact({ onProgress: ({ done, total }) => progress.push(done / total) });
    expect(report.copied).toBeGreaterThan(70 * clusterSize);
    expect(report.copied).toBeLessThan(80 * clusterSize);
    expect(report.updated).toBeGreaterThan(70);
    expect(report.oldSize - report.newSize).toBeGreaterThan(140 * clusterSize);
    expect(progress.at(-1)).toBe(1);
    expect([...progress].sort((a, b) => a - b)).toEqual(progress);
    const again: CompactReport = await disk.compact();
    expect(again).toEqual({ copied: 0, updated: 0, oldSize: report.newSize, newSize: report.newSize });
    await disk.close();
    await expectCleanByQemu(path);
    await expectFull(path, clusterSize);
    expect((await qemuContent(path)).equals(content)).toBe(true);
  });

  it('moves what snapshots share once, and changes every reference to it', async () => {
    const path = temp('image');
    const size = clusterSize * 200;
    const disk = await create(path, size, { clusterSize });
    const waste = clusterSize * 90;
    await disk.write(pattern(3, waste), 0);
    const shared = pattern(4, size - waste);
    await disk.write(shared, waste);
    await disk.discard(0, waste);
    await disk.flush();
    for (const name of ['a', 'b', 'c']) await disk.snapshots.create({ name });
    await disk.write(pattern(5, clusterSize), size - clusterSize);
    const before = (await disk.check()).allocatedClusters;
    const report = await disk.compact();
    expect(report.oldSize - report.newSize).toBeGreaterThan(80 * clusterSize);
    expect(report.copied).toBeLessThan(120 * clusterSize);
    expect((await disk.check()).allocatedClusters).toBe(before);
    await disk.close();
    await expectCleanByQemu(path);
    await expectFull(path, clusterSize);
    for (const name of ['a', 'b', 'c']) {
      await qemuImg(['snapshot', '-a', name, path]);
      const content = await qemuContent(path);
      expect(content.subarray(waste).equals(shared), `snapshot ${name}`).toBe(true);
      await expectCleanByQemu(path);
    }
  });
});

const kinds: readonly (readonly [string, CreateOptions])[] = [
  ['zlib', { clusterSize: 4096 }],
  ['zstd', { clusterSize: 4096, compressionType: 'zstd' }],
  ['extended L2', { clusterSize: 16 * kib, extendedL2: true }],
  ['version 2', { clusterSize: 4096, version: 2 }],
];

describe.each(kinds)('compressed clusters: %s', (_name, options) => {
  it.each([false, true])('are packed again (with a snapshot: %s)', async (withSnapshot) => {
    const path = temp('image');
    const { clusterSize = 65536 } = options;
    const size = clusterSize * 160;
    const content = Buffer.alloc(size);
    const random = new Random(7);
    for (let at = 0; at < size; at += clusterSize) {
      content.set(pattern(random.next(), clusterSize / 4 + random.below(clusterSize / 4)), at);
    }
    const disk = await create(path, size, options);
    const waste = clusterSize * 40;
    await disk.write(pattern(1, waste), 0);
    await disk.write(content, 0, { compress: true });
    await disk.flush();
    if (withSnapshot) await disk.snapshots.create({ name: 'kept' });
    const { newSize, oldSize } = await disk.compact();
    expect(newSize).toBeLessThan(oldSize - waste * 0.7);
    const again = await disk.compact();
    expect(again.newSize).toBe(newSize);
    expect((await contentOf(disk)).equals(content)).toBe(true);
    await disk.close();
    await expectCleanByQemu(path);
    expect((await qemuContent(path)).equals(content)).toBe(true);
    if (!withSnapshot) return;
    await qemuIo(path, [`discard 0 ${size}`]);
    await qemuImg(['snapshot', '-a', 'kept', path]);
    expect((await qemuContent(path)).equals(content)).toBe(true);
  });
});

describe('tables in several clusters', () => {
  it('go to the front: L1 tables, the refcount table, snapshots, bitmaps', async () => {
    const path = temp('image');
    const clusterSize = 512;
    const size = 2000 * kib;
    const disk = await create(path, size, { clusterSize, refcountBits: 64 });
    const content = pattern(11, size);
    await disk.write(content.subarray(0, 1200 * kib), 0);
    await disk.resize(40 * size);
    await disk.bitmaps.create({ name: 'all', granularity: 512 });
    await disk.bitmaps.create({ name: 'none', granularity: 4096 });
    for (const name of ['one', 'two']) await disk.snapshots.create({ name });
    await disk.write(content.subarray(1200 * kib), 1200 * kib);
    await disk.bitmaps.create({ name: 'late' });
    for (const name of ['one', 'two']) await disk.snapshots.delete(name);
    await disk.discard(0, 1000 * kib);
    content.fill(0, 0, 1000 * kib);
    await disk.snapshots.create({ name: 'three' });
    await disk.compact();
    const dirty = [];
    for await (const extent of disk.bitmaps.extents('all')) dirty.push(extent);
    await disk.close();
    expect(dirty).toEqual([
      { start: 0, length: 1000 * kib },
      { start: 1200 * kib, length: 800 * kib },
    ]);
    await expectCleanByQemu(path);
    await expectFull(path, clusterSize);
    expect((await qemuContent(path)).subarray(0, size).equals(content)).toBe(true);
    await qemuImg(['snapshot', '-a', 'three', '-q', path]).catch(() => undefined);
  });
});

describe('order: guest', () => {
  const options: [string, CreateOptions][] = [
    ['64 KiB clusters', {}],
    ['512 byte clusters', { clusterSize: 512 }],
    ['extended L2', { clusterSize: 16 * kib, extendedL2: true }],
  ];
  it.each(options)('sorts what was written in any order: %s', async (_name, shape) => {
    const path = temp('image');
    const { clusterSize = 65536 } = shape;
    const clusters = 150;
    const disk = await create(path, clusters * clusterSize, shape);
    const content = Buffer.alloc(clusters * clusterSize);
    const random = new Random(3);
    const order = Array.from({ length: clusters }, (_, i) => ({ i, key: random.next() }));
    for (const { i } of order.sort((a, b) => a.key - b.key)) {
      const data = pattern(i, clusterSize);
      if (i % 7 === 0) continue;
      content.set(data, i * clusterSize);
      await disk.write(data, i * clusterSize);
    }
    expect((await disk.check()).fragmentedClusters).toBeGreaterThan(100);
    const { newSize, oldSize } = await disk.compact({ order: 'guest' });
    expect(newSize).toBeLessThanOrEqual(oldSize);
    const places: number[] = [];
    for await (const { hostOffset } of disk.extents()) if (hostOffset !== null) places.push(hostOffset);
    expect([...places].sort((a, b) => a - b)).toEqual(places);
    expect((await disk.check()).fragmentedClusters).toBeLessThan(5);
    expect((await disk.compact({ order: 'guest' })).copied).toBe(0);
    await disk.close();
    await expectCleanByQemu(path);
    await expectFull(path, clusterSize);
    expect((await qemuContent(path)).equals(content)).toBe(true);
  });
});

describe('detectZeroes', () => {
  it('drops clusters that hold zeros, stored and compressed, and hides the backing file', async () => {
    await (await create(temp('base'), 640 * kib, {})).close();
    await qemuIo(temp('base'), ['write -P 7 0 640k']);
    const path = temp('image');
    const disk = await create(path, 640 * kib, { backing: { name: 'base', format: 'qcow2' } });
    await disk.write(Buffer.alloc(256 * kib), 0);
    await disk.write(Buffer.alloc(128 * kib), 256 * kib, { compress: true });
    await disk.write(pattern(1, 64 * kib), 128 * kib);
    const { newSize, oldSize } = await disk.compact({ detectZeroes: true });
    expect(oldSize - newSize).toBeGreaterThanOrEqual(3 * 64 * kib);
    await disk.close();
    await expectCleanByQemu(path);
    const expected = Buffer.alloc(640 * kib, 7).fill(0, 0, 384 * kib);
    expected.set(pattern(1, 64 * kib), 128 * kib);
    expect((await qemuContent(path)).equals(expected)).toBe(true);
  });
});

describe('an aborted compaction', () => {
  it.each(
    imageKinds.filter(({ options }) => options.encryption === undefined).map((kind) => [kind.name, kind]),
  )('leaves a valid image, wherever it is stopped: %s', async (_name, kind) => {
    const made = await makeImage(kind, temp);
    const disk = await open(made.path, made.open);
    const data = pattern(9, Math.min(kind.size, 60 * kind.clusterSize));
    await disk.write(data, 0);
    await disk.discard(kind.clusterSize, Math.min(kind.size / 2, 20 * kind.clusterSize));
    const content = await contentOf(disk);
    for (let steps = 0; steps < 4; steps++) {
      const abort = new AbortController();
      let left = steps * 3;
      const onProgress = (): void => {
        if (left-- === 0) abort.abort(new Error('enough'));
      };
      await disk.compact({ signal: abort.signal, onProgress }).catch((error: unknown) => {
        expect(error).toMatchObject({ message: 'enough' });
      });
      expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
    }
    expect((await contentOf(disk)).equals(content)).toBe(true);
    await disk.close();
    await expectCleanByQemu(made.path);
  });
});

describe('what a compaction refuses', () => {
  it('is a damaged image', async () => {
    const image = new MemoryStorage();
    const disk = await create(image, 640 * kib);
    await disk.write(pattern(1, 640 * kib), 0);
    await disk.close();
    const { l2 } = tablesOf(image.toBuffer());
    // Two guest clusters in one place.
    await image.write(image.toBuffer().subarray(l2, l2 + 8), l2 + 8);
    const before = image.toBuffer();
    const again = await open(image, { mode: 'r+' });
    await expect(again.compact()).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    await again.close();
    expect(image.toBuffer().equals(before)).toBe(true);
  });

  it('is an image encrypted with LUKS without its secret, one that is read-only, and one with an open snapshot', async () => {
    const path = temp('image');
    await (await create(path, 64 * kib, { encryption: { secret: 'x', iterTimeMs: 10 } })).close();
    const locked = await open(path, { mode: 'r+' });
    await expect(locked.compact()).rejects.toMatchObject({ code: 'ERR_QCOW2_SECRET' });
    await locked.close();
    const readOnly = await open(path);
    await expect(readOnly.compact()).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await readOnly.close();
    const disk = await create(temp('other'), 64 * kib);
    await disk.snapshots.create({ name: 'a' });
    const view = await disk.snapshots.open('a');
    await expect(disk.compact()).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await view.close();
    await disk.compact();
    await disk.close();
    await expect(disk.compact()).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
  });

  it('is not an image that leaks: it gets the space back', async () => {
    const image = new MemoryStorage();
    const disk = await create(image, 640 * kib);
    await disk.write(pattern(1, 640 * kib), 0);
    await disk.close();
    const { l2 } = tablesOf(image.toBuffer());
    await image.write(new Uint8Array(32), l2 + 8);
    expect(inspectImage(image.toBuffer()).leaks).toBe(4);
    const again = await open(image, { mode: 'r+' });
    const { oldSize, newSize } = await again.compact();
    expect(oldSize - newSize).toBe(4 * 64 * kib);
    await again.close();
    expect(inspectImage(image.toBuffer())).toMatchObject({ leaks: 0, problems: [] });
  });
});

describe('a job beside a compaction', () => {
  it('waits for it; reads and writes do not', async () => {
    const clusterSize = 4096;
    const size = clusterSize * 4000;
    const disk = await create(new MemoryStorage(), size, { clusterSize });
    const content = pattern(1, size);
    await disk.write(content, 0);
    await disk.discard(0, size / 2);
    content.fill(0, 0, size / 2);
    const order: string[] = [];
    const compaction = disk.compact().then(() => order.push('compacted'));
    const snapshot = disk.snapshots.create({ name: 'a' }).then(() => order.push('snapshot'));
    for (let i = 0; i < 50; i++) {
      const at = size / 2 + ((i * 37) % 1000) * clusterSize + 512;
      const data = pattern(i, 1024);
      content.set(data, at);
      await disk.write(data, at);
      const got = Buffer.alloc(3000);
      await disk.read(got, at - 700);
      expect(got.equals(content.subarray(at - 700, at + 2300))).toBe(true);
      if (order.length === 0) order.push('');
    }
    await Promise.all([compaction, snapshot]);
    expect(order).toEqual(['', 'compacted', 'snapshot']);
    expect((await contentOf(disk)).equals(content)).toBe(true);
    expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0 });
    await disk.close();
  });
});

/** Where the first L2 table of an image is. */
function tablesOf(image: Buffer): { l2: number } {
  const l1 = Number(image.readBigUInt64BE(40));
  return { l2: Number(image.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n) };
}
