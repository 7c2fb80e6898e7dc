/** Snapshots that this package makes QEMU lists, applies and deletes, and the other way round. */
import { describe, expect, it } from 'vitest';
import { create, open, type Qcow2 } from '../../lib/index.js';
import { qemuContent, expectCleanByQemu, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const MiB = 2 ** 20;

async function contentOf(disk: { size: number; read: Qcow2['read'] }): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

const kinds: [options: string, size: number, canResize: boolean][] = [
  ['cluster_size=512', 200 * KiB, true],
  ['cluster_size=64k', 3 * MiB + 512, true],
  ['cluster_size=2M,refcount_bits=8', 5 * MiB, true],
  ['cluster_size=16k,extended_l2=on', 2 * MiB, true],
  ['cluster_size=4k,lazy_refcounts=on,refcount_bits=64', MiB, true],
  ['cluster_size=4k,compat=0.10', MiB, false],
];

describe('snapshots', () => {
  const temp = useTempDir();

  it.each(kinds)(
    'hold what the disk held, through writes, deletions and applications by both (%s)',
    { timeout: 60_000 },
    async (options, size, canResize) => {
      const path = temp('disk.qcow2');
      await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, path, String(size)]);
      const random = new Random(size);
      let model = new PlainDisk(size);
      const snapshots = new Map<string, PlainDisk>();
      let nextId = 1;
      for (let round = 0; round < 9; round += 1) {
        const byQemu = round % 3 === 2;
        if (byQemu) {
          // QEMU alone makes a snapshot, applies or deletes one.
          const [id] = [...snapshots.keys()];
          const kind = id === undefined ? 0 : random.below(3);
          if (kind === 0) {
            await qemuImg(['snapshot', '-c', `name ${nextId}`, path]);
            snapshots.set(String(nextId), model.clone());
            nextId += 1;
          } else if (kind === 1) {
            await qemuImg(['snapshot', '-a', id ?? '', path]);
            model = (snapshots.get(id ?? '') ?? model).clone();
          } else {
            await qemuImg(['snapshot', '-d', `name ${id ?? ''}`, path]);
            snapshots.delete(id ?? '');
          }
        } else {
          const disk = await open(path, { mode: 'r+' });
          for (let i = 0; i < 3; i += 1) {
            const length = random.between(1, 60) * 512;
            const start = random.below(Math.max(1, (model.size - length) / 512)) * 512;
            const data = pattern(round * 10 + i, length);
            await disk.write(data, start);
            model.write(data, start);
          }
          await disk.discard(0, 4096);
          model.zero(0, 4096);
          const cluster = disk.header.geometry.clusterSize;
          if (cluster <= model.size) {
            const data = Buffer.alloc(cluster, round + 1);
            await disk.write(data, 0, { compress: true });
            model.write(data, 0);
          }
          const ids = [...snapshots.keys()];
          const id = ids[random.below(ids.length)] ?? '';
          const kind = ids.length === 0 ? 0 : random.below(5);
          if (kind <= 1) {
            const made = await disk.snapshots.create({ name: `name ${nextId}` });
            expect(made.id).toBe(String(nextId));
            snapshots.set(made.id, model.clone());
            nextId += 1;
          } else if (kind === 2) {
            await disk.snapshots.apply(id);
            model = (snapshots.get(id) ?? model).clone();
          } else if (kind === 3) {
            await disk.snapshots.delete(`name ${id}`);
            snapshots.delete(id);
          } else if (canResize) {
            const next = 512 * random.between(Math.floor(size / 1024), Math.floor(size / 512));
            await disk.resize(next, { shrink: true });
            model.resize(next);
          }
          // Writing goes on after any of these.
          const data = pattern(round, 512);
          await disk.write(data, 8192);
          model.write(data, 8192);
          expect((await contentOf(disk)).equals(model.read(0, model.size))).toBe(true);
          await disk.close();
        }
        nextId = Math.max(0, ...[...snapshots.keys()].map(Number)) + 1;
        await expectCleanByQemu(path);
        expect((await qemuContent(path)).equals(model.read(0, model.size)), `disk in round ${round}`).toBe(
          true,
        );
        const listed = (await qemuInfo(path)).snapshots ?? [];
        expect(listed.map(({ id, name }) => [id, name])).toEqual(
          [...snapshots.keys()].map((id) => [id, `name ${id}`]),
        );
        const reader = await open(path);
        for (const [id, expected] of snapshots) {
          const view = await reader.snapshots.open(id);
          expect(view.size).toBe(expected.size);
          const same = (await contentOf(view)).equals(expected.read(0, expected.size));
          expect(same, `snapshot ${id} in round ${round}`).toBe(true);
        }
        await reader.close();
      }
      // QEMU applies what is left, each in turn.
      for (const [id, expected] of snapshots) {
        await qemuImg(['snapshot', '-a', id, path]);
        await expectCleanByQemu(path);
        expect((await qemuContent(path)).equals(expected.read(0, expected.size))).toBe(true);
      }
    },
  );

  it('keep what QEMU says of them: VM state, dates, clocks, extra data', async () => {
    const path = temp('disk.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', path, '1M']);
    await qemuImg(['snapshot', '-c', 'first', path]);
    const [theirs] = (await qemuInfo(path)).snapshots ?? [];
    const disk = await open(path, { mode: 'r+' });
    const made = await disk.snapshots.create({ name: 'zweite ß', date: new Date(1_700_000_000_123) });
    expect(made).toMatchObject({
      id: '2',
      name: 'zweite ß',
      dateSeconds: 1_700_000_000,
      dateNanoseconds: 123_000_000,
    });
    await disk.close();
    const listed = (await qemuInfo(path)).snapshots ?? [];
    expect(listed[0]).toEqual(theirs);
    expect(listed[1]).toMatchObject({
      id: '2',
      name: 'zweite ß',
      'vm-state-size': 0,
      'date-sec': 1_700_000_000,
      'date-nsec': 123_000_000,
    });
    const reader = await open(path);
    const info = await reader.snapshots.list();
    expect(info).toMatchObject([
      { id: '1', diskSize: MiB },
      { id: '2', diskSize: MiB, icount: null, vmStateSize: 0 },
    ]);
    await reader.close();
  });

  it('of an overlay show the backing file through', async () => {
    await qemuImg(['create', '-q', '-f', 'raw', temp('base.raw'), '1M']);
    await qemuIo(temp('base.raw'), ['write -P 7 0 1M'], { format: 'raw' });
    const path = temp('top.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', temp('base.raw'), '-F', 'raw', path]);
    const disk = await open(path, { mode: 'r+', resolve: 'any' });
    const { id } = await disk.snapshots.create({ name: 's' });
    await disk.write(pattern(1, MiB), 0);
    const view = await disk.snapshots.open(id);
    expect((await contentOf(view)).equals(Buffer.alloc(MiB, 7))).toBe(true);
    await view.close();
    await disk.snapshots.apply('s');
    expect((await contentOf(disk)).equals(Buffer.alloc(MiB, 7))).toBe(true);
    await disk.close();
    await expectCleanByQemu(path);
  });

  it('that fill narrow refcounts are refused, and nothing changes', async () => {
    const path = temp('narrow.qcow2');
    const disk = await create(path, MiB, { clusterSize: 4096, refcountBits: 2 });
    await disk.write(pattern(1, MiB), 0);
    await disk.snapshots.create({ name: 'a' });
    await disk.snapshots.create({ name: 'b' });
    await expect(disk.snapshots.create({ name: 'c' })).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT' });
    await expect(disk.snapshots.apply('a')).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT' });
    await disk.close();
    await expectCleanByQemu(path);
    const again = await open(path, { mode: 'r+' });
    await again.snapshots.delete('a');
    await again.snapshots.apply('b');
    expect((await contentOf(again)).equals(pattern(1, MiB))).toBe(true);
    await again.close();
    await expectCleanByQemu(path);
  });

  it('are refused where they cannot be, and by names that are not there', async () => {
    const external = await create(temp('external.qcow2'), MiB, { dataFile: { name: 'data.raw' } });
    await expect(external.snapshots.create({ name: 's' })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
    await external.close();
    const disk = await create(temp('disk.qcow2'), MiB);
    await disk.snapshots.create({ name: 's' });
    await disk.bitmaps.create({ name: 'b' });
    await expect(disk.snapshots.apply('s')).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await expect(disk.snapshots.apply('x')).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
    await expect(disk.snapshots.delete('x')).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
    await expect(disk.snapshots.open('x')).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
    const view = await disk.snapshots.open('s');
    await expect(disk.snapshots.delete('s')).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await view.close();
    await disk.snapshots.delete('s');
    await disk.close();
    await expectCleanByQemu(temp('disk.qcow2'));
  });
});
