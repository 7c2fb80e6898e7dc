/** Rebasing between images of every kind: what native jobs compare and copy, and what goes piece by piece. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { copyFile, readFile, stat, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { create, open, type Disk } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { randomChanges } from '../support/random-chain.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir('memory');
const KiB = 1024;
const MiB = 1024 * KiB;

interface File {
  raw?: boolean;
  options?: string;
  size?: number;
  compressed?: boolean;
}

interface Kind {
  name: string;
  /** From the lowest to the one that is rebased. */
  chain: File[];
  /** On which of the chain's files the new one stands; undefined for none. */
  shares?: number;
  to: File | 'none';
  cacheBytes?: number;
}

const size = 5 * MiB + 512;
const kinds: Kind[] = [
  { name: 'one like the other', chain: [{}, {}, {}], to: {} },
  { name: 'to none', chain: [{}, {}, {}], to: 'none' },
  { name: 'to none, of version 2', chain: [{}, { options: 'compat=0.10' }], to: 'none' },
  { name: 'from none', chain: [{}], to: {} },
  { name: 'between raw files', chain: [{ raw: true }, {}], to: { raw: true } },
  { name: 'past layers that both share', chain: [{}, {}, {}, {}], shares: 1, to: {} },
  { name: 'to a layer of its own chain', chain: [{ raw: true }, {}, {}, {}], shares: 0, to: {} },
  {
    name: 'past shared layers of other clusters',
    chain: [{ options: 'cluster_size=4k' }, { options: 'cluster_size=512' }, {}],
    shares: 0,
    to: { options: 'cluster_size=1k' },
  },
  {
    name: 'from larger clusters',
    chain: [{ options: 'cluster_size=2M' }, { options: 'cluster_size=4k' }],
    to: {},
  },
  {
    name: 'between clusters of 2 MiB',
    chain: [{}, { options: 'cluster_size=2M' }],
    to: { options: 'cluster_size=4k' },
  },
  {
    name: 'of clusters of 512 bytes',
    chain: [{ options: 'cluster_size=512' }, { options: 'cluster_size=512' }],
    to: { options: 'cluster_size=512' },
    cacheBytes: 4096,
  },
  { name: 'of compressed clusters', chain: [{ compressed: true }, {}, {}], to: { compressed: true } },
  {
    name: 'of small clusters compressed with zstd',
    chain: [{ compressed: true, options: 'cluster_size=4k,compression_type=zstd' }, {}],
    to: { compressed: true },
  },
  { name: 'of extended L2', chain: [{ options: 'extended_l2=on' }, { options: 'extended_l2=on' }], to: {} },
  {
    name: 'between files of extended L2',
    chain: [{ options: 'extended_l2=on' }, {}, {}],
    to: { options: 'extended_l2=on' },
  },
  { name: 'with a data file', chain: [{}, { options: 'data_file=FILE.data' }], to: {} },
  {
    name: 'between data files',
    chain: [{ options: 'data_file=FILE.data' }, {}],
    to: { options: 'data_file=FILE.data' },
  },
  { name: 'from a shorter layer in between', chain: [{}, { size: 2 * MiB + 1024 }, {}], shares: 0, to: {} },
  { name: 'to a shorter file', chain: [{}, {}], to: { size: MiB + 512 } },
  { name: 'to a longer file', chain: [{ size: 3 * MiB }, {}], to: { size: 9 * MiB } },
  { name: 'to a shorter raw file', chain: [{ raw: true }, {}], to: { raw: true, size: 3 * MiB + 700 } },
];

async function make(
  file: File,
  name: string,
  below: { path: string; raw: boolean } | null,
  seed: number,
): Promise<string> {
  const at = path(name);
  const bytes = file.size ?? size;
  const format = file.raw === true ? 'raw' : 'qcow2';
  const options = file.options === undefined ? [] : ['-o', file.options.replace('FILE', at)];
  const backing = below === null ? [] : ['-b', below.path, '-F', below.raw ? 'raw' : 'qcow2'];
  await qemuImg(['create', '-f', format, ...options, ...backing, at, `${bytes}`]);
  const random = new Random(seed);
  await qemuIo(
    at,
    [...randomChanges(random, Math.floor(bytes / 512) * 512, 9), `write -P ${seed} 768k 64k`],
    {
      format,
    },
  );
  if (file.compressed !== true) return at;
  const under = below === null ? [] : ['-B', below.path, '-F', below.raw ? 'raw' : 'qcow2'];
  await qemuImg(['convert', '-c', '-O', 'qcow2', ...options, ...under, at, `${at}.c`]);
  await copyFile(`${at}.c`, at);
  return at;
}

/** Makes the files; the new one has some of its content from the old chain. Gives the one to be rebased, and the new one. */
async function makeFiles({ chain, shares, to }: Kind): Promise<[string, string]> {
  const made: { path: string; raw: boolean }[] = [];
  for (const [i, file] of chain.entries()) {
    made.push({ path: await make(file, `old${i}`, made.at(-1) ?? null, i + 1), raw: file.raw === true });
  }
  const top = made.at(-1)?.path ?? '';
  if (to === 'none') return [top, ''];
  const other = await make(to, 'new', shares === undefined ? null : (made[shares] ?? null), 50);
  const under = made.at(-2);
  if (under === undefined) return [top, other];
  const alike = await qemuContent(under.path, under.raw ? 'raw' : 'qcow2');
  const sectors = Math.floor(Math.min(to.size ?? size, alike.length) / 512);
  const changes: string[] = [];
  for (const [first, count] of [
    [512, 600],
    [4095, 1400],
    [sectors - 10, 10],
  ] as const) {
    const length = Math.min(sectors - first, count) * 512;
    if (length <= 0) continue;
    const part = path(`part${first}`);
    await writeFile(part, alike.subarray(first * 512, first * 512 + length));
    changes.push(`write -s ${part} ${first * 512} ${length}`);
  }
  await qemuIo(other, changes, { format: to.raw === true ? 'raw' : 'qcow2' });
  return [top, other];
}

async function contentOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

describe.each(kinds)('a rebase $name', (kind) => {
  it('keeps the content, in no more room than qemu-img takes', async () => {
    const [top, other] = await makeFiles(kind);
    const before = await qemuContent(top);
    const theirs = path('theirs');
    const hasDataFile = kind.chain.at(-1)?.options?.includes('data_file') ?? false;
    if (!hasDataFile) await copyFile(top, theirs);
    const format = kind.to !== 'none' && kind.to.raw === true ? 'raw' : 'qcow2';
    const { cacheBytes } = kind;
    const disk = await open(top, {
      mode: 'r+',
      resolve: 'any',
      ...(cacheBytes === undefined ? {} : { cacheBytes }),
    });
    await disk.rebase(kind.to === 'none' ? null : { name: basename(other), format });
    expect((await contentOf(disk)).equals(before)).toBe(true);
    await disk.close();
    await expectCleanByQemu(top);
    expect((await qemuContent(top)).equals(before)).toBe(true);
    if (hasDataFile) return;
    await qemuImg(['rebase', '-f', 'qcow2', '-b', other, ...(other === '' ? [] : ['-F', format]), theirs]);
    const [info, theirInfo] = [await qemuInfo(top), await qemuInfo(theirs)];
    expect(info['backing-filename'] ?? '').toBe(basename(other));
    expect(info['actual-size']).toBeLessThanOrEqual(theirInfo['actual-size'] + 128 * KiB);
  });
});

describe('a rebase', () => {
  it('copies without requests what has clusters of its own on either side', async () => {
    const [top, other] = await makeFiles({ name: '', chain: [{}, { compressed: true }, {}], to: {} });
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    const requests: unknown[] = [];
    const listen = (message: unknown): void => void requests.push(message);
    subscribe('tracing:qcow2:request:start', listen);
    try {
      await disk.rebase({ name: basename(other), format: 'qcow2' });
    } finally {
      unsubscribe('tracing:qcow2:request:start', listen);
    }
    expect(requests).toEqual([]);
    await disk.close();
    expect((await qemuContent(top)).equals(before)).toBe(true);
  });

  it.each([
    ['an encrypted image', true, false],
    ['an image on an encrypted one', false, true],
  ])('of %s keeps the content', async (_, top, base) => {
    const encryption = { secret: 'secret', iterTimeMs: 1 };
    const model = Buffer.alloc(3 * MiB);
    for (const [name, seed] of [
      ['old', 1],
      ['new', 2],
    ] as const) {
      const disk = await create(path(name), 3 * MiB, base ? { encryption } : {});
      const bytes = pattern(seed, MiB + 512);
      await disk.write(bytes, 300 * KiB);
      if (name === 'old') bytes.copy(model, 300 * KiB);
      await disk.close();
    }
    const backing = { name: path('old'), format: 'qcow2' } as const;
    const options = { resolve: 'any', secret: 'secret' } as const;
    const made = await create(path('top'), 3 * MiB, { ...options, backing, ...(top ? { encryption } : {}) });
    await made.close();
    const disk = await open(path('top'), { ...options, mode: 'r+' });
    pattern(3, 5000).copy(model, MiB);
    await disk.write(pattern(3, 5000), MiB);
    await disk.rebase({ name: 'new', format: 'qcow2' });
    await disk.close();
    const again = await open(path('top'), options);
    expect((await contentOf(again)).equals(model)).toBe(true);
    await again.close();
  });

  it('makes tables only where something differs, and leaves nothing behind of what it reserved', async () => {
    // Tables of 512 KiB each.
    const options = 'cluster_size=8k';
    const far = 64 * MiB;
    for (const name of ['old', 'new']) {
      await qemuImg(['create', '-f', 'qcow2', '-o', options, path(name), `${4 * far}`]);
      await qemuIo(path(name), [`write -P 1 0 20M`, `write -P 2 ${far} 20M`, `write -P 3 ${2 * far} 1M`]);
    }
    await qemuIo(path('new'), [`write -P 4 ${2 * far + 512 * KiB} 8k`, `discard ${far + MiB} 8k`]);
    const top = path('top');
    await qemuImg(['create', '-f', 'qcow2', '-o', options, '-b', 'old', '-F', 'qcow2', top]);
    const before = await stat(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.rebase({ name: 'new', format: 'qcow2' });
    await disk.close();
    await expectCleanByQemu(top);
    await qemuImg(['compare', top, path('old')]);
    // Two clusters and the table for each.
    expect((await stat(top)).blocks * 512).toBeLessThanOrEqual(before.blocks * 512 + 6 * 8 * KiB);
  });

  it.each([1, 2])(
    'that is stopped after %i batches keeps the content, and can be done again',
    async (batches) => {
      const [old, other, top] = [path('old'), path('new'), path('top')];
      const content = pattern(1, 40 * MiB).fill(0, 9 * MiB, 10 * MiB);
      await writeFile(old, content);
      await writeFile(other, pattern(2, 40 * MiB));
      await qemuImg(['create', '-f', 'qcow2', '-b', old, '-F', 'raw', top]);
      const disk = await open(top, { mode: 'r+', resolve: 'any' });
      const controller = new AbortController();
      const progress: number[] = [];
      const onProgress = ({ done }: { done: number }): void => {
        if (progress.push(done) === batches) controller.abort();
      };
      const to = { name: other, format: 'raw' } as const;
      const stopped = disk.rebase(to, { onProgress, signal: controller.signal });
      await expect(stopped).rejects.toMatchObject({ name: 'AbortError' });
      expect(progress.at(-1)).toBeLessThan(40 * MiB);
      expect((await contentOf(disk)).equals(content)).toBe(true);
      await disk.close();
      await expectCleanByQemu(top);
      expect((await qemuContent(top)).equals(content)).toBe(true);
      const again = await open(top, { mode: 'r+', resolve: 'any' });
      await again.rebase(to);
      await again.close();
      await expectCleanByQemu(top);
      expect((await qemuContent(top)).equals(content)).toBe(true);
    },
  );

  it.each(['old', 'new'])(
    'says what is wrong with a cluster of the %s file, and stays on the old one',
    async (side) => {
      const [old, other, top] = [path('old'), path('new'), path('top')];
      for (const [name, content] of [
        [old, 1],
        [other, 2],
      ] as const) {
        const made = await create(name, MiB);
        await made.write(pattern(content, MiB).fill(0, 0, MiB / 2), 0, { compress: true });
        await made.close();
      }
      await qemuImg(['create', '-f', 'qcow2', '-b', old, '-F', 'qcow2', top]);
      const file = side === 'old' ? old : other;
      const sound = await readFile(file);
      const damaged = Buffer.from(sound);
      const at = firstCompressed(sound);
      damaged.fill(0xff, at, at + 100);
      const before = await qemuContent(top);
      await writeFile(file, damaged);
      const disk = await open(top, { mode: 'r+', resolve: 'any' });
      const rebased = disk.rebase({ name: basename(other), format: 'qcow2' });
      await expect(rebased).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
      await disk.close();
      await writeFile(file, sound);
      await expectCleanByQemu(top);
      expect((await qemuInfo(top))['backing-filename']).toBe(old);
      expect((await qemuContent(top)).equals(before)).toBe(true);
    },
  );

  it('says which entry of a layer below is wrong', async () => {
    const [top, other] = await makeFiles({ name: '', chain: [{}, {}, {}], to: {} });
    const file = await readFile(path('old1'));
    const table = Number(file.readBigUInt64BE(Number(file.readBigUInt64BE(40))) & 0x00ff_ffff_ffff_fe00n);
    // An offset that is at no cluster.
    file.writeBigUInt64BE(0x8000_0000_0005_0200n, table + 8 * 20);
    await writeFile(path('old1'), file);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    const rebased = disk.rebase({ name: basename(other), format: 'qcow2' });
    await expect(rebased).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    expect(disk.header.backingFile).toBe(path('old1'));
    await disk.close();
  });
});

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
