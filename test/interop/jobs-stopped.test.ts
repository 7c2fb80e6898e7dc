/** Amending, resizing and merging bitmaps report progress and can be stopped, which leaves a valid image that goes on. */
import { describe, expect, it } from 'vitest';
import { create, type CreateOptions, type Disk, type Job, type Qcow2 } from '../../lib/index.js';
import { PlainBitmap, qemuDirty } from '../support/bitmap-oracle.js';
import { expectCleanByQemu, qemuContent, qemuInfo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { expectProgress, stopEverywhere } from '../support/stopping.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const temp = useTempDir();
type Stoppable = Required<Pick<Job, 'signal' | 'onProgress'>>;

const jobs: [
  name: string,
  size: number,
  CreateOptions,
  (disk: Qcow2, job: Stoppable) => Promise<void>,
  resized?: number,
][] = [
  ['wider refcounts', 3 * MiB, { clusterSize: 512 }, (disk, job) => disk.amend({ refcountBits: 64, ...job })],
  ['version 2', 3 * MiB, { clusterSize: 512 }, (disk, job) => disk.amend({ version: 2, ...job })],
  [
    'all at once',
    3 * MiB,
    { clusterSize: 512, refcountBits: 8 },
    (disk, job) => disk.amend({ version: 2, refcountBits: 16, size: 4 * MiB, ...job }),
    4 * MiB,
  ],
  [
    'a larger disk, written in full',
    2 * MiB,
    { clusterSize: 4096 },
    (disk, job) => disk.resize(33 * MiB, { preallocation: 'full', ...job }),
    33 * MiB,
  ],
  [
    'a larger disk in a raw data file',
    2 * MiB,
    { clusterSize: 4096, dataFile: { name: 'data', raw: true } },
    (disk, job) => disk.resize(17 * MiB + 512, { preallocation: 'falloc', ...job }),
    17 * MiB + 512,
  ],
];

describe('a job that is stopped', () => {
  it.each(jobs)('leaves a valid image: %s', async (_name, size, options, run, resized = size) => {
    const path = temp('disk.qcow2');
    const dataFile = options.dataFile && { ...options.dataFile, name: temp('data') };
    const disk = await create(path, size, { ...options, ...(dataFile && { dataFile }) });
    await disk.write(pattern(1, size / 2), 1000);
    await disk.writeZeroes(size / 4, size / 8);
    const before = await contentOf(disk);
    const stops = await stopEverywhere(
      (job) => run(disk, job),
      async () => {
        expect([size, resized]).toContain(disk.size);
        expect((await contentOf(disk)).subarray(0, size).equals(before)).toBe(true);
        await disk.flush();
        expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
      },
    );
    expect(stops).toBeGreaterThan(0);
    const data = pattern(2, 5000);
    await disk.write(data, 3000);
    before.set(data, 3000);
    expect(disk.size).toBe(resized);
    await disk.close();
    await expectCleanByQemu(path);
    const after = await qemuContent(path);
    expect(after.subarray(0, size).equals(before)).toBe(true);
    expect(after.subarray(size).equals(Buffer.alloc(resized - size))).toBe(true);
  });

  it('reports a shrink', async () => {
    const disk = await create(temp('disk.qcow2'), 8 * MiB, { clusterSize: 512 });
    for (let at = 0; at < disk.size; at += 64 * KiB) await disk.write(pattern(at, 512), at);
    const seen: { done: number; total: number }[] = [];
    await disk.resize(MiB, { shrink: true, onProgress: (progress) => void seen.push({ ...progress }) });
    expectProgress(seen);
    expect(seen.length).toBeGreaterThan(1);
    await disk.close();
    await expectCleanByQemu(temp('disk.qcow2'));
  });

  it('leaves a bitmap as it was while others are merged into it', async () => {
    const size = 24 * MiB;
    const below = await create(temp('below.qcow2'), size, { clusterSize: 4096 });
    await below.bitmaps.create({ name: 'theirs', granularity: 512 });
    await below.write(pattern(1, 512), 20 * MiB + 512);
    const disk = await create(temp('disk.qcow2'), size, { clusterSize: 512 });
    await disk.bitmaps.create({ name: 'sum', granularity: 512 });
    await disk.bitmaps.create({ name: 'coarse', granularity: 64 * KiB });
    const model = new PlainBitmap(size, 512);
    await disk.write(pattern(2, 512), 5 * MiB);
    await disk.bitmaps.disable('sum');
    model.set(5 * MiB, 512);
    const start = await dirtyIn(disk, 'sum');
    await disk.write(pattern(2, 512), 9 * MiB);
    const stops = await stopEverywhere(
      (job) => disk.bitmaps.merge('sum', ['coarse', { disk: below, name: 'theirs' }], job),
      async () => {
        expect(await dirtyIn(disk, 'sum')).toEqual(start);
        expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
      },
    );
    expect(stops).toBeGreaterThan(5);
    model.set(5 * MiB, 64 * KiB);
    model.set(9 * MiB, 64 * KiB);
    model.set(20 * MiB + 512, 512);
    expect(await dirtyIn(disk, 'sum')).toEqual(model.ranges());
    await below.close();
    await expect(disk.bitmaps.merge('sum', [{ disk: below, name: 'theirs' }])).rejects.toMatchObject({
      code: 'ERR_QCOW2_CLOSED',
    });
    await disk.close();
    await expectCleanByQemu(temp('disk.qcow2'));
    expect(await qemuDirty(temp('disk.qcow2'), 'sum')).toEqual(model.ranges());
    expect((await qemuInfo(temp('disk.qcow2')))['format-specific']?.data.bitmaps).toHaveLength(2);
  });
});

async function dirtyIn(disk: Qcow2, name: string): Promise<{ start: number; length: number }[]> {
  const found: { start: number; length: number }[] = [];
  for await (const extent of disk.bitmaps.extents(name)) found.push(extent);
  return found;
}

async function contentOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}
