/** Committing between images of every kind: what native jobs copy and what goes piece by piece, held against qemu-img commit. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open } from '../../lib/index.js';
import { qemuDirty, type DirtyRange } from '../support/bitmap-oracle.js';
import { expectCleanByQemu, qemuContent, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { randomChanges } from '../support/random-chain.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const KiB = 1024;
const MiB = 1024 * KiB;

interface Kind {
  name: string;
  base: { format?: 'raw'; size?: number; options?: string };
  top: { size?: number; options?: string };
  /** Done with the base once it has content. */
  prepare?: (base: string) => Promise<unknown>;
  /** The top is compressed. */
  compressed?: boolean;
}

const kinds: Kind[] = [
  { name: 'one like the other', base: {}, top: {} },
  { name: 'into a raw file', base: { format: 'raw' }, top: {} },
  {
    name: 'into a raw file, with an odd end',
    base: { format: 'raw', size: MiB + 512 },
    top: { size: 3 * MiB + 1536 },
  },
  { name: 'with an odd end of both', base: { size: 3 * MiB + 512 }, top: { size: 3 * MiB + 512 } },
  { name: 'with an odd end, into a larger one', base: { size: 4 * MiB }, top: { size: 3 * MiB + 512 } },
  {
    name: 'with an odd end, into a smaller one',
    base: { size: 2 * MiB + 512 },
    top: { size: 3 * MiB + 512 },
  },
  { name: 'into larger clusters', base: { options: 'cluster_size=2M' }, top: {} },
  {
    name: 'into smaller clusters',
    base: { options: 'cluster_size=4k' },
    top: { options: 'cluster_size=256k' },
  },
  { name: 'into clusters of 512 bytes', base: { options: 'cluster_size=512' }, top: {} },
  { name: 'of small clusters', base: {}, top: { options: 'cluster_size=512' } },
  { name: 'into extended L2', base: { options: 'extended_l2=on' }, top: { options: 'cluster_size=4k' } },
  { name: 'of extended L2', base: {}, top: { options: 'extended_l2=on' } },
  {
    name: 'of extended L2 into extended L2',
    base: { options: 'extended_l2=on' },
    top: { options: 'extended_l2=on' },
  },
  { name: 'of version 2', base: { options: 'compat=0.10' }, top: { options: 'compat=0.10' } },
  {
    name: 'with lazy refcounts of 64 bits',
    base: { options: 'lazy_refcounts=on,refcount_bits=64' },
    top: {},
  },
  { name: 'with refcounts of 1 bit', base: { options: 'refcount_bits=1' }, top: {} },
  { name: 'into a data file', base: { options: 'data_file=BASE.data' }, top: {} },
  { name: 'into a raw data file', base: { options: 'data_file=BASE.data,data_file_raw=on' }, top: {} },
  { name: 'of a data file', base: {}, top: { options: 'data_file=TOP.data' } },
  { name: 'into preallocated clusters', base: { options: 'preallocation=metadata' }, top: {} },
  {
    name: 'into clusters that are zeros with a place',
    base: {},
    top: {},
    prepare: (base) => qemuIo(base, ['write -P 9 0 3M', 'write -z 100k 2M']),
  },
  { name: 'of compressed clusters', base: {}, top: {}, compressed: true },
  {
    name: 'of clusters compressed with zstd',
    base: { options: 'cluster_size=4k' },
    top: { options: 'compression_type=zstd' },
    compressed: true,
  },
  { name: 'of compressed small clusters', base: {}, top: { options: 'cluster_size=4k' }, compressed: true },
  { name: 'into compressed clusters', base: {}, top: {}, prepare: compress },
  {
    name: 'into clusters that a snapshot shares',
    base: {},
    top: {},
    prepare: (base) => qemuImg(['snapshot', '-c', 'one', base]),
  },
  {
    name: 'into compressed clusters that a snapshot shares',
    base: { options: 'cluster_size=4k' },
    top: {},
    prepare: async (base) => {
      await compress(base);
      await qemuImg(['snapshot', '-c', 'one', base]);
      await qemuIo(base, randomChanges(new Random(4), 2 * MiB, 6));
    },
  },
];

/** Compresses all of an image, under its name. */
async function compress(file: string): Promise<void> {
  const { 'cluster-size': clusterSize = 0, 'backing-filename': backing } = await qemuInfo(file);
  const below = backing === undefined ? [] : ['-B', backing, '-F', 'qcow2'];
  const kept = await qemuInfo(file);
  const type = kept['format-specific']?.data['compression-type'] ?? 'zlib';
  const options = `cluster_size=${clusterSize},compression_type=${type}`;
  await qemuImg(['convert', '-c', '-O', 'qcow2', '-o', options, ...below, file, `${file}.c`]);
  await copyFile(`${file}.c`, file);
}

/** Makes the base and the top under two names; gives the paths. */
async function make(
  { base, top, prepare, compressed = false }: Kind,
  prefix: string,
): Promise<[string, string]> {
  const [baseFile, topFile] = [path(`${prefix}-base`), path(`${prefix}-top`)];
  const { format = 'qcow2' } = base;
  const named = (options: string | undefined): string[] =>
    options === undefined ? [] : ['-o', options.replace('BASE', baseFile).replace('TOP', topFile)];
  const random = new Random(7);
  const size = base.size ?? 3 * MiB;
  await qemuImg(['create', '-f', format, ...named(base.options), baseFile, `${size}`]);
  await qemuIo(baseFile, randomChanges(random, size, 8), { format });
  await prepare?.(baseFile);
  await qemuImg([
    'create',
    '-f',
    'qcow2',
    ...named(top.options),
    '-b',
    baseFile,
    '-F',
    format,
    topFile,
    `${top.size ?? 3 * MiB}`,
  ]);
  await qemuIo(topFile, [
    ...randomChanges(random, top.size ?? 3 * MiB, 12),
    'write -P 77 1M 700k',
    'write -z 1300k 130k',
  ]);
  if (compressed) await compress(topFile);
  return [baseFile, topFile];
}

async function snapshotOf(file: string, name: string): Promise<Buffer> {
  await qemuImg(['convert', '-O', 'raw', '-l', name, file, `${file}.${name}`]);
  return readFile(`${file}.${name}`);
}

describe.each(kinds)('a commit $name', (kind) => {
  it('leaves below what qemu-img commit leaves there', async () => {
    const { format = 'qcow2' } = kind.base;
    const [theirBase, theirTop] = await make(kind, 'theirs');
    const before = await qemuContent(theirTop);
    await qemuImg(['commit', '-q', '-f', 'qcow2', theirTop]);
    const expected = await qemuContent(theirBase, format);
    expect(expected.subarray(0, before.length).equals(before)).toBe(true);
    const [base, top] = await make(kind, 'ours');
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.commit();
    const found = Buffer.alloc(disk.size);
    await disk.read(found, 0);
    expect(found.equals(before)).toBe(true);
    await disk.close();
    expect((await qemuContent(base, format)).equals(expected)).toBe(true);
    expect((await qemuContent(top)).equals(before)).toBe(true);
    await expectCleanByQemu(top);
    if (format === 'raw') return;
    await expectCleanByQemu(base);
    for (const { name } of (await qemuInfo(base)).snapshots ?? []) {
      const [ours, theirs] = await Promise.all([snapshotOf(base, name), snapshotOf(theirBase, name)]);
      expect(ours.equals(theirs), `snapshot ${name}`).toBe(true);
    }
  });
});

describe('a commit', () => {
  it.each<[string, boolean, boolean]>([
    ['of an encrypted image', true, false],
    ['into an encrypted image', false, true],
    ['from one encrypted image to another', true, true],
  ])('%s keeps the content', async (_, top, base) => {
    const encryption = { secret: 'secret', iterTimeMs: 1 };
    const size = 3 * MiB;
    const below = await create(path('base'), size, base ? { encryption } : {});
    const model = Buffer.alloc(size);
    pattern(1, 2 * MiB).copy(model, 100 * KiB);
    await below.write(model.subarray(100 * KiB, 100 * KiB + 2 * MiB), 100 * KiB);
    await below.close();
    const backing = { name: path('base'), format: 'qcow2' } as const;
    const made = await create(path('top'), size, { resolve: 'any', backing, ...(top ? { encryption } : {}) });
    await made.close();
    const options = { mode: 'r+', resolve: 'any', secret: 'secret' } as const;
    const disk = await open(path('top'), options);
    for (const [at, length] of [
      [MiB - 512, MiB],
      [5120, 512],
    ] as const) {
      pattern(at, length).copy(model, at);
      await disk.write(model.subarray(at, at + length), at);
    }
    await disk.commit();
    await disk.close();
    for (const name of ['top', 'base']) {
      const again = await open(path(name), { resolve: 'any', secret: 'secret' });
      const found = Buffer.alloc(size);
      await again.read(found, 0);
      await again.close();
      expect(found.equals(model), name).toBe(true);
    }
    const file = `driver=qcow2,file.filename=${path('base')}`;
    const key = ['--object', 'secret,id=s,data=secret', '--image-opts', `${file},encrypt.key-secret=s`];
    await qemuImg(['check', ...(base ? key : [path('base')])]);
  });

  it('marks in the bitmaps below what changes, and no more than qemu-img commit does', async () => {
    const kind: Kind = {
      name: '',
      base: {},
      top: { options: 'cluster_size=4k' },
      prepare: (base) => qemuImg(['bitmap', '--add', '-g', '4k', base, 'dirty']),
    };
    const [theirBase, theirTop] = await make(kind, 'theirs');
    await qemuImg(['commit', '-q', '-f', 'qcow2', theirTop]);
    const [base, top] = await make(kind, 'ours');
    const before = await qemuContent(base);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.commit();
    await disk.close();
    await expectCleanByQemu(base);
    // It marks by clusters of the base; what was written is enough.
    const marked = bitsOf(await qemuDirty(base, 'dirty'));
    const theirs = bitsOf(await qemuDirty(theirBase, 'dirty'));
    for (const bit of marked) expect(theirs.has(bit), `bit ${bit}`).toBe(true);
    const after = await qemuContent(base);
    for (let at = 0; at < after.length; at += 4096) {
      const isSame = after.subarray(at, at + 4096).equals(before.subarray(at, at + 4096));
      if (!isSame) expect(marked.has(at / 4096), `bit at ${at}`).toBe(true);
    }
  });

  it('copies without requests what has or needs clusters of its own', async () => {
    const [base, top] = [path('base'), path('top')];
    const below = await create(base, 8 * MiB);
    await below.write(pattern(1, MiB), 2 * MiB);
    await below.close();
    const disk = await create(top, 8 * MiB, { backing: { name: base, format: 'qcow2' }, resolve: 'any' });
    await disk.write(pattern(2, 4 * MiB), MiB);
    await disk.write(pattern(3, 4 * MiB), 3 * MiB, { compress: true });
    const requests: unknown[] = [];
    const listen = (message: unknown): void => void requests.push(message);
    subscribe('tracing:qcow2:request:start', listen);
    try {
      await disk.commit();
    } finally {
      unsubscribe('tracing:qcow2:request:start', listen);
    }
    await disk.close();
    expect(requests).toEqual([expect.objectContaining({ kind: 'flush' })]);
    const expected = Buffer.alloc(8 * MiB);
    pattern(2, 2 * MiB).copy(expected, MiB);
    pattern(3, 4 * MiB).copy(expected, 3 * MiB);
    expect((await qemuContent(base)).equals(expected)).toBe(true);
  });

  it('goes past a layer of its own kind of clusters', async () => {
    const [base, middle, top] = [path('base'), path('middle'), path('top')];
    await qemuImg(['create', '-f', 'qcow2', base, '3M']);
    await qemuIo(base, ['write -P 1 0 3M']);
    await qemuImg([
      'create',
      '-f',
      'qcow2',
      '-o',
      'cluster_size=4k',
      '-b',
      base,
      '-F',
      'qcow2',
      middle,
      '2M',
    ]);
    await qemuIo(middle, ['write -P 2 300k 900k', 'write -z 1500k 100k']);
    await compress(middle);
    await qemuImg(['create', '-f', 'qcow2', '-b', middle, '-F', 'qcow2', top, '3M']);
    await qemuIo(top, ['write -P 3 200k 400k', 'write -z 600k 64k']);
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.commit({ base: 2 });
    await disk.close();
    expect((await qemuContent(base)).equals(before)).toBe(true);
    expect((await qemuContent(top)).equals(before)).toBe(true);
    for (const file of [base, middle, top]) await expectCleanByQemu(file);
  });

  it.each(['native', 'closely'])(
    'says what is wrong with a cluster, and changes nothing to be seen: %s',
    async (way) => {
      const [base, top] = await make({ name: '', base: {}, top: {}, compressed: true }, 'x');
      const before = await qemuContent(top);
      const sound = await readFile(top);
      const at = firstCompressed(sound);
      const damaged = Buffer.from(sound);
      damaged.fill(0xff, at, at + 100);
      await writeFile(top, damaged);
      const disk = await open(top, { mode: 'r+', resolve: 'any' });
      const committed = disk.commit(way === 'native' ? {} : { bytesPerSecond: 2 ** 50 });
      await expect(committed).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
      await disk.close();
      await expectCleanByQemu(base);
      await writeFile(top, sound);
      expect((await qemuContent(top)).equals(before)).toBe(true);
    },
  );
});

/** The bits of 4 KiB that are set. */
function bitsOf(ranges: readonly DirtyRange[]): Set<number> {
  const bits = new Set<number>();
  for (const { start, length } of ranges) {
    for (let at = start; at < start + length; at += 4096) bits.add(at / 4096);
  }
  return bits;
}

/** Where in the file the first compressed cluster of an image with clusters of 64 KiB is. */
function firstCompressed(image: Buffer): number {
  const entryAt = (at: number): bigint => image.readBigUInt64BE(at);
  const table = Number(entryAt(Number(entryAt(40))) & 0x00ff_ffff_ffff_fe00n);
  for (let at = table; at < table + 65536; at += 8) {
    const entry = entryAt(at);
    if ((entry >> 62n) % 2n === 1n) return Number(entry & 0x003f_ffff_ffff_ffffn);
  }
  throw new Error('no cluster is compressed');
}
