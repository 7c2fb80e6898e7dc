/** Rebasing keeps the content as qemu-img rebase does, names the new file as it does, and can be stopped anywhere. */
import { copyFile, rename, stat, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { open, type Disk } from '../../lib/index.js';
import { expectCleanByQemu, qemuCompare, qemuContent, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { makeChain, randomChanges, type ChainFile } from '../support/random-chain.js';
import { Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 1024 * 1024;

async function contentOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

interface Case {
  name: string;
  /** The chain to be rebased, base first. */
  files: ChainFile[];
  /** The new backing file; null for none. */
  to: ChainFile | null;
}

const q = (size: number, options?: string): ChainFile => ({
  format: 'qcow2',
  size,
  ...(options === undefined ? {} : { options }),
});
const raw = (size: number): ChainFile => ({ format: 'raw', size });

const cases: Case[] = [
  { name: 'to another file', files: [q(2 * MiB), q(2 * MiB)], to: q(2 * MiB) },
  { name: 'from raw to raw', files: [raw(2 * MiB), q(2 * MiB)], to: raw(2 * MiB) },
  { name: 'to none', files: [q(2 * MiB), q(2 * MiB)], to: null },
  { name: 'from none', files: [q(2 * MiB)], to: q(2 * MiB) },
  { name: 'to a longer file', files: [q(MiB), q(2 * MiB)], to: q(3 * MiB) },
  { name: 'to a shorter file', files: [q(3 * MiB), q(2 * MiB + 512)], to: raw(MiB + 512) },
  { name: 'with extended L2', files: [q(2 * MiB), q(2 * MiB, 'extended_l2=on')], to: q(2 * MiB) },
  { name: 'with extended L2 to none', files: [raw(2 * MiB), q(2 * MiB + 1024, 'extended_l2=on')], to: null },
  {
    name: 'with small clusters',
    files: [q(MiB), q(MiB, 'cluster_size=512')],
    to: q(2 * MiB, 'cluster_size=4k'),
  },
  { name: 'of version 2', files: [q(2 * MiB), q(2 * MiB, 'compat=0.10')], to: q(2 * MiB) },
  { name: 'of version 2 from none', files: [q(2 * MiB, 'compat=0.10')], to: q(2 * MiB) },
  { name: 'over three layers', files: [raw(2 * MiB), q(MiB), q(2 * MiB)], to: q(MiB) },
];

async function makeOther(file: ChainFile | null): Promise<string> {
  if (file === null) return '';
  const [made = ''] = await makeChain(path, 'new', [file], 99);
  return made;
}

describe('rebase', () => {
  it.each(cases)('keeps the content as qemu-img does: $name', async ({ files, to }) => {
    const [ours, theirs] = [await makeChain(path, 'x', files, 7), await makeChain(path, 'y', files, 7)];
    const other = await makeOther(to);
    const [top = ''] = ours.slice(-1);
    const [theirTop = ''] = theirs.slice(-1);
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.rebase(to === null ? null : { name: basename(other), format: to.format });
    expect((await contentOf(disk)).equals(before)).toBe(true);
    const changes = Buffer.alloc(5000, 0x3c);
    await disk.write(changes, 123_456);
    before.set(changes, 123_456);
    await disk.close();
    await qemuImg([
      'rebase',
      '-f',
      'qcow2',
      '-b',
      other,
      ...(to === null ? [] : ['-F', to.format]),
      theirTop,
    ]);
    await qemuIo(theirTop, ['write -P 0x3c 123456 5000']);
    await expectCleanByQemu(top);
    expect((await qemuContent(top)).equals(before)).toBe(true);
    // QEMU 7.2 loses the zeros of a version 2 image that had no backing file.
    const qemuLosesZeros = files.length === 1 && files[0]?.options === 'compat=0.10';
    expect((await qemuContent(theirTop)).equals(before)).toBe(!qemuLosesZeros);
    const [info, theirInfo] = [await qemuInfo(top), await qemuInfo(theirTop)];
    expect(info['backing-filename-format']).toBe(theirInfo['backing-filename-format']);
    expect(info['full-backing-filename']).toBe(theirInfo['full-backing-filename']);
    expect(info['backing-filename']).toBe(to === null ? undefined : basename(other));
    // No more room than QEMU takes for the same, give or take a table.
    if (!qemuLosesZeros)
      expect(info['actual-size']).toBeLessThanOrEqual(theirInfo['actual-size'] + 2 * 65536);
  });

  it.each([1, 2, 3])(
    'goes past %i layers of the chain, and takes the bytes of one for a raw disk',
    async (seed) => {
      const files = [
        q(2 * MiB),
        q(2 * MiB, 'cluster_size=4k'),
        q(2 * MiB, 'cluster_size=512'),
        q(2 * MiB),
        q(2 * MiB),
      ];
      const paths = await makeChain(path, 'x', files, seed);
      const top = paths.at(-1) ?? '';
      const model = await qemuContent(top);
      for (const [name, format] of [
        [paths[3 - seed] ?? '', 'qcow2'],
        [paths[0] ?? '', 'raw'],
        [paths[1] ?? '', 'qcow2'],
      ] as const) {
        const disk = await open(top, { mode: 'r+', resolve: 'any' });
        await disk.rebase({ name, format });
        await disk.close();
        await expectCleanByQemu(top);
        expect((await qemuContent(top)).equals(model)).toBe(true);
      }
    },
  );

  it('makes the file no longer for what lies far apart', async () => {
    const size = 256 * MiB;
    const far = Array.from({ length: 256 }, (_, at) => `write -q -P ${1 + (at % 255)} ${at}M 4k`);
    for (const name of ['old', 'new']) await qemuImg(['create', '-f', 'raw', path(name), String(size)]);
    await qemuIo(path('old'), far, { format: 'raw' });
    const top = path('top');
    await qemuImg(['create', '-f', 'qcow2', '-o', 'cluster_size=4k', '-b', 'old', '-F', 'raw', top]);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.rebase({ name: 'new', format: 'raw' });
    await disk.close();
    await expectCleanByQemu(top);
    const { same, output } = await qemuCompare(top, path('old'), { b: 'raw' });
    expect(same, output).toBe(true);
    expect((await stat(top)).size).toBeLessThan(64 * MiB);
  });

  it('keeps to the memory for tables where only zeros have to be hidden', async () => {
    const size = 32 * MiB;
    const cacheBytes = 64 * 1024;
    await qemuImg(['create', '-f', 'raw', path('old'), String(size)]);
    await writeFile(path('new'), Buffer.alloc(size, 1));
    const top = path('top');
    await qemuImg(['create', '-f', 'qcow2', '-o', 'cluster_size=512', '-b', 'old', '-F', 'raw', top]);
    const disk = await open(top, { mode: 'r+', resolve: 'any', cacheBytes });
    let most = 0;
    const onProgress = (): unknown => (most = Math.max(most, disk.stats().l2Cache.bytes));
    await disk.rebase({ name: 'new', format: 'raw' }, { onProgress });
    await disk.close();
    // What one job of 8 MiB changes, and the cache.
    expect(most).toBeLessThan(128 * 1024 + 2 * cacheBytes);
    await expectCleanByQemu(top);
    expect((await qemuContent(top)).every((byte) => byte === 0)).toBe(true);
  });

  it('goes back and forth, with changes in between', async () => {
    const [, top = ''] = await makeChain(path, 'x', [q(2 * MiB), q(2 * MiB)], 1);
    const others = [
      await makeChain(path, 'a', [q(MiB)], 2),
      await makeChain(path, 'b', [raw(3 * MiB)], 3),
      await makeChain(path, 'c', [q(2 * MiB), q(2 * MiB)], 4),
    ].map((paths) => paths.at(-1) ?? '');
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    const model = await contentOf(disk);
    const random = new Random(5);
    for (let round = 0; round < 8; round++) {
      const name = random.chance(0.25) ? null : random.pick(others as [string, ...string[]]);
      await disk.rebase(name === null ? null : { name, ...(name.includes('/b') ? { format: 'raw' } : {}) });
      const at = random.below(2 * MiB - 70_000);
      model.fill(round + 1, at, at + 30_000);
      await disk.write(model.subarray(at, at + 30_000), at);
      model.fill(0, at + 30_000, at + 60_000);
      await disk.discard(at + 30_000, 30_000);
      expect((await contentOf(disk)).equals(model), `round ${round}`).toBe(true);
    }
    await disk.close();
    await expectCleanByQemu(top);
    expect((await qemuContent(top)).equals(model)).toBe(true);
  });

  it('stores what it copies compressed', async () => {
    const sizes: number[] = [];
    for (const compress of [false, true, 9]) {
      const files = [raw(8 * MiB), q(8 * MiB)];
      const [base = '', top = ''] = await makeChain(path, 'x', files, 6);
      await qemuIo(base, ['write -P 200 1M 6M'], { format: 'raw' });
      const before = await qemuContent(top);
      const disk = await open(top, { mode: 'r+', resolve: 'any' });
      await disk.rebase(null, { compress });
      await disk.close();
      await expectCleanByQemu(top);
      expect((await qemuContent(top)).equals(before)).toBe(true);
      sizes.push((await stat(top)).size);
    }
    expect(sizes[1]).toBeLessThan((sizes[0] ?? 0) / 2);
    expect(sizes[2]).toBeLessThan((sizes[0] ?? 0) / 2);
  });

  it('only changes the name when told so, whether the file is there or not', async () => {
    const [base = '', top = ''] = await makeChain(path, 'x', [q(MiB), q(MiB)], 8);
    const before = await qemuContent(top);
    const size = (await stat(top)).size;
    await rename(base, path('moved'));
    await expect(open(top, { mode: 'r+', resolve: 'any' })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_REFERENCE' }),
    );
    const disk = await open(top, { mode: 'r+', backing: 'none' });
    await disk.rebase({ name: 'nowhere', format: 'raw' }, { mode: 'unsafe' });
    await disk.rebase({ name: 'moved', format: 'qcow2' }, { mode: 'unsafe' });
    await disk.close();
    expect((await stat(top)).size).toBe(size);
    expect((await qemuContent(top)).equals(before)).toBe(true);
    await copyFile(path('moved'), path('copy'));
    const again = await open(top, { mode: 'r+', resolve: 'any' });
    await again.rebase({ name: 'copy' }, { mode: 'unsafe' });
    expect((await contentOf(again)).equals(before)).toBe(true);
    await again.close();
    const info = await qemuInfo(top);
    expect(info['backing-filename']).toBe('copy');
    await expectCleanByQemu(top);
  });

  it('stays on the old file when it is stopped, and completes when done again', async () => {
    const [base = '', top = ''] = await makeChain(path, 'x', [raw(16 * MiB), q(16 * MiB)], 9);
    await qemuIo(base, ['write -P 7 1M 14M'], { format: 'raw' });
    const [other = ''] = await makeChain(path, 'new', [raw(16 * MiB)], 10);
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    // After what was copied in one go, and at the end.
    for (const limit of [1, 2]) {
      const controller = new AbortController();
      const reason = new Error('enough');
      let seen = 0;
      const onProgress = (): void => {
        seen++;
        if (seen === limit) controller.abort(reason);
      };
      const options = { signal: controller.signal, onProgress };
      await expect(disk.rebase({ name: other, format: 'raw' }, options)).rejects.toBe(reason);
      expect(disk.header.backingFile).toBe(base);
      expect((await contentOf(disk)).equals(before)).toBe(true);
    }
    const progress: number[] = [];
    const onProgress = ({ done, total }: { done: number; total: number }): void =>
      void progress.push(done / total);
    await disk.rebase({ name: other, format: 'raw' }, { onProgress });
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
    expect(progress.at(-1)).toBe(1);
    await disk.close();
    await expectCleanByQemu(top);
    expect((await qemuContent(top)).equals(before)).toBe(true);
  });

  it('refuses what cannot be, and leaves the image as it is', async () => {
    const [base = '', top = ''] = await makeChain(path, 'x', [q(MiB), q(MiB)], 12);
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    const reference = expect.objectContaining({ code: 'ERR_QCOW2_REFERENCE' }) as Error;
    await expect(disk.rebase({ name: 'missing' })).rejects.toThrow(reference);
    await expect(disk.rebase({ name: top })).rejects.toThrow(reference);
    await expect(disk.rebase({ name: '' })).rejects.toThrow(TypeError);
    await expect(disk.rebase({ name: 'x'.repeat(1024) })).rejects.toThrow(TypeError);
    await qemuImg(['create', '-f', 'qcow2', '-b', top, '-F', 'qcow2', path('above')]);
    await expect(disk.rebase({ name: 'above' })).rejects.toThrow(reference);
    expect((await contentOf(disk)).equals(before)).toBe(true);
    await disk.close();
    const denied = await open(base, { mode: 'r+' });
    await qemuImg(['create', '-f', 'qcow2', '-b', path('x'), '-F', 'raw', '-u', path('deep'), '1M']);
    await expect(denied.rebase({ name: 'deep' })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_REFERENCE_DENIED' }),
    );
    await denied.close();
    const readOnly = await open(top, { resolve: 'any' });
    await expect(readOnly.rebase(null)).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_READ_ONLY' }),
    );
    await readOnly.close();
    expect((await qemuContent(top)).equals(before)).toBe(true);
  });

  it('refuses a name for which the first cluster has no room', async () => {
    await qemuImg(['create', '-f', 'qcow2', '-o', 'cluster_size=512', path('small'), '1M']);
    const disk = await open(path('small'), { mode: 'r+', backing: 'none' });
    await expect(disk.rebase({ name: 'x'.repeat(600) }, { mode: 'unsafe' })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_LIMIT' }),
    );
    await disk.write(Buffer.alloc(512, 1), 0);
    await disk.close();
    await expectCleanByQemu(path('small'));
  });

  it('rebases over many random chains', async () => {
    for (let seed = 1; seed <= 6; seed++) {
      const random = new Random(seed);
      const sizes = [MiB, 2 * MiB, MiB + 1536] as const;
      const options = ['extended_l2=on', 'cluster_size=4k', 'compat=0.10'] as const;
      const file = (): ChainFile =>
        random.chance(0.3) ? raw(random.pick(sizes)) : q(random.pick(sizes), random.pick(options));
      const overlay = (): ChainFile => q(random.pick(sizes), random.pick(options));
      const [, , top = ''] = await makeChain(path, `s${seed}x`, [file(), overlay(), overlay()], seed);
      const target = file();
      const [other = ''] = await makeChain(path, `s${seed}y`, [target], seed + 100);
      await qemuIo(top, randomChanges(random, MiB, 5));
      const before = await qemuContent(top);
      const disk = await open(top, { mode: 'r+', resolve: 'any' });
      await disk.rebase({ name: other, format: target.format }, { compress: random.chance(0.5) });
      await disk.close();
      await expectCleanByQemu(top);
      expect((await qemuContent(top)).equals(before), `seed ${seed}`).toBe(true);
    }
  });
});
