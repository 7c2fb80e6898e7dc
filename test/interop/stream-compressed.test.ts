/** Compressed streams: clean to QEMU, the right content, the length that was announced, and restored through a pipe. */
import { createWriteStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { describe, expect, it } from 'vitest';
import {
  create,
  difference,
  fromQcow2Stream,
  MemoryStorage,
  openDisk,
  RawDisk,
  toQcow2Stream,
  type ToQcow2StreamOptions,
} from '../../lib/index.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuCheck, qemuCompare, qemuImg } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 2 ** 20;

async function save(stream: ReturnType<typeof toQcow2Stream>, name: string): Promise<number> {
  const length = await stream.sized();
  await pipeline(stream, createWriteStream(path(name)));
  expect((await stat(path(name))).size).toBe(length);
  return length;
}

describe('compressed', () => {
  it.each<ToQcow2StreamOptions>([
    {},
    { compressionType: 'zstd', compressionLevel: 1 },
    { clusterSize: 512 },
    { clusterSize: 512, refcountBits: 64 },
    { clusterSize: 4096, refcountBits: 1 },
    { clusterSize: 4096, refcountBits: 2, version: 3 },
    { clusterSize: 2 * MiB },
    { version: 2 },
    { extendedL2: true },
    { clusterSize: 1024, refcountBits: 64, compressionLevel: 6 },
  ])('%j', async (options) => {
    const model = mixedDisk(6, 5 * MiB + 512);
    await model.saveAs(path('raw'));
    const { disk } = await openDisk(path('raw'), { format: 'raw' });
    const length = await save(toQcow2Stream(disk, { ...options, compress: true }), 'packed');
    const other = toQcow2Stream(disk, { ...options, scanZeros: true });
    const plain = await other.sized();
    other.destroy();
    if (options.refcountBits !== 1) expect(length).toBeLessThan(plain);
    await disk.close();
    await expectCleanByQemu(path('packed'));
    expect((await qemuCompare(path('raw'), path('packed'), { a: 'raw' })).same).toBe(true);
    await fromQcow2Stream(toQcow2Stream(path('packed'), { ...options, compress: true }), path('out'), {
      targetFormat: 'raw',
    });
    expect((await readFile(path('out'))).equals(await readFile(path('raw')))).toBe(true);
  });

  it('takes about the room that qemu-img needs', async () => {
    const model = mixedDisk(7, 24 * MiB);
    await model.saveAs(path('raw'));
    await qemuImg(['convert', '-c', '-f', 'raw', '-O', 'qcow2', path('raw'), path('theirs')]);
    const length = await save(
      toQcow2Stream(path('raw'), { sourceFormat: 'raw', compress: true, compressionLevel: 6 }),
      'ours',
    );
    expect(length).toBeLessThan((await stat(path('theirs'))).size * 1.05);
    const { 'compressed-clusters': ours } = await qemuCheck(path('ours'));
    expect(ours).toBeGreaterThan(50);
  });

  it.each([2, 3] as const)('incremental, version %i', async (version) => {
    const image = await create(path('disk'), 8 * MiB);
    await image.write(Buffer.alloc(6 * MiB, 'text and more text'), MiB);
    await save(toQcow2Stream(image, { compress: true }), 'full');
    await image.bitmaps.create({ name: 'nightly' });
    await image.write(Buffer.alloc(200_000, 'other text'), 2 * MiB);
    await image.write(pattern(1, 200_000), 5 * MiB);
    await image.writeZeroes(3 * MiB, 300_000);
    await image.write(Buffer.alloc(200_000), 4 * MiB);
    const stream = toQcow2Stream(image, {
      version,
      compress: true,
      changes: difference(image, { bitmap: 'nightly' }),
      backing: { name: 'full', format: 'qcow2' },
    });
    await save(stream, 'incremental');
    await image.close();
    await expectCleanByQemu(path('incremental'));
    expect((await qemuCompare(path('disk'), path('incremental'))).same).toBe(true);
  });

  it('an empty disk, and one of zeros that are stored', async () => {
    for (const disk of [
      new RawDisk(new MemoryStorage(), 0, true),
      new RawDisk(new MemoryStorage(Buffer.alloc(3 * MiB)), 3 * MiB, true),
    ]) {
      expect(await save(toQcow2Stream(disk, { compress: true }), 'packed')).toBeLessThanOrEqual(5 * 65536);
      await expectCleanByQemu(path('packed'));
    }
  });

  it('a disk that changes meanwhile is noticed, and a stream is stopped while it learns', async () => {
    const disk = new RawDisk(new MemoryStorage(Buffer.alloc(8 * MiB, 'text')), 8 * MiB, true);
    // The last table has nothing to describe any more once what lies behind 8 MiB - 32 KiB is zeros.
    for (const [written, at] of [
      [pattern(1, 4 * MiB), 2 * MiB],
      [Buffer.alloc(32 * 1024), 8 * MiB - 32 * 1024],
    ] as const) {
      const storage = new MemoryStorage(Buffer.alloc(8 * MiB, 'text'));
      const stream = toQcow2Stream(new RawDisk(storage, 8 * MiB, true), { compress: true, clusterSize: 512 });
      await stream.sized();
      await storage.write(written, at);
      await expect(stream.toArray()).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    }

    const reason = new Error('enough');
    const stopped = toQcow2Stream(disk, { compress: true, clusterSize: 512 });
    const failed = expect(stopped.sized()).rejects.toBe(reason);
    stopped.once('error', () => undefined);
    stopped.destroy(reason);
    await failed;
    await new Promise((resolve) => stopped.once('close', resolve));
  });
});
