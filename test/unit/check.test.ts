/** What a check promises beside its counts: findings to read, bounds, progress, and the state in memory. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import type { CreateOptions, Progress } from '../../lib/index.js';
import { encodeSnapshotTable, parseSnapshotTable } from '../../lib/format/snapshot-table.js';
import { hostOffset } from '../../lib/format/units.js';
import { RecordingStorage } from '../support/recording-storage.js';

const cluster = 65536;

async function image(clusters: number, options: CreateOptions = {}): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  const disk = await create(storage, 64 * 1024 * 1024, options);
  await disk.write(Buffer.alloc(clusters * cluster, 0x5a), 0);
  await disk.close();
  return storage;
}

async function pointer(storage: MemoryStorage, position: number): Promise<number> {
  const field = Buffer.alloc(8);
  await storage.read(field, position);
  return Number(field.readBigUInt64BE() & 0x00ff_ffff_ffff_fe00n);
}

/** Host offset of the first refcount block, and of the first L2 table. */
const blockOf = async (storage: MemoryStorage): Promise<number> =>
  pointer(storage, await pointer(storage, 48));
const l2Of = async (storage: MemoryStorage): Promise<number> => pointer(storage, await pointer(storage, 40));

describe('findings', () => {
  it('tell what is wrong, where, what was found and what should be there', async () => {
    const storage = await image(4);
    const data = await pointer(storage, await l2Of(storage));
    await storage.write(Buffer.from([0, 3]), (await blockOf(storage)) + (2 * data) / cluster);
    const disk = await open(storage);
    const { findings } = await disk.check();
    expect(findings).toMatchObject([
      {
        kind: 'refcount-too-high',
        severity: 'leak',
        where: `host cluster ${data / cluster}`,
        offset: data,
        expected: 1,
        found: 3,
      },
      { kind: 'copied-flag', severity: 'corruption', expected: 'clear', found: 'set' },
    ]);
    expect(findings[0]?.message).toContain(`0x${data.toString(16)}`);
    await disk.close();
  });

  it('are bounded, while the counts are complete', async () => {
    const storage = await image(200);
    await storage.write(Buffer.alloc(2 * 200, 1), (await blockOf(storage)) + 2 * 10);
    const disk = await open(storage);
    const all = await disk.check();
    expect(all.leaks).toBeGreaterThan(150);
    expect(all.findings.length).toBe(all.leaks + all.corruptions);
    const few = await disk.check({ maxFindings: 7 });
    expect(few.findings).toEqual(all.findings.slice(0, 7));
    expect(few).toEqual({ ...all, findings: few.findings });
    await disk.close();
  });

  it('say after a repair which of them were put right', async () => {
    const storage = await image(4);
    const l2 = await l2Of(storage);
    // The first cluster is lost, the second is where no file goes.
    await storage.write(Buffer.from('0000000000000000800000ffffff0000', 'hex'), l2);
    const disk = await open(storage, { mode: 'r+' });
    const report = await disk.check({ repair: 'all' });
    await disk.close();
    expect(report).toMatchObject({ leaks: 0, leaksFixed: 2, corruptions: 1, corruptionsFixed: 1 });
    const fates = report.findings.map(({ kind, fixed }) => [kind, fixed ?? false]);
    expect(fates).toContainEqual(['refcount-too-high', true]);
    expect(fates).toContainEqual(['copied-flag', true]);
    expect(fates).toContainEqual(['entry-out-of-file', false]);
  });
});

describe('what cannot be read', () => {
  it('is reported, and keeps a repair from giving clusters free', async () => {
    const storage = await image(4);
    const l2 = await l2Of(storage);
    const broken = unreadableAt(storage, l2);
    const disk = await open(broken, { mode: 'r+' });
    const report = await disk.check({ repair: 'all' });
    await disk.close();
    expect(report.checkErrors).toBe(1);
    expect(report.leaksFixed).toBe(0);
    expect(report.findings).toContainEqual(
      expect.objectContaining({ kind: 'io-error', severity: 'error', offset: l2 }),
    );
    const healed = await open(storage);
    expect(await healed.check()).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
    await healed.close();
  });

  it('keeps refcounts from being rebuilt', async () => {
    const storage = await image(4);
    const disk = await open(unreadableAt(storage, await l2Of(storage)), { mode: 'r+' });
    await expect(disk.rebuildRefcounts()).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    await disk.close();
  });
});

describe('a check of an open image', () => {
  it('sees what was written and not flushed', async () => {
    const disk = await create(new MemoryStorage(), 64 * 1024 * 1024);
    await disk.write(Buffer.alloc(10 * cluster, 1), 0);
    await disk.write(Buffer.alloc(cluster, 1), 20 * cluster, { compress: true });
    expect(await disk.check()).toMatchObject({
      leaks: 0,
      corruptions: 0,
      allocatedClusters: 11,
      compressedClusters: 1,
    });
    await disk.close();
  });

  it('goes well with writes, discards, new bitmaps and repairs under way', async () => {
    const disk = await create(new MemoryStorage(), 64 * 1024 * 1024);
    const work: Promise<unknown>[] = [];
    for (let i = 0; i < 60; i += 1) {
      work.push(disk.write(Buffer.alloc(3 * cluster, i + 1), ((i * 7) % 50) * cluster));
      if (i % 5 === 0) work.push(disk.discard(((i * 3) % 50) * cluster, 2 * cluster));
      if (i % 10 === 0) work.push(disk.bitmaps.create({ name: `bitmap ${i}`, granularity: 512 }));
      if (i % 20 === 0) {
        work.push(disk.check().then((report) => expect(report).toMatchObject({ leaks: 0, corruptions: 0 })));
        work.push(disk.check({ repair: 'all' }).then((report) => expect(report.corruptionsFixed).toBe(0)));
      }
    }
    await Promise.all(work);
    expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
    await disk.close();
  });

  it('changes nothing in the file of a read-only one', async () => {
    const recording = await RecordingStorage.over(await image(4));
    const disk = await open(recording);
    await disk.check();
    await expect(disk.check({ repair: 'leaks' })).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await expect(disk.rebuildRefcounts()).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await disk.close();
    expect(recording.changes).toBe(0);
  });

  it('tells how far it is, to the end', async () => {
    const disk = await open(await image(4));
    const steps: Progress[] = [];
    await disk.check({ onProgress: (progress) => steps.push({ ...progress }) });
    await disk.close();
    expect(steps.length).toBeGreaterThan(1);
    for (const { done, total } of steps) expect(done).toBeLessThanOrEqual(total);
    expect(steps.at(-1)?.done).toBe(steps.at(-1)?.total);
  });

  it('stops when its signal is aborted', async () => {
    const disk = await open(await image(4));
    const reason = new Error('enough');
    await expect(disk.check({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await disk.close();
  });

  it('refuses to take more memory than it may', async () => {
    const disk = await open(await image(4));
    await expect(disk.check({ memoryLimit: 1000 })).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT' });
    await disk.close();
  });

  it('refuses repairs it does not know', async () => {
    const disk = await open(await image(4), { mode: 'r+' });
    await expect(disk.check({ repair: 'some' as 'all' })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_VALUE',
    });
    await disk.close();
  });
});

describe('an image opened for repair', () => {
  it('takes no guest writes while its refcounts may be wrong', async () => {
    const dirty = await image(4);
    await dirty.write(Buffer.from([1]), 79);
    const headless = await image(4);
    await headless.write(Buffer.alloc(4), 56);
    for (const storage of [dirty, headless]) {
      const disk = await open(storage, { mode: 'r+', forRepair: true });
      await expect(disk.write(Buffer.alloc(cluster), 9 * cluster)).rejects.toMatchObject({
        code: 'ERR_QCOW2_CORRUPT',
        feature: 'refcounts',
      });
      await disk.check({ repair: 'all' });
      await disk.write(Buffer.alloc(cluster, 1), 9 * cluster);
      expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0, allocatedClusters: 5 });
      await disk.close();
    }
  });
});

describe('the corrupt bit', () => {
  it('is cleared by a repair that leaves nothing wrong', async () => {
    const storage = await image(4);
    await storage.write(Buffer.from([2]), 79);
    await expect(open(storage, { mode: 'r+' })).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    const disk = await open(storage, { mode: 'r+', forRepair: true });
    await expect(disk.write(Buffer.alloc(512), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    await disk.check({ repair: 'all' });
    await disk.close();
    await (await open(storage, { mode: 'r+' })).close();
  });

  it('stays while something is wrong', async () => {
    const storage = await image(4);
    await storage.write(Buffer.from([2]), 79);
    await storage.write(Buffer.from('800000ffffff0000', 'hex'), await l2Of(storage));
    const disk = await open(storage, { mode: 'r+', forRepair: true });
    expect((await disk.check({ repair: 'all' })).corruptions).toBeGreaterThan(0);
    await disk.close();
    await expect(open(storage, { mode: 'r+' })).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
  });
});

/** The same image on a medium that fails to read one cluster. */
function unreadableAt(storage: MemoryStorage, offset: number): MemoryStorage {
  return new Proxy(storage, {
    get(target, name) {
      if (name === 'read') {
        return async (buffer: Uint8Array, position: number): Promise<number> => {
          if (position < offset + cluster && position + buffer.length > offset) {
            throw Object.assign(new Error('EIO: injected by the test, read'), {
              code: 'EIO',
              syscall: 'read',
            });
          }
          return target.read(buffer, position);
        };
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value;
    },
  });
}

describe('snapshots and bitmaps', () => {
  /** Content that tells of every read. */
  class WatchedStorage extends MemoryStorage {
    onRead: (position: number) => void = () => undefined;

    override read(buffer: Uint8Array, position: number): Promise<number> {
      this.onRead(position);
      return super.read(buffer, position);
    }
  }

  async function watched(change: (storage: MemoryStorage) => Promise<void>): Promise<WatchedStorage> {
    const storage = await image(4);
    await change(storage);
    const bytes = Buffer.alloc(await storage.size());
    await storage.read(bytes, 0);
    return new WatchedStorage(bytes);
  }

  /** An image with three snapshots, and where their L1 tables are. */
  async function withSnapshots(shared: boolean): Promise<{ storage: WatchedStorage; l1: number[] }> {
    let l1: number[] = [];
    const storage = await watched(async (memory) => {
      const disk = await open(memory, { mode: 'r+' });
      for (const name of ['a', 'b', 'c']) await disk.snapshots.create({ name });
      await disk.close();
      const at = hostOffset(await pointer(memory, 64));
      const bytes = Buffer.alloc(4096);
      await memory.read(bytes, at);
      const entries = parseSnapshotTable(bytes, 3, at, bytes.length)?.entries ?? [];
      l1 = entries.map(({ l1TableOffset }) => l1TableOffset);
      const first = hostOffset(l1[0] ?? 0);
      if (shared) {
        await memory.write(encodeSnapshotTable(entries.map((e) => ({ ...e, l1TableOffset: first }))), at);
      }
    });
    return { storage, l1 };
  }

  it('that share an L1 table have it read once and counted as often as there are snapshots', async () => {
    const { storage, l1 } = await withSnapshots(true);
    const reads: number[] = [];
    storage.onRead = (position) => void reads.push(position);
    const disk = await open(storage);
    reads.length = 0;
    const report = await disk.check();
    await disk.close();
    expect(reads.filter((position) => l1.includes(position))).toEqual([l1[0]]);
    const counts = report.findings.filter(({ kind }) => kind.startsWith('refcount'));
    const unused = l1.slice(1).sort((a, b) => a - b);
    expect(counts.map(({ offset, expected, found }) => [offset, expected, found])).toEqual([
      [l1[0], 3, 1],
      ...unused.map((offset) => [offset, 0, 1]),
    ]);
  });

  it('are not read on once the signal is aborted', async () => {
    const tables: number[] = [];
    const { storage: snapshots, l1 } = await withSnapshots(false);
    const bitmaps = await watched(async (memory) => {
      const disk = await open(memory, { mode: 'r+' });
      for (const name of ['a', 'b', 'c']) await disk.bitmaps.create({ name });
      const directory = disk.header.bitmaps?.directoryOffset ?? 0;
      await disk.close();
      // Each entry takes 24 bytes, and 8 for its name.
      for (const i of [0, 1, 2]) tables.push(await pointer(memory, directory + i * 32));
    });
    for (const [storage, places] of [
      [snapshots, l1],
      [bitmaps, tables],
    ] as const) {
      expect(new Set(places).size).toBe(3);
      const disk = await open(storage);
      const stop = new AbortController();
      let reads = 0;
      storage.onRead = (position) => {
        if (!places.includes(position)) return;
        reads++;
        stop.abort(new Error('enough'));
      };
      await expect(disk.check({ signal: stop.signal })).rejects.toThrow('enough');
      expect(reads).toBe(1);
      await disk.close();
    }
  });
});

describe('an L1 table whose entries all name one L2 table', () => {
  const entries = 2 ** 18;

  /** The COPIED flag of each entry is wrong: it is clear, and the refcount of the table is 1. */
  async function shared(): Promise<MemoryStorage> {
    const storage = new MemoryStorage();
    const disk = await create(storage, entries * 512 * 2 ** 20);
    await disk.write(Buffer.alloc(512, 1), 0);
    const { l1TableOffset, l1Size } = disk.header;
    await disk.close();
    const first = Buffer.alloc(8);
    await storage.read(first, l1TableOffset);
    first.writeUInt8(0);
    await storage.write(Buffer.alloc(l1Size * 8, first), l1TableOffset);
    return storage;
  }

  it('is counted in full, and can be stopped while that goes on', async () => {
    const disk = await open(await shared());
    const { corruptions, findings } = await disk.check({ maxFindings: 10 });
    expect(corruptions).toBeGreaterThan(entries);
    expect(findings).toHaveLength(10);
    const reason = new Error('enough');
    const controller = new AbortController();
    let found = 0;
    const stopping = disk.check({
      signal: controller.signal,
      onFinding: () => {
        if (found === 0) setImmediate(() => controller.abort(reason));
        found += 1;
      },
    });
    await expect(stopping).rejects.toBe(reason);
    expect(found).toBeLessThan(entries);
    await disk.close();
  });
});
