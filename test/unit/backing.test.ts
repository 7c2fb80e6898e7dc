/** Disks that stand on other disks: what shows through, what is copied up, and that nothing below ever changes. */
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { expectCleanByQemu, holdByQemu, qemuContent, qemuImg, qemuIo, qemuMap } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 2 ** 10;
const MiB = 2 ** 20;
const inDirectory = useTempDir();
const top = (): string => inDirectory('top.qcow2');

/** Makes an overlay of a raw file that holds `content`. */
async function overRaw(content: Buffer, size: number, options: CreateOptions = {}): Promise<Qcow2> {
  await writeFile(inDirectory('base'), content);
  return create(top(), size, { ...options, backing: { name: 'base', format: 'raw' } });
}

async function contentOf(disk: Qcow2): Promise<Buffer> {
  const content = Buffer.alloc(disk.size, 0xcd);
  await disk.read(content, 0);
  return content;
}

async function hashOf(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

describe('a chain of a raw, a compressed and an extended image', () => {
  it('reads as QEMU reads it, and only its top changes', async () => {
    const below = ['raw', 'low.qcow2', 'middle.qcow2'].map((name) => inDirectory(name));
    const [raw = '', low = '', middle = ''] = below;
    await writeFile(raw, pattern(1, 2 * MiB + 700));
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', 'raw', '-F', 'raw', low, '1500k']);
    await qemuIo(low, ['write -c -P 3 64k 64k', 'write -z 256k 64k', 'write -P 4 1400k 100k']);
    const options = 'extended_l2=on,cluster_size=32k';
    await qemuImg([
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      options,
      '-b',
      'low.qcow2',
      '-F',
      'qcow2',
      middle,
      '3M',
    ]);
    await qemuIo(middle, ['write -P 5 10k 3k', 'write -z 100k 20k', 'write -P 6 1490k 30k']);
    const hashes = await Promise.all(below.map(hashOf));
    const backing = { name: 'middle.qcow2', format: 'qcow2' as const };
    const disk = await create(top(), 2600 * KiB, { backing, resolve: 'any', clusterSize: 4096 });
    const model = new PlainDisk(2600 * KiB);
    model.write((await qemuContent(middle)).subarray(0, model.size), 0);
    expect((await contentOf(disk)).equals(model.read(0, model.size))).toBe(true);

    const random = new Random(1);
    for (let i = 0; i < 60; i += 1) {
      const position = random.below(model.size - 20_000);
      const data = pattern(i, random.between(1, 20_000));
      await disk.write(data, position);
      model.write(data, position);
    }
    expect((await contentOf(disk)).equals(model.read(0, model.size))).toBe(true);
    await disk.close();
    await expectCleanByQemu(top());
    expect((await qemuContent(top())).equals(model.read(0, model.size))).toBe(true);
    expect(await Promise.all(below.map(hashOf))).toEqual(hashes);
  });
});

describe('an overlay', () => {
  it.each([
    { what: 'version 2', options: { version: 2 } },
    { what: 'version 3', options: {} },
    { what: 'extended L2', options: { extendedL2: true } },
  ] satisfies { what: string; options: CreateOptions }[])(
    '$what: zeros and discards hide what is below',
    async ({ options }) => {
      const disk = await overRaw(pattern(1, MiB), 2 * MiB, options);
      const model = new PlainDisk(2 * MiB);
      model.write(pattern(1, MiB), 0);
      for (const [position, length] of [
        [0, 65536],
        [100_000, 3000],
        [300_000, 400_000],
        [MiB - 100, 200],
      ] as const) {
        await disk.writeZeroes(position, length);
        model.zero(position, length);
      }
      await disk.write(pattern(2, 200_000), 500_000);
      await disk.discard(500_000, 200_000);
      model.zero(500_000, 200_000);
      expect((await contentOf(disk)).equals(model.read(0, model.size))).toBe(true);
      await disk.close();
      await expectCleanByQemu(top());
      expect((await qemuContent(top())).equals(model.read(0, model.size))).toBe(true);
    },
  );

  it('zeros where the disk below has ended take no space', async () => {
    const disk = await overRaw(pattern(1, MiB), 64 * MiB);
    await disk.writeZeroes(MiB, 63 * MiB);
    await disk.discard(MiB, 63 * MiB);
    await disk.close();
    expect(await qemuMap(top())).toMatchObject([
      { start: 0, length: MiB, depth: 1 },
      { start: MiB, length: 63 * MiB, zero: true, data: false },
    ]);
  });

  it('copies up a cluster, with extended L2 only a subcluster', async () => {
    for (const [extendedL2, copied] of [
      [false, 65536],
      [true, 2048],
    ] as const) {
      const disk = await overRaw(pattern(1, MiB), MiB, { extendedL2 });
      await disk.write(pattern(2, 100), 70_000);
      await disk.close();
      const own = (await qemuMap(top())).filter(({ depth }) => depth === 0);
      expect(own).toMatchObject([{ start: 70_000 - (70_000 % copied), length: copied, data: true }]);
    }
  });

  it('keeps the bytes around writes to one cluster that are under way together', async () => {
    const disk = await overRaw(pattern(1, MiB), MiB);
    const expected = Buffer.from(pattern(1, MiB));
    const writes = Array.from({ length: 40 }, (_, i) => {
      const data = pattern(100 + i, 1000);
      data.copy(expected, 5 + i * 3000);
      return disk.write(data, 5 + i * 3000);
    });
    await Promise.all(writes);
    expect((await contentOf(disk)).equals(expected)).toBe(true);
    await disk.close();
  });

  it('of an encrypted disk is opened with the same secret', async () => {
    const secret = 'open sesame';
    const encryption = { secret, iterTimeMs: 10 };
    const base = await create(inDirectory('base'), MiB, { encryption });
    await base.write(pattern(1, MiB), 0);
    await base.close();
    const backing = { name: 'base', format: 'qcow2' as const };
    await (await create(top(), MiB, { backing, encryption })).close();
    const disk = await open(top(), { resolve: 'same-directory', secret });
    expect((await contentOf(disk)).equals(pattern(1, MiB))).toBe(true);
    await disk.close();
    const locked = await open(top(), { resolve: 'same-directory' });
    await expect(locked.read(Buffer.alloc(512), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_SECRET' });
    await locked.close();
  });

  it('is not opened while another process writes to the disk below', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', inDirectory('base'), '1M']);
    await (await create(top(), MiB, { backing: { name: 'base', format: 'qcow2' } })).close();
    const writer = await holdByQemu(inDirectory('base'));
    try {
      await expect(open(top(), { resolve: 'any' })).rejects.toMatchObject({ code: 'ERR_QCOW2_LOCKED' });
    } finally {
      await writer.release();
    }
    await (await open(top(), { resolve: 'any' })).close();
  });

  it('goes on as zeros where the file below is cut', async () => {
    const content = pattern(1, 100_000);
    const disk = await overRaw(content, MiB);
    expect((await contentOf(disk)).equals(Buffer.concat([content, Buffer.alloc(MiB - content.length)]))).toBe(
      true,
    );
    await disk.write(pattern(2, 10), 99_995);
    pattern(2, 10).copy(content, 99_995, 0, 5);
    await disk.close();
    const expected = Buffer.concat([content, pattern(2, 10).subarray(5), Buffer.alloc(MiB - 100_005)]);
    expect((await qemuContent(top())).equals(expected)).toBe(true);
  });
});

describe('a backing file whose format the image does not tell', () => {
  it('is opened by its first bytes, with a warning that names both files', async () => {
    const disk = await create(inDirectory('base.qcow2'), MiB);
    await disk.write(pattern(9, 1000), 5000);
    await disk.close();
    await (await create(top(), MiB, { backing: { name: 'base.qcow2', unchecked: true } })).close();
    const warnings: (Error & { code?: string })[] = [];
    const note = (warning: Error): void => void warnings.push(warning);
    process.on('warning', note);
    try {
      const overlay = await open(top(), { resolve: 'any' });
      expect((await contentOf(overlay)).subarray(5000, 6000)).toEqual(pattern(9, 1000));
      await overlay.close();
      await new Promise((resolve) => setImmediate(resolve));
    } finally {
      process.off('warning', note);
    }
    expect(warnings.map(({ code }) => code)).toEqual(['QCOW2_BACKING_FORMAT']);
    expect(warnings[0]?.message).toContain('base.qcow2');
    expect(warnings[0]?.message).toContain('top.qcow2');
  });
});
