/** However many snapshots an image has, opening it, reading and writing cost what they cost without; more: QCOW2_SNAPSHOTS=5000. */
import { writeFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import { expectCleanByQemu, qemuImg, qemuInfo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const count = Number(process.env.QCOW2_SNAPSHOTS ?? 300);
const temp = useTempDir();

async function imageWith(snapshots: number): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  const disk = await create(storage, 4 * MiB, { clusterSize: 4096, refcountBits: 32 });
  for (let i = 0; i < snapshots; i += 1) {
    await disk.write(pattern(i, 512), (i % 16) * 64 * KiB);
    await disk.snapshots.create({ name: `number ${i + 1}` });
  }
  await disk.write(pattern(snapshots, MiB), 0);
  await disk.close();
  return storage;
}

/** How often the storage is asked for something while the image is opened, read and written. */
async function requestsFor(memory: MemoryStorage): Promise<{ reads: number; changes: number }> {
  const storage = await RecordingStorage.over(memory.clone());
  const disk = await open(storage, { mode: 'r+' });
  const buffer = Buffer.alloc(4096);
  for (let at = 0; at < 2 * MiB; at += 4096) await disk.read(buffer, at);
  for (let at = 0; at < MiB; at += 64 * KiB) await disk.write(buffer, at);
  for await (const extent of disk.extents()) expect(extent.length).toBeGreaterThan(0);
  const { reads, changes } = storage;
  await disk.close();
  return { reads, changes };
}

it(
  'snapshots are not looked at before someone asks for them',
  { timeout: 60_000 + 100 * count },
  async () => {
    const many = await imageWith(count);
    expect(await requestsFor(many)).toEqual(await requestsFor(await imageWith(1)));

    const path = temp('disk.qcow2');
    await writeFile(path, many.toBuffer());
    const disk = await open(path, { mode: 'r+' });
    expect((await disk.snapshots.list()).map(({ id }) => id)).toEqual(
      Array.from({ length: count }, (_, i) => String(i + 1)),
    );
    const view = await disk.snapshots.open('17');
    const start = Buffer.alloc(512);
    await view.read(start, 0);
    expect(start.equals(pattern(16, 512))).toBe(true);
    await view.close();
    await disk.snapshots.delete(String(count / 2));
    expect(await disk.snapshots.create({ name: 'last' })).toMatchObject({ id: String(count + 1) });
    await disk.close();
    await expectCleanByQemu(path);
    expect((await qemuInfo(path)).snapshots).toHaveLength(count);
    await qemuImg(['snapshot', '-d', `number ${count - 1}`, path]);
    await expectCleanByQemu(path);
  },
);
