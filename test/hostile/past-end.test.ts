/**
 * Entries that point past the end of the file, while jobs put new tables there: what was unreadable before does not turn
 * into data, neither into what happens to be written at that place nor into zeros.
 */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, Qcow2Error, type Qcow2 } from '../../lib/index.js';
import { RecordingStorage } from '../support/recording-storage.js';
import { copied, refcountTableCluster, type ImageBuilder } from './builder.js';
import { guest, standard } from './standard.js';

/** How many clusters past the end the entry points. */
const distances = [0, 1, 2, 3, 7];

type Job = (disk: Qcow2) => Promise<unknown>;

/** Jobs that look at all references, or put what they make behind all that there is. */
const thorough: Record<string, Job> = {
  'refcounts of 32 bits': (disk) => disk.amend({ refcountBits: 32 }),
  'refcounts of 64 bits': (disk) => disk.amend({ refcountBits: 64 }),
  'lazy refcounts': (disk) => disk.amend({ lazyRefcounts: true }),
  'rebuilding the refcounts': (disk) => disk.rebuildRefcounts(),
  'a repair of leaks': (disk) => disk.check({ repair: 'leaks' }),
  'a repair of all': (disk) => disk.check({ repair: 'all' }),
  'a compaction': (disk) => disk.compact(),
  'a snapshot': (disk) => disk.snapshots.create({ name: 'one' }),
};

/** What takes free clusters and knows of others only by their refcounts, as a guest's write does. */
const allocating: Record<string, Job> = {
  'a bitmap': (disk) => disk.bitmaps.create({ name: 'one' }),
  'a far larger disk': (disk) => disk.resize(2 ** 40),
  'a preallocated disk': (disk) => disk.resize(disk.size + 2 ** 20, { preallocation: 'metadata' }),
  'a write': (disk) => disk.write(Buffer.alloc(2 ** 16, 1), disk.size - 2 ** 16),
  'a compressed write': (disk) => disk.write(Buffer.alloc(4096, 1), 2 ** 16, { compress: true }),
};

describe.each(Object.entries(thorough))('%s', (_, job) => {
  it.each(distances)('leaves an entry %i clusters past the end unreadable', async (distance) => {
    await staysBroken(standard(), distance, true, job);
    await staysBroken(standard(), distance, false, job);
  });
});

describe.each(Object.entries(allocating))('%s', (_, job) => {
  it.each(distances)('leaves a counted cluster %i past the end unreadable', async (distance) => {
    await staysBroken(standard(), distance, true, job);
  });
});

describe('a file that was cut', () => {
  it('is not made longer: no write, and what is missing stays missing', async () => {
    const whole = new MemoryStorage();
    const disk = await create(whole, 2 ** 20, { clusterSize: 4096 });
    const data = Buffer.alloc(2 ** 19, 'content ');
    await disk.write(data, 0);
    await disk.close();
    const bytes = whole.toBuffer();
    const cut = new MemoryStorage(bytes.subarray(0, bytes.length - 2 ** 18));
    const before = cut.toBuffer();
    const again = await open(cut, { mode: 'r+' });
    await expect(again.write(data, 2 ** 19)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    await expect(again.write(data, 2 ** 19)).rejects.toThrow(/may have been cut/);
    await again.close();
    expect(cut.toBuffer().equals(before)).toBe(true);
    const reader = await open(cut);
    const got = Buffer.alloc(2 ** 17);
    await reader.read(got, 0);
    expect(got.equals(data.subarray(0, got.length))).toBe(true);
    await expect(reader.read(got, data.length - got.length)).rejects.toMatchObject({
      code: 'ERR_QCOW2_CORRUPT',
    });
    await reader.close();
  });

  it('is told from one in which a crash left clusters counted that were never written', async () => {
    const image = standard();
    image.refcount(image.clusters + 2, 1);
    const storage = new MemoryStorage(image.bytes);
    const disk = await open(storage, { mode: 'r+' });
    const data = Buffer.alloc(5 * image.clusterSize, 7);
    const start = (guest.lastData + 1) * image.clusterSize;
    await disk.write(data, start);
    const got = Buffer.alloc(data.length);
    await disk.read(got, start);
    expect(got.equals(data)).toBe(true);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 1 });
    await disk.close();
  });
});

describe('a refcount table that is full of blocks for what is past the end', () => {
  const far = 1024;
  const entries = 512;

  it('costs the first write, and shrinking, nothing where they lie in a hole of the file', async () => {
    const storage = await RecordingStorage.over(await fullOfBlocks((index) => far + index));
    const disk = await open(storage, { mode: 'r+' });
    const data = Buffer.alloc(4096, 7);
    const start = (guest.lastData + 1) * data.length;
    await disk.write(data, start);
    const got = Buffer.alloc(data.length);
    await disk.read(got, start);
    expect(got.equals(data)).toBe(true);
    await disk.resize(start + data.length, { shrink: true });
    expect(storage.reads).toBeLessThan(entries / 10);
    await disk.close();
  });

  it('is refused where they are all one block', async () => {
    const storage = await RecordingStorage.over(await fullOfBlocks(() => far));
    const disk = await open(storage, { mode: 'r+' });
    await expect(disk.write(Buffer.alloc(4096, 7), (guest.lastData + 1) * 4096)).rejects.toMatchObject({
      code: 'ERR_QCOW2_CORRUPT',
    });
    expect(storage.reads).toBeLessThan(entries / 10);
    await disk.close();
  });

  it('is noticed where the last of them counts something', async () => {
    const image = standard();
    const counted = (entries - 1) * (image.clusterSize / 2);
    image.u64(image.l2At(guest.unallocated), copied | BigInt(image.offsetOf(counted)));
    const memory = await fullOfBlocks((index) => far + index, image);
    await memory.write(Buffer.of(0, 1), image.offsetOf(far + entries - 1));
    const disk = await open(memory, { mode: 'r+' });
    await expect(disk.write(Buffer.alloc(4096, 7), (guest.lastData + 1) * 4096)).rejects.toThrow(
      /may have been cut/,
    );
    await disk.close();
  });

  async function fullOfBlocks(
    clusterOf: (index: number) => number,
    image = standard(),
  ): Promise<MemoryStorage> {
    for (let index = 1; index < entries; index += 1) {
      image.u64(image.offsetOf(refcountTableCluster) + 8 * index, image.offsetOf(clusterOf(index)));
    }
    const storage = new MemoryStorage(image.bytes);
    await storage.truncate((far + entries) * image.clusterSize);
    return storage;
  }
});

async function staysBroken(image: ImageBuilder, distance: number, counted: boolean, job: Job): Promise<void> {
  const cluster = image.clusters + distance;
  image.u64(image.l2At(guest.unallocated), copied | BigInt(image.offsetOf(cluster)));
  if (counted) image.refcount(cluster, 1);
  const storage = new MemoryStorage(image.bytes);
  expect(await readCode(storage)).toBe('ERR_QCOW2_CORRUPT');
  const disk = await open(storage, { mode: 'r+' });
  await job(disk).catch((error: unknown) => expect(error).toBeInstanceOf(Qcow2Error));
  await disk.close();
  expect(await readCode(storage)).toBe('ERR_QCOW2_CORRUPT');
}

/** The code with which the damaged cluster cannot be read, or null. */
async function readCode(storage: MemoryStorage): Promise<string | null> {
  const disk = await open(storage);
  const { clusterSize } = disk.header.geometry;
  try {
    await disk.read(Buffer.alloc(clusterSize), guest.unallocated * clusterSize);
    return null;
  } catch (error) {
    expect(error).toBeInstanceOf(Qcow2Error);
    return (error as Qcow2Error).code;
  } finally {
    await disk.close();
  }
}
