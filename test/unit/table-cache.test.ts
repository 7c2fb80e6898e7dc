/** TableCache under eviction pressure, over a storage whose requests settle in any order, against plain bytes. */
import { describe, expect, it } from 'vitest';
import { hostOffset } from '../../lib/format/units.js';
import { TableCache, type Slice } from '../../lib/metadata/table-cache.js';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { pattern, Random } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const clusterSize = 512;
const tables = 40;

/** A store that has what is at some places at hand; everything by default. */
class AtHand extends MemoryStorage {
  readonly #content: Uint8Array;
  readonly #isAtHand: (position: number) => boolean;

  constructor(content: Uint8Array, isAtHand: (position: number) => boolean = () => true) {
    super(content);
    this.#content = content;
    this.#isAtHand = isAtHand;
  }

  readCached(buffer: Uint8Array, position: number): boolean {
    if (!this.#isAtHand(position)) return false;
    buffer.set(this.#content.subarray(position, position + buffer.length));
    return true;
  }
}

describe('TableCache', () => {
  it('gets a table at once where its bytes are at hand, and not otherwise', () => {
    const content = pattern(9, 4 * clusterSize);
    const storage = new MemoryStorage(content);
    const partAtHand = new AtHand(content, (position) => position === clusterSize);
    const cache = new TableCache(partAtHand, clusterSize, 4 * clusterSize, 'the table');
    expect(cache.loadNow(hostOffset(0))).toBe(false);
    expect(cache.peek(hostOffset(0))).toBeUndefined();
    expect(cache.loadNow(hostOffset(clusterSize))).toBe(true);
    const got = cache.peek(hostOffset(clusterSize))?.bytes ?? Buffer.alloc(0);
    expect(Buffer.compare(got, content.subarray(clusterSize, 2 * clusterSize))).toBe(0);
    expect(new TableCache(storage, clusterSize, 0, 'the table').loadNow(hostOffset(clusterSize))).toBe(false);
  });

  it.each([3, 4, 5, 6, 7, 16])(
    'keeps a table that it got at once until it was looked at, beside %i that are dirty',
    (dirty) => {
      const content = pattern(11, (dirty + 1) * clusterSize);
      const cache = new TableCache(new AtHand(content), clusterSize, 4 * clusterSize, 'the table');
      for (let table = 1; table <= dirty; table += 1) {
        cache.insertTable(hostOffset(table * clusterSize), pattern(table, clusterSize));
      }
      expect(cache.loadNow(hostOffset(0))).toBe(true);
      const got = cache.peek(hostOffset(0))?.bytes ?? Buffer.alloc(0);
      expect(Buffer.compare(got, content.subarray(0, clusterSize))).toBe(0);
    },
  );

  it.each([1, 2, 3, 4])('loses no change and invents none (seed %i)', async (seed) => {
    const random = new Random(seed);
    const model = pattern(seed, tables * clusterSize);
    const storage = await RecordingStorage.over(new MemoryStorage(model), {
      shuffle: new Random(seed + 100),
    });
    const cache = new TableCache(storage, clusterSize, 4 * clusterSize, 'the table');
    const offsetOf = (): ReturnType<typeof hostOffset> => hostOffset(random.below(tables) * clusterSize);
    const change = (slice: Slice): void => {
      const at = random.below(clusterSize - 8);
      const bytes = pattern(random.next(), 8);
      slice.bytes.set(bytes, at);
      model.set(bytes, slice.offset + at);
      cache.markDirty(slice, at, at + 8);
    };
    const commit = async (fails: boolean): Promise<void> => {
      const pieces = cache.takeDirty();
      if (fails) {
        cache.putBack(pieces);
        return;
      }
      await Promise.all(pieces.map(({ bytes, position }) => storage.write(bytes, position)));
      cache.written(pieces);
    };
    const work = async (): Promise<void> => {
      for (let i = 0; i < 80; i += 1) {
        const offset = offsetOf();
        await cache.use(offset, (slice) => {
          expect(slice.offset).toBe(offset);
          const expected = model.subarray(offset, offset + clusterSize);
          expect(Buffer.compare(slice.bytes, expected)).toBe(0);
          if (random.chance(0.4)) change(slice);
        });
      }
    };
    const commits = async (): Promise<void> => {
      for (let i = 0; i < 30; i += 1) {
        await commit(random.chance(0.2));
        if (random.chance(0.2)) cache.forgetClean();
        await storage.read(Buffer.alloc(1), 0);
      }
    };
    await Promise.all([work(), work(), work(), commits()]);
    await commit(false);
    expect(cache.hasDirty).toBe(false);
    const stored = Buffer.alloc(model.length);
    await storage.read(stored, 0);
    expect(stored.equals(model)).toBe(true);
  });

  it('reads a slice once for all who wait for it, and again after it was evicted', async () => {
    const storage = await RecordingStorage.over(new MemoryStorage(pattern(1, tables * clusterSize)));
    const cache = new TableCache(storage, clusterSize, 4 * clusterSize, 'the table');
    await Promise.all(Array.from({ length: 10 }, () => cache.use(hostOffset(0), () => undefined)));
    expect(storage.reads).toBe(1);
    for (let table = 1; table < tables; table += 1)
      await cache.use(hostOffset(table * clusterSize), () => undefined);
    expect(storage.reads).toBe(tables);
    expect(cache.peek(hostOffset(0))).toBeUndefined();
    await cache.use(hostOffset(0), () => undefined);
    expect(storage.reads).toBe(tables + 1);
  });

  it('keeps dirty slices beyond its budget, and clean ones within it', async () => {
    const storage = new MemoryStorage(Buffer.alloc(tables * clusterSize));
    const cache = new TableCache(storage, clusterSize, 4 * clusterSize, 'the table');
    for (let table = 0; table < tables; table += 1)
      await cache.use(hostOffset(table * clusterSize), (slice) => cache.markDirty(slice, 0, 1));
    expect(cache.dirtyBytes).toBe(tables * clusterSize);
    cache.written(cache.takeDirty());
    const cached = Array.from({ length: tables }, (_, table) => cache.peek(hostOffset(table * clusterSize)));
    expect(cached.filter((slice) => slice !== undefined).length).toBeLessThanOrEqual(4);
  });

  it('prefers a new table to what a read under way brings, and forgets a dropped one', async () => {
    const storage = await RecordingStorage.over(new MemoryStorage(Buffer.alloc(clusterSize, 1)), {
      shuffle: new Random(3),
    });
    const cache = new TableCache(storage, clusterSize, 4 * clusterSize, 'the table');
    const reading = cache.use(hostOffset(0), ({ bytes }) => bytes[0]);
    cache.insertTable(hostOffset(0), Buffer.alloc(clusterSize, 2));
    expect(await reading).toBe(2);
    cache.forgetTable(hostOffset(0), clusterSize);
    expect(cache.hasDirty).toBe(false);
    expect(await cache.use(hostOffset(0), ({ bytes }) => bytes[0])).toBe(1);
  });

  it('passes a failed read on to all who wait, and tries again for the next', async () => {
    const inner = new MemoryStorage(Buffer.alloc(clusterSize, 5));
    const storage = await RecordingStorage.over(inner, { fault: { of: 'reads', nth: 0, code: 'EIO' } });
    const cache = new TableCache(storage, clusterSize, 4 * clusterSize, 'the table');
    const both = [cache.use(hostOffset(0), () => 1), cache.use(hostOffset(0), () => 2)];
    for (const result of await Promise.allSettled(both))
      expect(result).toMatchObject({ reason: { code: 'EIO' } });
    expect(await cache.use(hostOffset(0), ({ bytes }) => bytes[0])).toBe(5);
  });
});
