/** Amended images are what qemu-img makes of them, with the same content, and qemu-img accepts them. */
import { describe, expect, it } from 'vitest';
import { copyFile } from 'node:fs/promises';
import { create, open, type AmendOptions, type Disk, type OpenOptions } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { randomChanges } from '../support/random-chain.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 1024 * 1024;
const refused = (code: string): Error => expect.objectContaining({ code }) as Error;

async function contentOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

/** An image by qemu-img with random content. */
async function make(name: string, options = '', size = 2 * MiB, backing: string[] = []): Promise<string> {
  const file = path(name);
  const flags = options === '' ? [] : ['-o', options];
  await qemuImg(['create', '-f', 'qcow2', ...flags, ...backing, file, `${size}`]);
  await qemuIo(file, randomChanges(new Random(size + options.length), size, 12));
  return file;
}

async function amend(file: string, options: AmendOptions, how: OpenOptions = {}): Promise<void> {
  const disk = await open(file, { mode: 'r+', resolve: 'any', ...how });
  try {
    await disk.amend(options);
  } finally {
    await disk.close();
  }
}

const changes: [string, create: string, AmendOptions, qemu: string][] = [
  ['version 2 to 3', 'compat=0.10', { version: 3 }, 'compat=1.1'],
  ['version 3 to 2', '', { version: 2 }, 'compat=0.10'],
  [
    'version 3 with 8-bit refcounts to 2',
    'refcount_bits=8,cluster_size=4k',
    { version: 2, refcountBits: 16 },
    'compat=0.10,refcount_bits=16',
  ],
  ['lazy refcounts on', '', { lazyRefcounts: true }, 'lazy_refcounts=on'],
  ['lazy refcounts off', 'lazy_refcounts=on', { lazyRefcounts: false }, 'lazy_refcounts=off'],
  ['version 3 with lazy refcounts to 2', 'lazy_refcounts=on', { version: 2 }, 'compat=0.10'],
  ['1-bit refcounts', 'cluster_size=4k', { refcountBits: 1 }, 'refcount_bits=1'],
  ['64-bit refcounts', 'cluster_size=512', { refcountBits: 64 }, 'refcount_bits=64'],
  ['from 64-bit refcounts', 'cluster_size=4k,refcount_bits=64', { refcountBits: 8 }, 'refcount_bits=8'],
  ['a larger disk', '', { size: 5 * MiB }, 'size=5M'],
  [
    'all at once',
    'compat=0.10,cluster_size=4k',
    { version: 3, refcountBits: 32, lazyRefcounts: true, size: 3 * MiB },
    'compat=1.1,refcount_bits=32,lazy_refcounts=on,size=3M',
  ],
];

describe('amend', () => {
  it.each(changes)('makes of an image what qemu-img makes: %s', async (_name, creation, own, qemu) => {
    for (const withBacking of [false, true]) {
      const base = await make('base', 'cluster_size=4k', MiB + 4096);
      const backing = withBacking ? ['-b', base, '-F', 'qcow2'] : [];
      const file = await make('a', creation, 2 * MiB, backing);
      await copyFile(file, path('theirs'));
      await qemuImg(['amend', '-f', 'qcow2', '-o', qemu, path('theirs')]);
      const expected = await qemuContent(path('theirs'));
      const disk = await open(file, { mode: 'r+', resolve: 'any' });
      await disk.amend(own);
      expect((await contentOf(disk)).equals(expected)).toBe(true);
      // The same handle goes on with the image as it has become.
      const data = pattern(1, 300_000);
      await disk.write(data, 100_000);
      await disk.writeZeroes(1_500_000, 200_000);
      expected.set(data, 100_000);
      expected.fill(0, 1_500_000, 1_700_000);
      expect((await contentOf(disk)).equals(expected)).toBe(true);
      await disk.close();
      await expectCleanByQemu(file);
      expect((await qemuContent(file)).equals(expected)).toBe(true);
      const [ours, theirs] = [await qemuInfo(file), await qemuInfo(path('theirs'))];
      expect(ours['format-specific']?.data).toEqual(theirs['format-specific']?.data);
      expect(ours['full-backing-filename']).toBe(theirs['full-backing-filename']);
      expect(ours['backing-filename-format']).toBe(theirs['backing-filename-format']);
      expect(ours['virtual-size']).toBe(theirs['virtual-size']);
    }
  });

  it('changes refcounts back and forth under snapshots', async () => {
    const file = await make('a', 'cluster_size=4k');
    await qemuImg(['snapshot', '-c', 'one', file]);
    await qemuIo(file, randomChanges(new Random(3), 2 * MiB, 10));
    const before = await qemuContent(file);
    await expect(amend(file, { refcountBits: 1 })).rejects.toThrow(refused('ERR_QCOW2_LIMIT'));
    await expectCleanByQemu(file);
    for (const refcountBits of [2, 64, 4, 32, 8, 16]) {
      await amend(file, { refcountBits });
      await expectCleanByQemu(file);
      expect((await qemuInfo(file))['format-specific']?.data['refcount-bits']).toBe(refcountBits);
      await qemuIo(file, ['write -P 1 0 4k', 'write -P 2 0 4k']);
    }
    await qemuImg(['snapshot', '-d', 'one', file]);
    await expectCleanByQemu(file);
    const after = await qemuContent(file);
    expect(after.subarray(4096).equals(before.subarray(4096))).toBe(true);
  });

  it('gives snapshots of version 2 the fields of version 3', async () => {
    const file = await make('a', 'compat=0.10');
    const before = await qemuContent(file);
    await qemuImg(['snapshot', '-c', 'one', file]);
    await qemuIo(file, ['write -P 5 0 1M']);
    await amend(file, { version: 3, size: 4 * MiB });
    await expectCleanByQemu(file);
    await qemuImg(['snapshot', '-a', 'one', file]);
    expect((await qemuContent(file)).subarray(0, 2 * MiB).equals(before)).toBe(true);
  });

  it('takes snapshots along to version 2 as qemu-img does, unless it cannot express them', async () => {
    const file = path('a');
    await qemuImg(['create', '-f', 'qcow2', file, '2M']);
    await qemuIo(file, ['write -P 1 100k 900k']);
    await qemuImg(['snapshot', '-c', 'one', file]);
    await qemuIo(file, ['write -P 2 500k 100k', 'write -z 900k 300k']);
    const now = await qemuContent(file);
    await copyFile(file, path('theirs'));
    await qemuImg(['amend', '-f', 'qcow2', '-o', 'compat=0.10', path('theirs')]);
    await amend(file, { version: 2 });
    for (const made of [file, path('theirs')]) {
      expect((await qemuInfo(made))['format-specific']?.data.compat).toBe('0.10');
      expect((await qemuContent(made)).equals(now)).toBe(true);
    }
    // Not so of theirs: QEMU 7.2 writes zeros into a cluster that the snapshot shares.
    await expectCleanByQemu(file);
    const disk = await open(file);
    const then = await contentOf(await disk.snapshots.open('one'));
    expect(then.equals(Buffer.alloc(2 * MiB).fill(1, 100 * 1024, 1000 * 1024))).toBe(true);
    await disk.close();
    await qemuImg(['snapshot', '-a', 'one', file]);
    await expectCleanByQemu(file);
    expect((await qemuContent(file)).equals(then)).toBe(true);
    await amend(file, { version: 3 });
    await qemuIo(file, ['write -z 0 128k']);
    await qemuImg(['snapshot', '-c', 'with zeros', file]);
    await expect(amend(file, { version: 2 })).rejects.toThrow(refused('ERR_QCOW2_CONFLICT'));
    await qemuImg(['snapshot', '-d', 'with zeros', file]);
    await qemuImg(['resize', '-q', file, '3M']);
    await expect(amend(file, { version: 2 })).rejects.toThrow(refused('ERR_QCOW2_CONFLICT'));
    await qemuImg(['amend', '-f', 'qcow2', '-o', 'compat=0.10', file], { expectExit: 1 });
    await expectCleanByQemu(file);
  });

  it('keeps bitmaps', async () => {
    const file = await make('a');
    await qemuImg(['bitmap', '--add', file, 'daily']);
    const disk = await open(file, { mode: 'r+' });
    await disk.write(Buffer.alloc(512, 1), MiB);
    await disk.amend({ refcountBits: 64 });
    await disk.write(Buffer.alloc(512, 1), 0);
    const dirty: number[] = [];
    for await (const { start } of disk.bitmaps.extents('daily')) dirty.push(start);
    expect(dirty).toEqual([0, MiB]);
    await disk.close();
    await expectCleanByQemu(file);
    expect((await qemuInfo(file))['format-specific']?.data.bitmaps).toEqual([
      { name: 'daily', granularity: 65536, flags: ['auto'] },
    ]);
  });

  it('renames the data file, and takes back that it is raw', async () => {
    const file = path('a');
    await qemuImg(['create', '-f', 'qcow2', '-o', `data_file=${path('data')},data_file_raw=on`, file, '1M']);
    await qemuIo(file, ['write -P 3 100k 100k']);
    const before = await qemuContent(file);
    await copyFile(path('data'), path('moved'));
    await amend(file, { dataFile: path('moved'), dataFileRaw: false });
    const data = (await qemuInfo(file))['format-specific']?.data;
    expect(data?.['data-file']).toBe(path('moved'));
    expect(data?.['data-file-raw']).toBe(false);
    await expectCleanByQemu(file);
    expect((await qemuContent(file)).equals(before)).toBe(true);
  });

  it('refuses what qemu-img refuses, and changes nothing', async () => {
    const conflict = refused('ERR_QCOW2_CONFLICT');
    const v2 = await make('v2', 'compat=0.10');
    await expect(amend(v2, { lazyRefcounts: true })).rejects.toThrow(conflict);
    await expect(amend(v2, { refcountBits: 8 })).rejects.toThrow(conflict);
    const v3 = await make('v3', 'refcount_bits=8');
    await expect(amend(v3, { version: 2 })).rejects.toThrow(conflict);
    await expect(amend(v3, { refcountBits: 5 })).rejects.toThrow(RangeError);
    await expect(amend(v3, { dataFile: 'x' })).rejects.toThrow(conflict);
    const extended = await make('extended', 'extended_l2=on');
    await expect(amend(extended, { version: 2 })).rejects.toThrow(conflict);
    const plain = await make('plain');
    await qemuIo(plain, ['write 1M 64k']);
    await expect(amend(plain, { size: MiB })).rejects.toThrow(refused('ERR_QCOW2_DATA_LOSS'));
    await qemuImg(['bitmap', '--add', plain, 'b']);
    await expect(amend(plain, { version: 2 })).rejects.toThrow(conflict);
    await qemuImg(['bitmap', '--remove', plain, 'b']);
    await qemuImg(['snapshot', '-c', 's', plain]);
    await expect(amend(plain, { version: 2, size: 4 * MiB })).rejects.toThrow(conflict);
    const reason = new Error('enough');
    await expect(amend(plain, { refcountBits: 1, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    for (const file of [v2, v3, extended, plain]) await expectCleanByQemu(file);
  });
});

describe('keys', () => {
  const opens = async (secret: string): Promise<boolean> => {
    const { exit } = await qemuImg(
      [
        'convert',
        '--object',
        `secret,id=k,data=${secret}`,
        '--image-opts',
        `driver=qcow2,file.filename=${path('a')},encrypt.key-secret=k`,
        '-O',
        'raw',
        path('out'),
      ],
      { expectExit: null },
    );
    return exit === 0;
  };

  it('are added and removed, as qemu-img sees it', async () => {
    const fast = { iterTimeMs: 1 };
    const disk = await create(path('a'), MiB, { encryption: { secret: 'one', ...fast } });
    await disk.write(pattern(1, 5000), 0);
    expect(await disk.addKey({ unlock: 'one', secret: 'two', ...fast })).toBe(1);
    expect(await disk.addKey({ unlock: 'two', secret: 'three', slot: 7, ...fast })).toBe(7);
    await expect(disk.addKey({ unlock: 'no', secret: 'x', ...fast })).rejects.toThrow(
      refused('ERR_QCOW2_SECRET'),
    );
    await expect(disk.addKey({ unlock: 'one', secret: 'x', slot: 7, ...fast })).rejects.toThrow(
      refused('ERR_QCOW2_CONFLICT'),
    );
    await disk.flush();
    await disk.close();
    for (const secret of ['one', 'two', 'three']) expect(await opens(secret), secret).toBe(true);
    const again = await open(path('a'), { mode: 'r+', secret: 'three' });
    await again.removeKey({ secret: 'one' });
    await again.removeKey({ slot: 1 });
    await expect(again.removeKey({ slot: 1 })).rejects.toThrow(refused('ERR_QCOW2_NOT_FOUND'));
    await expect(again.removeKey({ secret: 'one' })).rejects.toThrow(refused('ERR_QCOW2_SECRET'));
    await expect(again.removeKey({ secret: 'three' })).rejects.toThrow(refused('ERR_QCOW2_DATA_LOSS'));
    expect((await contentOf(again)).subarray(0, 5000).equals(pattern(1, 5000))).toBe(true);
    await again.close();
    expect(await opens('one')).toBe(false);
    expect(await opens('two')).toBe(false);
    expect(await opens('three')).toBe(true);
    const checked = await open(path('a'));
    expect((await checked.check()).findings).toEqual([]);
    await checked.close();
    const plain = await create(path('plain'), MiB);
    await expect(plain.removeKey({ slot: 0 })).rejects.toThrow(refused('ERR_QCOW2_CONFLICT'));
    await plain.close();
  });
});
