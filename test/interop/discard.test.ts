/** Discarding: the space comes back, the edges are zeros, and with keepAllocated the clusters stay where they are. */
import { stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open, type CreateOptions, type Extent, type Qcow2 } from '../../lib/index.js';
import { contentOf, secret } from '../support/image-kinds.js';
import { expectCleanByQemu, qemuContent } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const kib = 1024;
const size = 4 * 1024 * kib;
const temp = useTempDir();

const used = async (path: string): Promise<number> => (await stat(path)).blocks * 512;

async function extentsOf(disk: Qcow2): Promise<Extent[]> {
  const found: Extent[] = [];
  for await (const extent of disk.extents()) found.push(extent);
  return found;
}

const kinds: readonly (readonly [string, CreateOptions])[] = [
  ['64 KiB clusters', {}],
  ['4 KiB clusters', { clusterSize: 4096 }],
  ['extended L2', { clusterSize: 32 * kib, extendedL2: true }],
  ['LUKS', { encryption: { secret, iterTimeMs: 10 } }],
  ['lazy refcounts', { lazyRefcounts: true }],
];

describe.each(kinds)('%s', (_name, options) => {
  it('gives the space back, and keeps clusters where that is wanted', async () => {
    const path = temp('image');
    const disk = await create(path, size, options);
    const content = pattern(1, size);
    await disk.write(content, 0);
    await disk.flush();
    const full = await used(path);
    const allocated = (await disk.check()).allocatedClusters;
    const places = await extentsOf(disk);

    await disk.discard(1000, size / 2, { keepAllocated: true });
    content.fill(0, 1000, 1000 + size / 2);
    expect(await used(path)).toBeLessThan(full - size / 2 + 256 * kib);
    const kept = await disk.check();
    expect(kept).toMatchObject({ leaks: 0, corruptions: 0, allocatedClusters: allocated });
    expect((await contentOf(disk)).equals(content)).toBe(true);

    const again = pattern(2, size / 2);
    await disk.write(again, 1000);
    content.set(again, 1000);
    await disk.flush();
    expect(await extentsOf(disk)).toEqual(places);
    expect(await disk.check()).toMatchObject({ fragmentedClusters: kept.fragmentedClusters });

    await disk.discard(1000, size / 2);
    content.fill(0, 1000, 1000 + size / 2);
    await disk.flush();
    expect(await used(path)).toBeLessThan(full - size / 2 + 256 * kib);
    expect((await disk.check()).allocatedClusters).toBeLessThan(allocated);
    expect((await contentOf(disk)).equals(content)).toBe(true);
    await disk.close();
    if (options.encryption !== undefined) return;
    await expectCleanByQemu(path);
    expect((await qemuContent(path)).equals(content)).toBe(true);
  });
});

describe('keepAllocated', () => {
  it('gives up what a snapshot has, too, and what is compressed, and hides a backing file', async () => {
    const base = await create(temp('base'), size);
    await base.write(Buffer.alloc(size, 7), 0);
    await base.close();
    const path = temp('image');
    const disk = await create(path, size, { backing: { name: 'base', format: 'qcow2' } });
    const content = pattern(3, size / 2);
    await disk.write(content, 0);
    await disk.snapshots.create({ name: 'kept' });
    await disk.write(Buffer.alloc(128 * kib, 1), size / 2, { compress: true });
    await disk.write(pattern(4, 64 * kib), 0);
    await disk.discard(0, size, { keepAllocated: true });
    // The one cluster that is the active disk's own.
    expect((await disk.check()).allocatedClusters).toBe(1);
    expect((await contentOf(disk)).equals(Buffer.alloc(size))).toBe(true);
    const view = await disk.snapshots.open('kept');
    const got = Buffer.alloc(size / 2);
    await view.read(got, 0);
    expect(got.equals(content)).toBe(true);
    await view.close();
    await disk.close();
    await expectCleanByQemu(path);
    expect((await qemuContent(path)).equals(Buffer.alloc(size))).toBe(true);
  });

  it('means a plain discard in version 2', async () => {
    const disk = await create(temp('image'), size, { version: 2 });
    await disk.write(pattern(1, size), 0);
    await disk.discard(0, size, { keepAllocated: true });
    await disk.close();
    const again = await open(temp('image'));
    expect(await again.check()).toMatchObject({ allocatedClusters: 0, leaks: 0 });
    await again.close();
    await expectCleanByQemu(temp('image'));
  });
});

describe('an external data file', () => {
  it.each([false, true])('gets holes (raw: %s)', async (raw) => {
    const path = temp('image');
    const data = temp('data');
    const disk = await create(path, size, { dataFile: { name: data, raw } });
    const content = pattern(1, size);
    await disk.write(content, 0);
    await disk.flush();
    const full = await used(data);
    await disk.discard(100, size / 2);
    content.fill(0, 100, 100 + size / 2);
    await disk.close();
    expect(await used(data)).toBeLessThan(full - size / 2 + 256 * kib);
    await expectCleanByQemu(path);
    expect((await qemuContent(path)).equals(content)).toBe(true);
  });
});
