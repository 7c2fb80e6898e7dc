/** Bitmaps stay true while requests, bitmap jobs and snapshots are under way together. */
import { expect, it } from 'vitest';
import { create, open, type DirtyExtent } from '../../lib/index.js';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { PlainBitmap } from '../support/bitmap-oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const size = 2 ** 20;
const granularity = 4096;

it.each([1, 2, 3])('seed %i', async (seed) => {
  const random = new Random(seed);
  const memory = new MemoryStorage();
  const storage = await RecordingStorage.over(memory, { shuffle: new Random(seed) });
  const disk = await create(storage, size, { clusterSize: 512 });
  await disk.bitmaps.create({ name: 'b', granularity });
  await disk.bitmaps.create({ name: 'other', granularity: 512 });
  const model = new PlainBitmap(size, granularity);
  const written = Buffer.alloc(size);
  const slots = Array.from({ length: 64 }, (_, i) => i);
  const writing = slots.map(async (slot) => {
    // Each writes to a place of its own, so that the content is known.
    const length = random.between(1, 16) * 512;
    const data = pattern(slot, length);
    for (let turns = random.below(20); turns > 0; turns -= 1) await new Promise((go) => setImmediate(go));
    model.set(slot * 16384, length);
    data.copy(written, slot * 16384);
    await disk.write(data, slot * 16384);
  });
  const jobs = async (): Promise<void> => {
    for (let i = 0; i < 6; i += 1) {
      const kind = random.below(6);
      if (kind === 0) await disk.bitmaps.clear('other');
      else if (kind === 1) await disk.bitmaps.merge('other', ['b']);
      else if (kind === 2) await disk.bitmaps.disable('other');
      else if (kind === 3) await disk.bitmaps.enable('other');
      else if (kind === 4) await disk.snapshots.create({ name: `s${i}` });
      else await disk.flush();
    }
  };
  await Promise.all([...writing, jobs(), jobs()]);
  await disk.close();
  expect(storage.violations).toEqual([]);
  const reader = await open(memory);
  const dirty: DirtyExtent[] = [];
  for await (const extent of reader.bitmaps.extents('b')) dirty.push(extent);
  expect(dirty).toEqual(model.ranges());
  const content = Buffer.alloc(size);
  await reader.read(content, 0);
  expect(content.equals(written)).toBe(true);
  expect(await reader.check()).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  await reader.close();
});
