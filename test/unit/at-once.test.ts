/**
 * Small requests on stores that answer at once, later, in part or not at all: bytes as in one plain buffer, failures where they
 * belong, and nothing looked up or asked twice.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { create, open, openTemporaryOverlay, RawDisk, type Qcow2, type Storage } from '../../lib/index.js';
import { pattern, Random } from '../support/pattern.js';

const cluster = 65536;
const size = 40 * cluster;

/** A store that has some of its bytes at hand, reads others in pieces, and fails where it is told to. */
class MoodyStorage implements Storage {
  readonly name = 'moody';
  readonly readOnly = false;
  /** Whether what is at a place is at hand. */
  hasAtHand: (position: number) => boolean = () => true;
  /** Whether reads and writes at a place fail. */
  fails: (position: number) => boolean = () => false;
  /** Bytes that one read brings at most. */
  most = Infinity;
  atHand = 0;
  later = 0;
  readonly bytes = Buffer.alloc(2 * size);
  #size = 0;

  readCached(buffer: Uint8Array, position: number): boolean {
    this.atHand += 1;
    buffer.fill(0xee);
    if (this.fails(position) || !this.hasAtHand(position)) return false;
    return this.bytes.copy(buffer, 0, position, this.#size) === buffer.length;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    this.later += 1;
    await sleep(0);
    if (this.fails(position)) throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    return this.bytes.copy(buffer.subarray(0, this.most), 0, position, this.#size);
  }

  async write(buffer: Uint8Array, position: number): Promise<void> {
    await sleep(0);
    if (this.fails(position)) throw Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' });
    this.bytes.set(buffer, position);
    this.#size = Math.max(this.#size, position + buffer.length);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  size(): Promise<number> {
    return Promise.resolve(this.#size);
  }

  truncate(bytes: number): Promise<void> {
    this.bytes.fill(0, Math.min(bytes, this.#size));
    this.#size = bytes;
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

it.each<[string, (position: number) => boolean]>([
  ['all of it', () => true],
  ['nothing', () => false],
  ['its tables only', (position) => position > 0],
  ['its header only', (position) => position === 0],
])('an image opens where %s is at hand', async (_, hasAtHand) => {
  const storage = new MoodyStorage();
  const made = await create(storage, size);
  await made.write(pattern(1, 5000), 3000);
  await made.close();
  storage.hasAtHand = hasAtHand;
  storage.later = 0;
  const disk = await open(storage);
  // Nothing is read twice: the first fields of the header, all of it, the L1 table and the refcount table.
  const waited = [0, 0, 3 * cluster, cluster].filter((position) => !hasAtHand(position)).length;
  expect(storage.later).toBe(waited);
  const found = Buffer.alloc(5000);
  await disk.read(found, 3000);
  expect(found.equals(pattern(1, 5000))).toBe(true);
  await disk.close();
});

/** A disk full of data in a store of moods, its tables in memory. */
async function filled(): Promise<{ storage: MoodyStorage; disk: Qcow2; model: Buffer }> {
  const storage = new MoodyStorage();
  const made = await create(storage, size);
  const model = pattern(1, size);
  await made.write(model, 0);
  await made.close();
  const disk = await open(storage, { mode: 'r+' });
  await disk.read(Buffer.alloc(1), 0);
  Object.assign(storage, { atHand: 0, later: 0 });
  return { storage, disk, model };
}

it.each([1, 8, 64])(
  'mixed requests, %i at a time, leave and find what a plain buffer would',
  async (depth) => {
    const { storage, disk, model } = await filled();
    storage.hasAtHand = (position) => position % 3 > 0;
    storage.most = 1000;
    const random = new Random(depth);
    // Each has a part of the disk to itself, so that the model knows what it reads.
    const share = Math.floor(size / depth);
    const one = async (index: number): Promise<void> => {
      for (let step = 0; step < 200 / depth; step += 1) {
        const length = 1 + random.below(Math.min(9000, share));
        const at = index * share + random.below(share - length + 1);
        const data = pattern(random.next(), length);
        if (random.below(2) === 0) {
          model.set(data, at);
          await disk.write(data, at);
        } else {
          await disk.read(data, at);
          expect(data.equals(model.subarray(at, at + length))).toBe(true);
        }
      }
    };
    await Promise.all(Array.from({ length: depth }, (_, index) => one(index)));
    await disk.close();
    storage.most = Infinity;
    const again = await open(storage);
    const all = Buffer.alloc(size);
    await again.read(all, 0);
    expect(all.equals(model)).toBe(true);
    await again.close();
  },
);

it('asks once for what is at hand, and looks once into the tables whether it is or not', async () => {
  const { storage, disk } = await filled();
  const { hits, misses } = disk.stats().l2Cache;
  for (const isAtHand of [true, false]) {
    storage.hasAtHand = () => isAtHand;
    for (let index = 0; index < 10; index += 1) await disk.read(Buffer.alloc(512), index * cluster);
  }
  expect(disk.stats().l2Cache).toMatchObject({ hits: hits + 20, misses });
  expect([storage.atHand, storage.later]).toEqual([20, 10]);
  expect(disk.stats().requests.read).toMatchObject({ count: 21, bytes: 1 + 20 * 512, failed: 0 });
  await disk.close();
});

it('looks once in each layer of a chain', async () => {
  const { storage, disk, model } = await filled();
  const overlay = await openTemporaryOverlay(disk);
  const { hits } = disk.stats().l2Cache;
  const part = Buffer.alloc(512);
  for (const isAtHand of [true, false]) {
    storage.hasAtHand = () => isAtHand;
    await overlay.read(part, cluster);
    expect(part.equals(model.subarray(cluster, cluster + 512))).toBe(true);
  }
  expect(disk.stats().l2Cache.hits).toBe(hits + 2);
  expect([storage.atHand, storage.later]).toEqual([2, 1]);
  await overlay.close();
});

it('lets others have a turn between many small reads, without the thread pool for any', async () => {
  const { storage, disk } = await filled();
  for (const below of [disk, new RawDisk(storage, size, false)]) {
    Object.assign(storage, { atHand: 0, later: 0 });
    let turns = 0;
    const others = setInterval(() => (turns += 1), 0);
    for (let index = 0; index < 2000; index += 1) {
      await below.read(Buffer.alloc(16), index * 16);
    }
    clearInterval(others);
    expect(turns).toBeGreaterThan(1);
    await Promise.all(Array.from({ length: 3000 }, (_, index) => below.read(Buffer.alloc(16), index * 16)));
    expect(storage.later).toBe(0);
  }
  await disk.close();
});

it('a raw disk that is closed waits for reads that wait for their turn, but for those that were aborted', async () => {
  const { storage, disk } = await filled();
  await disk.close();
  const raw = new RawDisk(storage, size, true);
  const buffers = Array.from({ length: 1000 }, () => Buffer.alloc(16));
  const controller = new AbortController();
  const reads = buffers.map((buffer, index) =>
    raw.read(buffer, index * 16, index % 2 === 0 ? {} : { signal: controller.signal }),
  );
  const settled = Promise.allSettled(reads);
  controller.abort();
  let isClosed = false;
  const close = raw.close().then(() => (isClosed = true));
  const late = reads[998]?.then(() => isClosed);
  expect(await late).toBe(false);
  await close;
  const results = await settled;
  for (const [index, buffer] of buffers.entries()) {
    const isRead = results[index]?.status === 'fulfilled';
    if (index % 2 === 0) expect(isRead).toBe(true);
    if (isRead) expect(buffer.equals(storage.bytes.subarray(index * 16, index * 16 + 16))).toBe(true);
  }
  expect(results.filter(({ status }) => status === 'rejected').length).toBeGreaterThan(100);
});

it('tells each request of its own failure, and counts it once', async () => {
  const { storage, disk, model } = await filled();
  storage.hasAtHand = (position) => position % (2 * cluster) === 0;
  const bad = new Set([3, 4, 11]);
  // The clusters lie in order; where, the content tells.
  const first = storage.bytes.indexOf(model.subarray(0, 64));
  storage.fails = (position) => bad.has(Math.floor((position - first) / cluster));
  const asked = Array.from({ length: 20 }, (_, index) => index);
  const reads = await Promise.allSettled(asked.map((i) => disk.read(Buffer.alloc(4096), i * cluster)));
  const writes = await Promise.allSettled(asked.map((i) => disk.write(pattern(i, 4096), i * cluster)));
  for (const [results, code] of [
    [reads, 'EIO'],
    [writes, 'ENOSPC'],
  ] as const) {
    for (const [index, result] of results.entries()) {
      if (bad.has(index)) expect(result).toMatchObject({ status: 'rejected', reason: { code } });
      else expect(result).toEqual({ status: 'fulfilled', value: undefined });
    }
  }
  const { read, write } = disk.stats().requests;
  expect(read).toMatchObject({ count: 21, failed: 3, bytes: 1 + 20 * 4096 });
  expect(write).toMatchObject({ count: 20, failed: 3, bytes: 20 * 4096 });
  storage.fails = () => false;
  for (const index of asked) {
    const part = Buffer.alloc(4096);
    await disk.read(part, index * cluster);
    const expected = bad.has(index)
      ? model.subarray(index * cluster, index * cluster + 4096)
      : pattern(index, 4096);
    expect(part.equals(expected)).toBe(true);
  }
  await disk.close();
});

it('refuses by rejecting: aborted, outside, not bytes, closed; and waits for what is under way when it is closed', async () => {
  const { storage, disk, model } = await filled();
  const part = Buffer.alloc(512);
  const signal = AbortSignal.abort();
  await expect(disk.read(part, 0, { signal })).rejects.toMatchObject({ name: 'AbortError' });
  await expect(disk.write(part, 0, { signal })).rejects.toMatchObject({ name: 'AbortError' });
  await expect(disk.read(part, size - 511)).rejects.toThrow(RangeError);
  await expect(disk.write(part, size - 511)).rejects.toThrow(RangeError);
  await expect(disk.read('x' as never, 0)).rejects.toThrow(TypeError);
  await expect(disk.write('x' as never, 0)).rejects.toThrow(TypeError);
  expect(disk.stats().requests).toMatchObject({
    read: { count: 3, failed: 2 },
    write: { count: 2, failed: 2 },
  });
  storage.hasAtHand = () => false;
  const read = disk.read(part, cluster);
  const write = disk.write(Buffer.alloc(512, 9), 2 * cluster);
  await disk.close();
  await Promise.all([read, write]);
  expect(part.equals(model.subarray(cluster, cluster + 512))).toBe(true);
  expect(storage.bytes.includes(Buffer.alloc(512, 9))).toBe(true);
  await expect(disk.read(part, 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
  await expect(disk.write(part, 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
});
