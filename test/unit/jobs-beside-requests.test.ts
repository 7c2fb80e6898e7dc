/** Jobs that change the whole image while requests are under way, and jobs that fail half-way. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type Qcow2 } from '../../lib/index.js';
import { HeldStorage, soon, systemError, untilHeld } from '../support/held-storage.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const cluster = 64 * KiB;
const inDirectory = useTempDir();

async function dirtyRanges(disk: Qcow2, name: string): Promise<number[][]> {
  const ranges: number[][] = [];
  for await (const { start, length } of disk.bitmaps.extents(name)) ranges.push([start, start + length]);
  return ranges;
}

async function byteAt(
  disk: { read: (b: Uint8Array, p: number) => Promise<void> },
  at: number,
): Promise<number> {
  const byte = new Uint8Array(1);
  await disk.read(byte, at);
  return byte[0] ?? -1;
}

describe('clearing or making a bitmap while a write is under way', () => {
  it.each(['clear', 'create'] as const)('%s waits, so that the write is before it or in it', async (job) => {
    const storage = new HeldStorage(new MemoryStorage());
    const disk = await create(storage, 4 * MiB);
    await disk.write(Buffer.alloc(MiB, 1), 0);
    if (job === 'clear') await disk.bitmaps.create({ name: 'b' });
    await disk.flush();
    storage.holds = ({ kind, length }) => kind === 'write' && length === cluster - 1;
    const write = disk.write(Buffer.alloc(cluster - 1, 7), cluster);
    await untilHeld(storage);
    let settled = false;
    const change = (job === 'clear' ? disk.bitmaps.clear('b') : disk.bitmaps.create({ name: 'b' })).then(
      () => {
        settled = true;
      },
    );
    await soon();
    // A backup that begins when the job has ended must see the write: it may not end before the write.
    expect(settled).toBe(false);
    storage.letGo();
    await Promise.all([write, change]);
    expect(await byteAt(disk, cluster)).toBe(7);
    expect(await dirtyRanges(disk, 'b')).toEqual([]);
    await disk.write(Buffer.alloc(10, 8), 2 * cluster);
    expect(await dirtyRanges(disk, 'b')).toEqual([[2 * cluster, 3 * cluster]]);
    await disk.close();
  });
});

describe('resizing without shrink: true', () => {
  it('drops nothing that was written while it looked for data', async () => {
    const memory = new MemoryStorage();
    const made = await create(memory, 4 * GiB);
    for (const at of [2.25 * GiB, 3.25 * GiB]) {
      await made.write(Buffer.alloc(cluster, 1), at);
      await made.discard(at, cluster);
    }
    await made.close();
    const storage = new HeldStorage(memory);
    const disk = await open(storage, { mode: 'r+' });
    let tables = 0;
    storage.holds = ({ kind, length }) => kind === 'read' && length === cluster && ++tables === 2;
    const resized = disk.resize(2 * GiB).then(
      () => 'resized',
      () => 'refused',
    );
    await untilHeld(storage);
    const written = disk.write(Buffer.alloc(cluster, 7), 2.25 * GiB).then(
      () => 'written',
      () => 'refused',
    );
    await soon();
    storage.letGo();
    expect([
      ['resized', 'refused'],
      ['refused', 'written'],
    ]).toContainEqual([await resized, await written]);
    await disk.close();
  });
});

describe('amending', () => {
  it('refuses to go on when the image could not be opened again after a step', async () => {
    const memory = new MemoryStorage();
    const storage = new HeldStorage(memory);
    const disk = await create(storage, 4 * MiB);
    await disk.write(Buffer.alloc(cluster, 1), 0);
    await disk.flush();
    let changed = false;
    storage.fails = ({ kind, position }) => {
      // refcount_order is byte 96: from then on the file has the new width.
      if (kind === 'write' && position <= 96 && position >= 48) changed = true;
      return changed && kind === 'read' && position === 0 ? systemError('EIO') : undefined;
    };
    await expect(disk.amend({ refcountBits: 64 })).rejects.toMatchObject({ code: 'EIO' });
    storage.fails = () => undefined;
    await expect(disk.write(Buffer.alloc(cluster, 2), cluster)).rejects.toMatchObject({
      code: 'ERR_QCOW2_FAILED',
    });
    await expect(disk.close()).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
    const again = await open(memory);
    expect(await again.check()).toMatchObject({ corruptions: 0 });
    expect(await byteAt(again, 100)).toBe(1);
    await again.close();
  });

  it('does not make extents lose what is written afterwards', async () => {
    const disk = await create(new MemoryStorage(), 2 * GiB);
    await disk.write(Buffer.alloc(cluster, 1), 0);
    const data: number[] = [];
    for await (const { type, start } of disk.extents()) {
      if (type === 'data') data.push(start);
      if (start !== 0) continue;
      await disk.amend({ lazyRefcounts: true });
      await disk.write(Buffer.alloc(cluster, 5), GiB + cluster);
    }
    expect(data).toEqual([0, GiB + cluster]);
    await disk.close();
  });
});

describe('a disk that shows a snapshot', () => {
  it('is not handed out for a snapshot that is being deleted', async () => {
    for (let turns = 0; turns < 60; turns += 3) {
      const disk = await create(new MemoryStorage(), 4 * MiB);
      await disk.write(Buffer.alloc(cluster, 1), 0);
      await disk.snapshots.create({ name: 's' });
      await disk.write(Buffer.alloc(cluster, 2), 0);
      const deleted = disk.snapshots.delete('s');
      for (let i = 0; i < turns; i += 1) await Promise.resolve();
      const opened = disk.snapshots.open('s');
      const [view, deletion] = await Promise.allSettled([opened, deleted]);
      if (view.status === 'fulfilled') {
        expect(deletion.status, `after ${turns} turns`).toBe('rejected');
        expect(await byteAt(view.value, 0)).toBe(1);
      } else {
        expect(view.reason).toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
      }
      await disk.close();
    }
  });

  it('keeps the backing file it reads from a commit and a rebase', async () => {
    const base = await create(inDirectory('base.qcow2'), MiB);
    await base.write(Buffer.alloc(cluster, 3), 0);
    await base.close();
    const backing = { name: 'base.qcow2', format: 'qcow2' } as const;
    const disk = await create(inDirectory('top.qcow2'), MiB, { backing, resolve: 'any' });
    await disk.snapshots.create({ name: 's' });
    const view = await disk.snapshots.open('s');
    await expect(disk.commit()).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await expect(disk.rebase(null)).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    expect(await byteAt(view, 0)).toBe(3);
    await view.close();
    await disk.commit();
    expect(await byteAt(disk, 0)).toBe(3);
    await disk.close();
  });
});

describe('a full disk while the refcount table grows', () => {
  it('is over when there is space again', async () => {
    const storage = new HeldStorage(new MemoryStorage());
    const disk = await create(storage, 64 * MiB, { clusterSize: 512, refcountBits: 64 });
    // One cluster of refcount table: 64 blocks of 64 clusters of 512 bytes.
    storage.fails = ({ kind, position, length }) =>
      kind === 'write' && position + length > 2 * MiB ? systemError('ENOSPC') : undefined;
    let at = 0;
    const fill = async (): Promise<void> => {
      for (; at < 4 * MiB; at += cluster) await disk.write(Buffer.alloc(cluster, 1), at);
    };
    await expect(fill()).rejects.toMatchObject({ code: 'ENOSPC' });
    storage.fails = () => undefined;
    await fill();
    expect(await disk.check()).toMatchObject({ corruptions: 0 });
    await disk.close();
  });
});

describe('closing', () => {
  it('waits for what was begun before, also for what waits behind something else', async () => {
    const memory = new MemoryStorage();
    const disk = await create(memory, 4 * MiB);
    const all = [
      disk.write(Buffer.alloc(cluster, 1), 0),
      disk.check(),
      disk.write(Buffer.alloc(cluster, 2), cluster),
    ];
    const closed = disk.close();
    await expect(disk.write(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await Promise.all(all);
    await closed;
    const again = await open(memory);
    expect([await byteAt(again, 0), await byteAt(again, cluster)]).toEqual([1, 2]);
    await again.close();
  });
});

describe('opening a snapshot while a commit has the backing file open anew', () => {
  it('gives a disk that reads what is below afterwards', async () => {
    const below = new HeldStorage(new MemoryStorage());
    const base = await create(below, 4 * MiB);
    await base.write(Buffer.alloc(cluster, 1), 0);
    await base.close();
    const file = new MemoryStorage();
    const backing = { name: '/base', format: 'qcow2', unchecked: true } as const;
    await (await create(file, 4 * MiB, { backing })).close();
    const disk = await open(file, { mode: 'r+', resolve: () => below });
    await disk.write(Buffer.alloc(cluster, 2), cluster);
    await disk.snapshots.create({ name: 's' });
    await disk.write(Buffer.alloc(cluster, 3), 2 * cluster);
    await disk.flush();
    below.holds = ({ kind }) => kind === 'write';
    const running = disk.commit();
    await untilHeld(below);
    const opening = disk.snapshots.open('s');
    await soon();
    below.letGo();
    await running;
    const view = await opening;
    expect([await byteAt(view, 0), await byteAt(view, cluster)]).toEqual([1, 2]);
    await view.close();
    await disk.close();
  });
});
