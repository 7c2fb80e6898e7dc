/** What the bitmap functions make QEMU reads, and what QEMU makes they read. */
import { describe, expect, it } from 'vitest';
import { create, open, type DirtyExtent, type Qcow2 } from '../../lib/index.js';
import { PlainBitmap, qemuDirty } from '../support/bitmap-oracle.js';
import { expectCleanByQemu, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;

async function dirty(disk: Qcow2, name: string): Promise<DirtyExtent[]> {
  const found: DirtyExtent[] = [];
  for await (const extent of disk.bitmaps.extents(name)) found.push(extent);
  return found;
}

describe('bitmaps', () => {
  const temp = useTempDir();

  it.each([512, 4096, 65536, 2 * MiB])(
    'are made as qemu-img makes them (clusters of %i bytes)',
    async (clusterSize) => {
      const path = temp('ours.qcow2');
      const disk = await create(path, 50 * MiB, { clusterSize });
      await disk.bitmaps.create({ name: 'default' });
      await disk.bitmaps.create({ name: 'größe 512', granularity: 512, disabled: true });
      await disk.bitmaps.create({ name: 'large', granularity: 2 ** 31 });
      await disk.write(pattern(1, 512), 40 * MiB);
      await disk.close();
      const theirs = temp('theirs.qcow2');
      await qemuImg(['create', '-q', '-f', 'qcow2', '-o', `cluster_size=${clusterSize}`, theirs, '50M']);
      await qemuImg(['bitmap', '--add', theirs, 'default']);
      await qemuImg(['bitmap', '--add', '-g', '512', '--disable', theirs, 'größe 512']);
      await qemuImg(['bitmap', '--add', '-g', '2G', theirs, 'large']);
      await qemuIo(theirs, ['write -P 1 40M 512']);
      const bitmaps = (await qemuInfo(path))['format-specific']?.data.bitmaps;
      expect(bitmaps).toHaveLength(3);
      expect(bitmaps).toEqual((await qemuInfo(theirs))['format-specific']?.data.bitmaps);
      await expectCleanByQemu(path);
      for (const name of ['default', 'größe 512', 'large']) {
        expect(await qemuDirty(path, name)).toEqual(await qemuDirty(theirs, name));
      }
      const reader = await open(theirs);
      expect(
        (await reader.bitmaps.list()).map(({ name, enabled, consistent }) => ({ name, enabled, consistent })),
      ).toEqual([
        { name: 'default', enabled: true, consistent: true },
        { name: 'größe 512', enabled: false, consistent: true },
        { name: 'large', enabled: true, consistent: true },
      ]);
      expect(await dirty(reader, 'default')).toEqual(await qemuDirty(theirs, 'default'));
      await reader.close();
    },
  );

  it('are cleared, switched off and on, merged and removed, and QEMU agrees', async () => {
    const path = temp('disk.qcow2');
    const size = 20 * MiB + 512;
    const disk = await create(path, size, { clusterSize: 4096 });
    const random = new Random(3);
    const names = ['a', 'b', 'c'] as const;
    const models = {
      a: new PlainBitmap(size, 512),
      b: new PlainBitmap(size, 4096),
      c: new PlainBitmap(size, MiB),
    };
    const enabled = { a: true, b: true, c: true };
    for (const name of names) await disk.bitmaps.create({ name, granularity: models[name].granularity });
    for (let round = 0; round < 40; round += 1) {
      const name = random.pick(names);
      const kind = random.below(8);
      if (kind < 4) {
        const length = random.between(1, 30) * 512;
        const start = random.below((size - length) / 512) * 512;
        await disk.write(pattern(round, length), start);
        for (const one of names) if (enabled[one]) models[one].set(start, length);
      } else if (kind === 4) {
        enabled[name] = !enabled[name];
        await (enabled[name] ? disk.bitmaps.enable(name) : disk.bitmaps.disable(name));
      } else if (kind === 5) {
        await disk.bitmaps.clear(name);
        models[name].clear();
      } else {
        const other = random.pick(names);
        await disk.bitmaps.merge(name, [other]);
        for (const { start, length } of models[other].ranges()) models[name].set(start, length);
      }
      for (const one of names)
        expect(await dirty(disk, one), `${one} in round ${round}`).toEqual(models[one].ranges());
    }
    await disk.close();
    await expectCleanByQemu(path);
    for (const name of names) expect(await qemuDirty(path, name)).toEqual(models[name].ranges());
    const again = await open(path, { mode: 'r+' });
    await again.bitmaps.remove('b');
    await again.close();
    await expectCleanByQemu(path);
    const last = await open(path, { mode: 'r+' });
    await last.bitmaps.remove('a');
    await last.bitmaps.remove('c');
    expect(last.header.extensions.some(({ type }) => type === 0x23852875)).toBe(false);
    await last.close();
    await expectCleanByQemu(path);
    expect((await qemuInfo(path))['format-specific']?.data.bitmaps).toBeUndefined();
  });

  it('come from another image of the chain, of another cluster size and granularity', async () => {
    const base = temp('base.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=64k', base, '30M']);
    await qemuImg(['bitmap', '--add', '-g', '512', base, 'b']);
    await qemuIo(base, ['write -P 1 1M 64k', 'write -P 1 12345k 512', 'write -P 1 29M 1M']);
    const path = temp('top.qcow2');
    const disk = await create(path, 25 * MiB, {
      clusterSize: 512,
      backing: { name: 'base.qcow2', format: 'qcow2' },
    });
    await disk.bitmaps.create({ name: 'sum', granularity: 8192 });
    await disk.write(pattern(1, 100), 3 * MiB);
    const lower = await open(base);
    await disk.bitmaps.merge('sum', [{ disk: lower, name: 'b' }]);
    await lower.close();
    await disk.close();
    const model = new PlainBitmap(25 * MiB, 8192);
    model.set(3 * MiB, 100);
    model.set(MiB, 65536);
    model.set(12345 * 1024, 512);
    await expectCleanByQemu(path);
    expect(await qemuDirty(path, 'sum')).toEqual(model.ranges());
  });

  it('tell their bits packed, a part of them, and those of what is allocated', async () => {
    const path = temp('disk.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', path, '8M']);
    await qemuImg(['bitmap', '--add', '-g', '64k', path, 'b']);
    await qemuIo(path, ['write -P 1 128k 64k', 'write -P 1 1M 256k']);
    const disk = await open(path, { mode: 'r+' });
    await disk.discard(MiB, 2 * 65536);
    expect(await dirty(disk, 'b')).toEqual([
      { start: 2 * 65536, length: 65536 },
      { start: MiB, length: 4 * 65536 },
    ]);
    const all = await disk.bitmaps.bits('b');
    expect({ ...all, bits: [...all.bits.subarray(0, 4)] }).toEqual({
      start: 0,
      granularity: 65536,
      length: 128,
      bits: [0b100, 0, 0b1111, 0],
    });
    const part = await disk.bitmaps.bits('b', { start: MiB + 65536 + 1, length: 65536 });
    expect({ ...part, bits: [...part.bits] }).toEqual({
      start: MiB + 65536,
      granularity: 65536,
      length: 2,
      bits: [0b11],
    });
    const allocated: DirtyExtent[] = [];
    for await (const extent of disk.bitmaps.extents('b', { allocated: true })) allocated.push(extent);
    expect(allocated).toEqual([
      { start: 2 * 65536, length: 65536 },
      { start: MiB + 2 * 65536, length: 2 * 65536 },
    ]);
    await disk.close();
  });

  it('are refused where the format has none, and by names that are wrong', async () => {
    const old = await create(temp('v2.qcow2'), MiB, { version: 2 });
    await expect(old.bitmaps.create({ name: 'b' })).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    expect(await old.bitmaps.list()).toEqual([]);
    await old.close();
    const path = temp('v3.qcow2');
    const disk = await create(path, MiB);
    await disk.bitmaps.create({ name: 'b' });
    await expect(disk.bitmaps.create({ name: 'b' })).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await expect(disk.bitmaps.create({ name: '' })).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' });
    await expect(disk.bitmaps.create({ name: 'ß'.repeat(512) })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_VALUE',
    });
    await expect(disk.bitmaps.create({ name: 'g', granularity: 1000 })).rejects.toMatchObject({
      code: 'ERR_OUT_OF_RANGE',
    });
    for (const job of [
      () => disk.bitmaps.remove('x'),
      () => disk.bitmaps.clear('x'),
      () => disk.bitmaps.enable('x'),
      () => disk.bitmaps.merge('b', ['x']),
      () => disk.bitmaps.bits('x'),
    ]) {
      await expect(job()).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
    }
    await disk.close();
    const reader = await open(path);
    await expect(reader.bitmaps.clear('b')).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await reader.close();
  });

  it('leave the backing file name and unknown extensions alone', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', temp('base.qcow2'), '1M']);
    const path = temp('top.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', temp('base.qcow2'), '-F', 'qcow2', path]);
    for (let i = 0; i < 3; i += 1) {
      const disk = await open(path, { mode: 'r+', resolve: 'any' });
      await disk.bitmaps.create({ name: `b${i}` });
      await disk.close();
      const info = await qemuInfo(path);
      expect(info['backing-filename']).toBe(temp('base.qcow2'));
      expect(info['backing-filename-format']).toBe('qcow2');
      expect(info['format-specific']?.data.bitmaps).toHaveLength(i + 1);
      await expectCleanByQemu(path);
    }
    await qemuImg(['bitmap', '--remove', path, 'b1']);
    const disk = await open(path, { mode: 'r+', resolve: 'any' });
    for (const { name } of await disk.bitmaps.list()) await disk.bitmaps.remove(name);
    await disk.close();
    expect((await qemuInfo(path))['backing-filename']).toBe(temp('base.qcow2'));
    await expectCleanByQemu(path);
  });
});
