/** Converting between raw and qcow2 of every shape, with QEMU judging what comes out. */
import { randomFillSync } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { convert, open, type ConvertOptions, type CreateOptions } from '../../lib/index.js';
import { compressedClusters } from '../support/compressed-image.js';
import { mixedDisk } from '../support/mixed-disk.js';
import {
  expectCleanByQemu,
  qemuCompare,
  qemuContent,
  qemuImg,
  qemuInfo,
  qemuIo,
  qemuMap,
} from '../support/oracle.js';
import type { PlainDisk } from '../support/plain-disk.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const path = useTempDir();

async function rawFile(disk: PlainDisk, name = 'source.raw'): Promise<string> {
  await disk.saveAs(path(name));
  return path(name);
}

/** Bytes of whole units of a disk that are not all zeros. */
function dataBytes(disk: PlainDisk, unit: number): number {
  const zeros = Buffer.alloc(unit);
  let bytes = 0;
  for (let at = 0; at < disk.size; at += unit) {
    const length = Math.min(unit, disk.size - at);
    if (!disk.read(at, length).equals(zeros.subarray(0, length))) bytes += length;
  }
  return bytes;
}

const shapes: Record<string, CreateOptions> = {
  'the default': {},
  'version 2': { version: 2 },
  'clusters of 512 bytes': { clusterSize: 512 },
  'clusters of 4 KiB, 1-bit refcounts': { clusterSize: 4096, refcountBits: 1 },
  'clusters of 2 MiB, 64-bit refcounts': { clusterSize: 2 * MiB, refcountBits: 64 },
  'lazy refcounts': { lazyRefcounts: true },
  'extended L2 entries': { extendedL2: true, clusterSize: 128 * 1024 },
};

describe('raw to qcow2 and back', () => {
  it.each(Object.entries(shapes))('%s', async (_, create) => {
    const disk = mixedDisk(1, 9 * MiB + 1536);
    const source = await rawFile(disk);
    expect(await convert(source, path('image'), { targetFormat: 'qcow2', create })).toEqual({
      size: disk.size,
    });
    await expectCleanByQemu(path('image'));
    expect((await qemuCompare(source, path('image'), { a: 'raw' })).output).toContain('identical');
    const unit = create.extendedL2 === true ? 4096 : Math.max(create.clusterSize ?? 65536, 4096);
    const stored = (await qemuMap(path('image'))).filter((entry) => entry.data);
    expect(stored.reduce((sum, { length }) => sum + length, 0)).toBe(dataBytes(disk, unit));
    await convert(path('image'), path('back.raw'), { targetFormat: 'raw' });
    expect((await readFile(path('back.raw'))).equals(await readFile(source))).toBe(true);
    // Whatever the image stores as a whole, the raw file is as sparse as its zeros allow.
    expect((await stat(path('back.raw'))).blocks * 512).toBeLessThanOrEqual(dataBytes(disk, 4096) + 65536);
  });

  it.each<[string, CreateOptions]>([
    ['zlib', {}],
    ['zstd', { compressionType: 'zstd' }],
    ['zlib, clusters of 512 bytes', { clusterSize: 512 }],
    ['zstd, clusters of 2 MiB', { compressionType: 'zstd', clusterSize: 2 * MiB }],
    ['zlib, version 2, clusters of 4 KiB', { version: 2, clusterSize: 4096 }],
    ['zlib, 1-bit refcounts: no two in one host cluster', { refcountBits: 1 }],
    ['zlib, extended L2 entries', { extendedL2: true }],
  ])('compressed: %s', async (_, create) => {
    const disk = mixedDisk(2, 7 * MiB + 512);
    const source = await rawFile(disk);
    await convert(source, path('image'), { targetFormat: 'qcow2', create, compress: true });
    await expectCleanByQemu(path('image'));
    expect((await qemuCompare(source, path('image'), { a: 'raw' })).output).toContain('identical');
    await convert(path('image'), path('back.raw'), { targetFormat: 'raw' });
    expect((await readFile(path('back.raw'))).equals(await readFile(source))).toBe(true);
  });

  it('packs compressed clusters no worse than qemu-img', async () => {
    // Real machine code between what does not compress.
    const program = await readFile(process.execPath);
    const disk = mixedDisk(3, 24 * MiB, 0.1);
    disk.write(program.subarray(0, 12 * MiB), 8 * MiB);
    const source = await rawFile(disk);
    await convert(source, path('ours'), { targetFormat: 'qcow2', compress: true });
    await qemuImg(['convert', '-c', '-O', 'qcow2', source, path('theirs')]);
    const [ours, theirs] = await Promise.all([stat(path('ours')), stat(path('theirs'))]);
    expect(ours.size).toBeLessThanOrEqual(theirs.size * 1.01);
  });

  it('compresses harder at a higher level', async () => {
    const source = await rawFile(mixedDisk(4, 4 * MiB));
    const options: ConvertOptions = { targetFormat: 'qcow2', compress: true };
    await convert(source, path('quick'), { ...options, compressionLevel: 1 });
    await convert(source, path('hard'), { ...options, compressionLevel: 12 });
    expect((await stat(path('hard'))).size).toBeLessThan((await stat(path('quick'))).size);
    expect((await qemuCompare(path('quick'), path('hard'))).same).toBe(true);
  });

  it.each<[string, () => CreateOptions]>([
    ['preallocated metadata', () => ({ preallocation: 'metadata' })],
    ['reserved space', () => ({ preallocation: 'falloc' })],
    // QEMU takes a relative name from its working directory.
    ['an external data file', () => ({ dataFile: { name: path('data') } })],
    ['a raw external data file', () => ({ dataFile: { name: path('data'), raw: true } })],
  ])('into an image with %s', async (_, options) => {
    const create = options();
    const disk = mixedDisk(5, 5 * MiB + 512);
    const source = await rawFile(disk);
    await convert(source, path('image'), { targetFormat: 'qcow2', create });
    await expectCleanByQemu(path('image'));
    expect((await qemuCompare(source, path('image'), { a: 'raw' })).output).toContain('identical');
    if (create.dataFile?.raw === true) {
      // Like QEMU's, it ends with a whole cluster.
      expect((await readFile(path('data'))).subarray(0, disk.size).equals(await readFile(source))).toBe(true);
    }
  });

  it('encrypts and decrypts', async () => {
    const source = await rawFile(mixedDisk(6, 3 * MiB + 512));
    const encryption = { secret: 'geheim', iterTimeMs: 10 };
    await convert(source, path('image'), { targetFormat: 'qcow2', create: { encryption } });
    const opts = `driver=qcow2,file.filename=${path('image')},encrypt.key-secret=s`;
    const object = ['--object', 'secret,id=s,data=geheim'];
    await qemuImg(['convert', ...object, '--image-opts', opts, '-O', 'raw', path('theirs.raw')]);
    expect((await readFile(path('theirs.raw'))).equals(await readFile(source))).toBe(true);
    await convert(path('image'), path('ours.raw'), { targetFormat: 'raw', open: { secret: 'geheim' } });
    expect((await readFile(path('ours.raw'))).equals(await readFile(source))).toBe(true);
  });

  it.each(['off', 'falloc', 'full'] as const)('to raw with preallocation %s', async (preallocation) => {
    const disk = mixedDisk(7, 2 * MiB, 0.2);
    const source = await rawFile(disk);
    await convert(source, path('copy.raw'), { targetFormat: 'raw', create: { preallocation } });
    expect((await readFile(path('copy.raw'))).equals(await readFile(source))).toBe(true);
    const allocated = (await stat(path('copy.raw'))).blocks * 512;
    if (preallocation === 'off') expect(allocated).toBeLessThan(disk.size);
    else expect(allocated).toBeGreaterThanOrEqual(disk.size);
  });
});

describe('a new image', () => {
  it('takes no more space than what is in it, however much of the source is zeros', async () => {
    const content = Buffer.alloc(24 * MiB);
    for (const at of [0, 3, 17]) randomFillSync(content, at * MiB, MiB);
    await writeFile(path('source.raw'), content);
    await convert(path('source.raw'), path('copy'), { targetFormat: 'qcow2' });
    const { size, blocks } = await stat(path('copy'));
    expect(blocks * 512).toBeLessThanOrEqual(3 * MiB + 6 * 65536);
    expect(size).toBeLessThanOrEqual(3 * MiB + 6 * 65536);
    await expectCleanByQemu(path('copy'));
    await qemuImg(['compare', '-f', 'raw', '-F', 'qcow2', path('source.raw'), path('copy')]);
  });
});

describe('images that qemu-img made', () => {
  it.each([
    ['zlib', ['-c']],
    ['zstd', ['-c', '-o', 'compression_type=zstd']],
    ['version 2, 512-byte clusters', ['-o', 'compat=0.10,cluster_size=512']],
    ['extended L2', ['-o', 'extended_l2=on,cluster_size=16k']],
    ['external data file', ['-o', 'data_file=DATA']],
  ])('%s', async (_, args) => {
    const source = await rawFile(mixedDisk(8, 6 * MiB + 512));
    const given = args.map((arg) => arg.replace('DATA', path('data')));
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', ...given, source, path('image')]);
    await convert(path('image'), path('out.raw'), {
      targetFormat: 'raw',
      open: { resolve: 'same-directory' },
    });
    expect((await readFile(path('out.raw'))).equals(await readFile(source))).toBe(true);
  });

  it('a chain of layers of different sizes and formats', async () => {
    const base = await rawFile(mixedDisk(9, 2 * MiB + 1024), 'base');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', path('middle'), '4M']);
    await qemuIo(path('middle'), ['write -P 7 100k 300k', 'write -z 1M 200k', 'write -P 8 3M 64k']);
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', 'middle', '-F', 'qcow2', path('top'), '3M']);
    await qemuIo(path('top'), ['write -P 9 350k 100k', 'write -z 0 64k', 'discard 128k 64k']);
    await convert(path('top'), path('out.raw'), { targetFormat: 'raw', open: { resolve: 'same-directory' } });
    expect((await readFile(path('out.raw'))).equals(await qemuContent(path('top')))).toBe(true);
  });
});

describe('onto a backing file', () => {
  /** A base with data, and an overlay that changes some of it. */
  async function makeChain(): Promise<void> {
    await convert(await rawFile(mixedDisk(10, 8 * MiB)), path('base'), { targetFormat: 'qcow2' });
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'qcow2', path('top'), '9M']);
    await qemuIo(path('top'), ['write -P 7 1M 100k', 'write -z 2M 1M', 'write -P 8 8600k 64k']);
  }

  it.each([
    ['the same file', 'base'],
    ['a copy of it', 'copy'],
    ['something else', 'else'],
  ])('%s: only what differs is stored', async (_, name) => {
    await makeChain();
    await convert(path('base'), path('copy'), { targetFormat: 'qcow2' });
    await convert(await rawFile(mixedDisk(11, 8 * MiB + 4096)), path('else'), { targetFormat: 'qcow2' });
    const create: CreateOptions = { backing: { name, format: 'qcow2' } };
    const open = { resolve: 'same-directory' } as const;
    await convert(path('top'), path('new'), { targetFormat: 'qcow2', create, open });
    await expectCleanByQemu(path('new'));
    expect((await qemuCompare(path('top'), path('new'))).output).toContain('identical');
    expect((await qemuInfo(path('new')))['backing-filename']).toBe(name);
    const own = (await qemuMap(path('new'))).filter((entry) => entry.depth === 0 && entry.data);
    const bytes = own.reduce((sum, { length }) => sum + length, 0);
    if (name === 'else') expect(bytes).toBeGreaterThan(MiB);
    else expect(bytes).toBeLessThanOrEqual(4 * 65536);
  });

  it('compressed', async () => {
    await makeChain();
    await convert(path('top'), path('new'), {
      targetFormat: 'qcow2',
      compress: true,
      create: { backing: { name: 'base', format: 'qcow2' } },
      open: { resolve: 'same-directory' },
    });
    await expectCleanByQemu(path('new'));
    expect((await qemuCompare(path('top'), path('new'))).output).toContain('identical');
  });
});

describe('into a target that is there', () => {
  it.each([
    ['qcow2', false],
    ['qcow2', true],
    ['raw', false],
  ] as const)(
    '%s, compressed: %s: zeros replace what was there, what lies behind stays',
    async (format, compress) => {
      const disk = mixedDisk(12, 3 * MiB + 512, 0.3);
      const before = mixedDisk(13, 5 * MiB);
      const source = await rawFile(disk);
      const old = await rawFile(before, 'old.raw');
      await convert(old, path('target'), { targetFormat: format });
      await convert(source, path('target'), { targetFormat: format, keepTarget: true, compress });
      before.write(disk.read(0, disk.size), 0);
      if (format === 'qcow2') await expectCleanByQemu(path('target'));
      expect((await qemuContent(path('target'), format)).equals(before.read(0, before.size))).toBe(true);
    },
  );

  it('keeps the snapshots of an image', async () => {
    const before = mixedDisk(14, 2 * MiB);
    await convert(await rawFile(before), path('target'), { targetFormat: 'qcow2' });
    await qemuImg(['snapshot', '-c', 'old', path('target')]);
    const source = await rawFile(mixedDisk(15, 2 * MiB), 'new.raw');
    await convert(source, path('target'), { targetFormat: 'qcow2', keepTarget: true });
    await expectCleanByQemu(path('target'));
    expect((await qemuCompare(source, path('target'), { a: 'raw' })).same).toBe(true);
    await qemuImg(['snapshot', '-a', 'old', path('target')]);
    expect((await qemuContent(path('target'))).equals(before.read(0, before.size))).toBe(true);
  });
});

describe('from file to file', () => {
  it('gives the same image however many threads work on it', async () => {
    const source = await rawFile(mixedDisk(18, 40 * MiB));
    for (const concurrency of [1, 2, 8]) {
      await convert(source, path(`image${concurrency}`), { targetFormat: 'qcow2', concurrency });
    }
    const one = await readFile(path('image1'));
    expect((await readFile(path('image2'))).equals(one)).toBe(true);
    expect((await readFile(path('image8'))).equals(one)).toBe(true);
  });

  it('names the cluster that cannot be decoded, and converts nothing', async () => {
    await convert(await rawFile(mixedDisk(19, 2 * MiB)), path('image'), {
      targetFormat: 'qcow2',
      compress: true,
    });
    const image = await readFile(path('image'));
    const [, cluster] = compressedClusters(image);
    // A view of the image's own bytes; 0xff begins no deflate stream.
    cluster?.input.fill(0xff, 0, 100);
    await writeFile(path('image'), image);
    await expect(convert(path('image'), path('out.raw'), { targetFormat: 'raw' })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CORRUPT',
      feature: 'compressed cluster',
    });
  });

  it('stops with the reason of the signal', async () => {
    const source = await rawFile(mixedDisk(20, 64 * MiB));
    const controller = new AbortController();
    const reason = new Error('enough');
    const stopping = convert(source, path('image'), {
      targetFormat: 'qcow2',
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    });
    await expect(stopping).rejects.toBe(reason);
  });
});

describe('zero detection', () => {
  it('off: everything is stored', async () => {
    const source = await rawFile(mixedDisk(16, 2 * MiB, 0.1));
    await convert(source, path('image'), { targetFormat: 'qcow2', sparseSize: 0 });
    expect((await qemuMap(path('image'))).every((entry) => entry.data)).toBe(true);
    await convert(source, path('copy.raw'), { targetFormat: 'raw', sparseSize: 0 });
    expect((await stat(path('copy.raw'))).blocks * 512).toBeGreaterThanOrEqual(2 * MiB);
    expect((await readFile(path('copy.raw'))).equals(await readFile(source))).toBe(true);
  });

  it('in large blocks leaves short zeros alone', async () => {
    const disk = mixedDisk(17, 4 * MiB, 0.2);
    const source = await rawFile(disk);
    for (const sparseSize of [512, 65536, 3 * MiB]) {
      await convert(source, path('copy.raw'), { targetFormat: 'raw', sparseSize });
      expect((await readFile(path('copy.raw'))).equals(await readFile(source))).toBe(true);
      const allocated = (await stat(path('copy.raw'))).blocks * 512;
      // What the source says is a hole is one whatever the block size; blocks of stored bytes are looked at whole.
      expect(allocated).toBeGreaterThanOrEqual(dataBytes(disk, 4096));
      expect(allocated).toBeLessThanOrEqual(dataBytes(disk, Math.max(sparseSize, 4096)) + 65536);
    }
  });

  it('finds the zeros that an image stores as data', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', path('image'), '4M']);
    await qemuIo(path('image'), ['write -P 0 0 2M', 'write -P 1 1M 64k']);
    await convert(path('image'), path('copy'), { targetFormat: 'qcow2' });
    const data = (await qemuMap(path('copy'))).filter((entry) => entry.data);
    expect(data.map(({ start, length }) => [start, length])).toEqual([[MiB, 65536]]);
  });

  it('does not read through a sparse giant', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', path('giant'), '500T']);
    await qemuIo(path('giant'), ['write -P 5 400T 64k']);
    await convert(path('giant'), path('copy'), { targetFormat: 'qcow2' });
    await using copy = await open(path('copy'));
    const buffer = Buffer.alloc(65536);
    await copy.read(buffer, 400 * 2 ** 40);
    expect(buffer.equals(Buffer.alloc(65536, 5))).toBe(true);
    expect(await copy.nextData(0)).toBe(400 * 2 ** 40);
  });
});
