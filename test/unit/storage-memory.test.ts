import { describe, expect, it } from 'vitest';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { Random, pattern } from '../support/pattern.js';

const page = 64 * 1024;
const pebibyte = 2 ** 50;

async function readAll(storage: MemoryStorage, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length, 0xee);
  const got = await storage.read(buffer, position);
  return buffer.subarray(0, got);
}

describe('MemoryStorage', () => {
  it('starts with a copy of the bytes it is given', async () => {
    const initial = pattern(1, 100);
    const storage = new MemoryStorage(initial);
    const expected = Buffer.from(initial);
    initial.fill(0);
    expect(await storage.size()).toBe(100);
    expect(await readAll(storage, 0, 100)).toEqual(expected);
  });

  it('reads fewer bytes at the end and none past it', async () => {
    const storage = new MemoryStorage(pattern(1, 100));
    expect(await readAll(storage, 90, 50)).toEqual(pattern(1, 100).subarray(90));
    expect(await readAll(storage, 100, 50)).toHaveLength(0);
    expect(await readAll(storage, pebibyte, 50)).toHaveLength(0);
  });

  it('does the same as a plain buffer under random operations', async () => {
    const limit = 5 * page;
    for (let seed = 1; seed <= 20; seed += 1) {
      const random = new Random(seed);
      const storage = new MemoryStorage();
      const model = Buffer.alloc(limit);
      let size = 0;
      for (let step = 0; step < 60; step += 1) {
        const position = random.below(limit);
        const length = random.below(Math.min(limit - position, random.pick([600, 2 * page])) + 1);
        const kind = random.below(5);
        if (kind <= 1) {
          const data = pattern(seed * 1000 + step, length);
          await storage.write(data, position);
          data.copy(model, position);
          size = Math.max(size, position + length);
        } else if (kind === 2) {
          expect(await storage.punch(position, length)).toBe(true);
          model.fill(0, position, position + length);
        } else if (kind === 3) {
          expect(await storage.allocate(position, length)).toBe(true);
          size = Math.max(size, position + length);
        } else {
          await storage.truncate(position);
          model.fill(0, position);
          size = position;
        }
        expect(await storage.size()).toBe(size);
        const expected = model.subarray(Math.min(position, size), Math.min(position + length, size));
        expect((await readAll(storage, position, length)).equals(expected)).toBe(true);
      }
      expect(storage.toBuffer().equals(model.subarray(0, size))).toBe(true);
      await expectHolesRight(storage, model.subarray(0, size));
    }
  });

  it('takes positions near a pebibyte without the memory for them', async () => {
    const storage = new MemoryStorage();
    await storage.write(pattern(3, 5000), pebibyte - 1000);
    await storage.write(pattern(4, 10), 7);
    expect(await storage.size()).toBe(pebibyte + 4000);
    expect(await storage.allocatedSize()).toBe(3 * page);
    expect(await readAll(storage, pebibyte - 1000, 5000)).toEqual(pattern(3, 5000));
    expect(await storage.nextHole(0)).toBe(page);
    expect(await storage.nextData(page)).toBe(pebibyte - page);
    expect(await storage.nextHole(pebibyte - page)).toBe(pebibyte + 4000);
    expect(await storage.nextData(pebibyte + 4000)).toBeNull();
    expect(await storage.punch(10, pebibyte)).toBe(true);
    expect(await storage.allocatedSize()).toBe(2 * page);
    await storage.truncate(0);
    expect(await storage.allocatedSize()).toBe(0);
  });

  it('reads zeros where it was cut and grown again', async () => {
    const storage = new MemoryStorage(pattern(5, 3 * page));
    await storage.truncate(page + 10);
    await storage.truncate(3 * page);
    const expected = Buffer.concat([pattern(5, page + 10), Buffer.alloc(2 * page - 10)]);
    expect(storage.toBuffer().equals(expected)).toBe(true);
  });

  it('refuses positions that are no byte positions, and ends past 2^53', async () => {
    const storage = new MemoryStorage();
    for (const position of [-1, 1.5, NaN, 2 ** 53]) {
      await expect(storage.read(Buffer.alloc(1), position)).rejects.toMatchObject({
        code: 'ERR_OUT_OF_RANGE',
      });
      await expect(storage.write(Buffer.alloc(1), position)).rejects.toMatchObject({
        code: 'ERR_OUT_OF_RANGE',
      });
    }
    const last = Number.MAX_SAFE_INTEGER;
    await expect(storage.write(Buffer.alloc(1), last)).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' });
    expect(await storage.size()).toBe(0);
  });

  it('rejects operations after close, keeps its content, and can be closed twice', async () => {
    const storage = new MemoryStorage(pattern(6, 10));
    await storage.close();
    await storage.close();
    await expect(storage.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await expect(storage.write(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await expect(storage.flush()).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    expect(storage.toBuffer()).toEqual(pattern(6, 10));
  });

  it('clones into a store of its own', async () => {
    const storage = new MemoryStorage(pattern(7, 100));
    await storage.truncate(pebibyte);
    const copy = storage.clone();
    await storage.write(pattern(8, 100), 0);
    expect(await readAll(copy, 0, 100)).toEqual(pattern(7, 100));
    expect(await copy.size()).toBe(pebibyte);
    expect(copy.identity).not.toBe(storage.identity);
  });
});

/** What nextData and nextHole call a hole must be zeros, and their runs must cover the store. */
async function expectHolesRight(storage: MemoryStorage, content: Buffer): Promise<void> {
  let position = 0;
  while (position < content.length) {
    const data = (await storage.nextData(position)) ?? content.length;
    expect(content.subarray(position, data).every((byte) => byte === 0)).toBe(true);
    if (data === content.length) break;
    const hole = await storage.nextHole(data);
    expect(hole).toBeGreaterThan(data);
    position = hole;
  }
}
