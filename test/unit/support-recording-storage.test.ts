import { describe, expect, it } from 'vitest';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { Random, pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';
import type { RecordingOptions } from '../support/recording-storage.js';

async function over(inner: MemoryStorage, options: RecordingOptions = {}): Promise<RecordingStorage> {
  return RecordingStorage.over(inner, options);
}

describe('RecordingStorage', () => {
  it('passes everything on, and logs each change with its own copy of the bytes', async () => {
    const inner = new MemoryStorage(pattern(1, 100));
    const storage = await over(inner);
    const data = pattern(2, 10);
    await storage.write(data, 5);
    data.fill(0);
    await storage.writev([pattern(3, 4), pattern(4, 4)], 50);
    await storage.truncate(90);
    expect(await storage.punch(80, 5)).toBe(true);
    await storage.flush();
    expect(storage.log.initial.toBuffer()).toEqual(pattern(1, 100));
    expect(storage.log.entries.map(({ change, ok }) => ({ change, ok }))).toEqual([
      { change: { kind: 'write', position: 5, data: pattern(2, 10) }, ok: true },
      {
        change: { kind: 'write', position: 50, data: Buffer.concat([pattern(3, 4), pattern(4, 4)]) },
        ok: true,
      },
      { change: { kind: 'truncate', size: 90 }, ok: true },
      { change: { kind: 'punch', position: 80, length: 5 }, ok: true },
      { change: { kind: 'flush' }, ok: true },
    ]);
    const expected = pattern(1, 90);
    pattern(2, 10).copy(expected, 5);
    pattern(3, 4).copy(expected, 50);
    pattern(4, 4).copy(expected, 54);
    expected.fill(0, 80, 85);
    expect(inner.toBuffer()).toEqual(expected);
    const read = Buffer.alloc(90);
    expect(await storage.read(read, 0)).toBe(90);
    expect(read).toEqual(expected);
    expect([storage.changes, storage.reads, storage.flushes]).toEqual([5, 1, 1]);
    expect(storage.violations).toEqual([]);
  });

  it('fails the operation it is told to, and that one only', async () => {
    for (let nth = 0; nth < 4; nth += 1) {
      const storage = await over(new MemoryStorage(), { fault: { nth, of: 'changes', code: 'ENOSPC' } });
      const outcomes = [];
      for (let i = 0; i < 4; i += 1) {
        outcomes.push(
          await storage.write(pattern(i, 1), i).then(
            () => 'ok',
            (e: unknown) => e,
          ),
        );
      }
      expect(outcomes.filter((outcome) => outcome !== 'ok')).toEqual([outcomes[nth]]);
      expect(outcomes[nth]).toMatchObject({ code: 'ENOSPC', syscall: 'write' });
    }
  });

  it('fails a read, or everything from an operation on', async () => {
    const reads = await over(new MemoryStorage(pattern(1, 9)), {
      fault: { nth: 1, of: 'reads', code: 'EIO' },
    });
    await reads.read(Buffer.alloc(1), 0);
    await expect(reads.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'EIO' });
    await reads.read(Buffer.alloc(1), 0);
    const dead = await over(new MemoryStorage(), {
      fault: { nth: 1, of: 'changes', code: 'EIO', goesOn: true },
    });
    await dead.write(pattern(1, 1), 0);
    await expect(dead.write(pattern(1, 1), 0)).rejects.toMatchObject({ code: 'EIO' });
    await expect(dead.truncate(0)).rejects.toMatchObject({ code: 'EIO' });
  });

  it('stores the beginning of a write that fails short', async () => {
    const inner = new MemoryStorage(new Uint8Array(20));
    const storage = await over(inner, { fault: { nth: 0, of: 'changes', code: 'ENOSPC', written: 3 } });
    await expect(storage.write(pattern(1, 10), 5)).rejects.toMatchObject({ code: 'ENOSPC' });
    const expected = Buffer.alloc(20);
    pattern(1, 3).copy(expected, 5);
    expect(inner.toBuffer()).toEqual(expected);
  });

  it('never flushes again after a flush has failed', async () => {
    const storage = await over(new MemoryStorage(), { fault: { nth: 0, of: 'changes', code: 'EIO' } });
    await expect(storage.flush()).rejects.toMatchObject({ code: 'EIO', syscall: 'flush' });
    await expect(storage.flush()).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
  });

  it('notices changes that overlap, and bytes altered too early', async () => {
    const apart = await over(new MemoryStorage());
    await Promise.all([apart.write(pattern(1, 10), 0), apart.write(pattern(1, 10), 10)]);
    expect(apart.violations).toEqual([]);
    const overlapping = await over(new MemoryStorage());
    await Promise.all([overlapping.write(pattern(1, 10), 0), overlapping.punch(9, 1)]);
    expect(overlapping.violations).toEqual(['punch of [9, 10) begins while write of [0, 10) is under way']);
    const hasty = await over(new MemoryStorage());
    const data = pattern(1, 10);
    const written = hasty.write(data, 0);
    data.fill(0);
    await written;
    expect(hasty.violations).toHaveLength(1);
  });

  it('lets operations settle in another order when shuffled', async () => {
    const orders = new Set<string>();
    for (let seed = 0; seed < 20; seed += 1) {
      const storage = await over(new MemoryStorage(), { shuffle: new Random(seed) });
      const order: number[] = [];
      const write = async (i: number): Promise<void> => {
        await storage.write(pattern(i, 10), 10 * i);
        order.push(i);
      };
      await Promise.all([write(0), write(1), write(2)]);
      orders.add(order.join());
    }
    expect(orders.size).toBeGreaterThan(3);
  });
});
