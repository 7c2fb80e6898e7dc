/** New images: what they are by QEMU's word, which options go together, and what a refused one leaves behind. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type CreateOptions } from '../../lib/index.js';
import { expectCleanByQemu, qemuImg, qemuInfo, qemuMap } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const encryption = { secret: 'open sesame', iterTimeMs: 10 };
/** What two images need not have in common. */
const differing = { filename: '', 'actual-size': 0 };
const inDirectory = useTempDir();
const path = (): string => inDirectory('image.qcow2');

describe('a new image is what qemu-img would have made', () => {
  it.each<{ options: CreateOptions; qemu: string }>([
    { options: {}, qemu: 'compat=1.1' },
    { options: { version: 2 }, qemu: 'compat=0.10' },
    { options: { clusterSize: 512 }, qemu: 'cluster_size=512' },
    { options: { clusterSize: 2 * MiB }, qemu: 'cluster_size=2M' },
    { options: { refcountBits: 1 }, qemu: 'refcount_bits=1' },
    { options: { refcountBits: 64, clusterSize: 4096 }, qemu: 'refcount_bits=64,cluster_size=4k' },
    { options: { lazyRefcounts: true }, qemu: 'lazy_refcounts=on' },
    { options: { extendedL2: true, clusterSize: 16384 }, qemu: 'extended_l2=on,cluster_size=16k' },
    { options: { compressionType: 'zstd' }, qemu: 'compression_type=zstd' },
    { options: { preallocation: 'metadata' }, qemu: 'preallocation=metadata' },
    { options: { preallocation: 'falloc' }, qemu: 'preallocation=falloc' },
    { options: { preallocation: 'full', version: 2 }, qemu: 'preallocation=full,compat=0.10' },
  ])('$qemu', async ({ options, qemu }) => {
    const theirs = inDirectory('theirs.qcow2');
    const size = 9 * MiB + 512;
    await (await create(path(), size, options)).close();
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', qemu, theirs, String(size)]);
    await expectCleanByQemu(path());
    const ours = await qemuInfo(path());
    const expected = await qemuInfo(theirs);
    expect({ ...ours, ...differing }).toEqual({ ...expected, ...differing });
    expect(Math.abs(ours['actual-size'] - expected['actual-size'])).toBeLessThan(MiB);
    const stored = async (image: string): Promise<number> =>
      (await qemuMap(image)).reduce((sum, { data, length }) => sum + (data ? length : 0), 0);
    expect(await stored(path())).toBe(await stored(theirs));
  });

  it.each([0, 1, 511, 65536 * 3 + 100])('of %i bytes', async (size) => {
    const disk = await create(path(), size);
    await disk.write(pattern(1, size), 0);
    await disk.close();
    await expectCleanByQemu(path());
    const again = await open(path());
    const content = Buffer.alloc(size);
    await again.read(content, 0);
    expect(again.size).toBe(size);
    expect(content.equals(pattern(1, size))).toBe(true);
    await again.close();
  });

  it('tells the names of backing file and data file as they were given', async () => {
    await writeFile(inDirectory('base'), pattern(1, MiB));
    await (await create(path(), MiB, { backing: { name: './base', format: 'raw' } })).close();
    expect(await qemuInfo(path())).toMatchObject({
      'backing-filename': './base',
      'backing-filename-format': 'raw',
    });
    const dataFile = { name: inDirectory('data'), raw: true };
    await (await create(path(), MiB, { dataFile })).close();
    expect((await qemuInfo(path()))['format-specific']?.data).toMatchObject({
      'data-file': dataFile.name,
      'data-file-raw': true,
    });
  });
});

describe('options that cannot be', () => {
  const wrong = { code: 'ERR_OUT_OF_RANGE' };
  const conflict = { code: 'ERR_QCOW2_CONFLICT' };
  const limit = { code: 'ERR_QCOW2_LIMIT' };

  it.each<{ what: string; options: CreateOptions; size?: number; error: { code: string } }>([
    { what: 'clusters of 256 bytes', options: { clusterSize: 256 }, error: wrong },
    { what: 'clusters of 4 MiB', options: { clusterSize: 4 * MiB }, error: wrong },
    { what: 'clusters of 5000 bytes', options: { clusterSize: 5000 }, error: wrong },
    { what: 'refcounts of 3 bits', options: { refcountBits: 3 }, error: wrong },
    { what: 'a negative size', options: {}, size: -1, error: wrong },
    { what: 'half a byte', options: {}, size: 0.5, error: wrong },
    { what: 'version 2 with lazy refcounts', options: { version: 2, lazyRefcounts: true }, error: conflict },
    { what: 'version 2 with zstd', options: { version: 2, compressionType: 'zstd' }, error: conflict },
    { what: 'version 2 with extended L2', options: { version: 2, extendedL2: true }, error: conflict },
    { what: 'version 2 with 8-bit refcounts', options: { version: 2, refcountBits: 8 }, error: conflict },
    {
      what: 'version 2 with a data file',
      options: { version: 2, dataFile: { name: 'data' } },
      error: conflict,
    },
    { what: 'extended L2 in 8 KiB', options: { extendedL2: true, clusterSize: 8192 }, error: conflict },
    {
      what: 'a raw data file over a backing file',
      options: { dataFile: { name: 'data', raw: true }, backing: { name: 'base', format: 'raw' } },
      error: conflict,
    },
    {
      what: 'preallocation over a backing file',
      options: { preallocation: 'metadata', backing: { name: 'base', format: 'raw' } },
      error: conflict,
    },
    {
      what: 'version 2 with preallocated encrypted clusters',
      options: { version: 2, preallocation: 'full', encryption },
      error: conflict,
    },
    {
      what: 'a disk too large for its L1 table',
      options: { clusterSize: 512 },
      size: 2 ** 37 + 1,
      error: limit,
    },
    {
      what: 'a backing file name that does not fit',
      options: { clusterSize: 512, backing: { name: 'n'.repeat(500), unchecked: true } },
      error: limit,
    },
    {
      what: 'a backing file name that is too long',
      options: { backing: { name: 'n'.repeat(1024), unchecked: true } },
      error: { code: 'ERR_INVALID_ARG_VALUE' },
    },
  ])('$what: refused, and what was there stays', async ({ options, size = MiB, error }) => {
    await writeFile(inDirectory('base'), pattern(1, MiB));
    await writeFile(path(), 'what was there');
    await writeFile(inDirectory('data'), 'what was there');
    await expect(create(path(), size, options)).rejects.toMatchObject(error);
    for (const file of [path(), inDirectory('data')]) {
      expect(await readFile(file, 'utf8')).toBe('what was there');
    }
  });
});

describe('the target', () => {
  it('loses what it held', async () => {
    await writeFile(path(), pattern(1, 5 * MiB));
    await (await create(path(), MiB)).close();
    expect((await stat(path())).size).toBeLessThan(MiB);
    await expectCleanByQemu(path());
  });

  it('may be in memory', async () => {
    const storage = new MemoryStorage();
    const disk = await create(storage, MiB);
    await disk.write(pattern(1, MiB), 0);
    await disk.close();
    const bytes = Buffer.alloc(await storage.size());
    await storage.read(bytes, 0);
    await writeFile(path(), bytes);
    await expectCleanByQemu(path());
  });

  it.each<CreateOptions>([
    { preallocation: 'metadata' },
    { preallocation: 'full' },
    { preallocation: 'full', extendedL2: true },
  ])('an encrypted disk with %j reads as zeros', async (options) => {
    const disk = await create(new MemoryStorage(), 3 * MiB, { ...options, encryption });
    const content = Buffer.alloc(3 * MiB, 1);
    await disk.read(content, 0);
    expect(content.equals(Buffer.alloc(3 * MiB))).toBe(true);
    await disk.close();
  });
});
