/** Rebuilding refcounts from scratch: without a refcount table, and through every crash on the way. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import type { CheckReport, CreateOptions } from '../../lib/index.js';
import { crashStates } from '../support/crash-states.js';
import { RecordingStorage } from '../support/recording-storage.js';

const size = 8 * 1024 * 1024;

async function written(options: CreateOptions): Promise<{ storage: MemoryStorage; content: Buffer }> {
  const storage = new MemoryStorage();
  const disk = await create(storage, size, options);
  const content = Buffer.alloc(size);
  for (let at = 0; at < size; at += 5 * 65536) {
    content.fill(1 + (at % 251), at, Math.min(size, at + 65536));
    await disk.write(content.subarray(at, Math.min(size, at + 65536)), at);
  }
  await disk.close();
  return { storage, content };
}

async function patch(storage: MemoryStorage, position: number, value: bigint): Promise<void> {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  await storage.write(bytes, position);
}

async function expectSound(storage: MemoryStorage, content: Buffer, message?: string): Promise<void> {
  const disk = await open(storage);
  const report = await disk.check();
  expect(report, message).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
  const found = Buffer.alloc(size);
  await disk.read(found, 0);
  expect(found.equals(content), message).toBe(true);
  await disk.close();
}

const kinds: [name: string, options: CreateOptions][] = [
  ['64 KiB', {}],
  ['512 bytes', { clusterSize: 512 }],
  ['2 MiB', { clusterSize: 2 * 1024 * 1024 }],
  ['refcounts of 1 bit', { clusterSize: 4096, refcountBits: 1 }],
  ['refcounts of 64 bits', { clusterSize: 4096, refcountBits: 64 }],
];

describe.each(kinds)('an image with %s', (_name, options) => {
  it('gets a refcount table again after losing it', async () => {
    const { storage, content } = await written(options);
    await patch(storage, 48, 2n ** 50n);
    await expect(open(storage, { mode: 'r+' })).rejects.toMatchObject({ feature: 'refcount_table_offset' });
    const disk = await open(storage, { mode: 'r+', forRepair: true });
    await disk.rebuildRefcounts();
    await disk.close();
    await expectSound(storage, content);
  });

  it('takes new clusters after a rebuild', async () => {
    const { storage, content } = await written(options);
    const disk = await open(storage, { mode: 'r+' });
    await disk.rebuildRefcounts();
    await disk.write(content.fill(0xee, 65536, 65536 * 2).subarray(65536, 65536 * 2), 65536);
    expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0 });
    await disk.close();
    await expectSound(storage, content);
  });
});

describe('a crash', () => {
  it.each(['rebuild', 'repair'] as const)(
    'in the middle of a %s leaves an image that can be repaired',
    async (job) => {
      const { storage, content } = await written({ clusterSize: 4096 });
      if (job === 'repair') await spoilRefcounts(storage);
      const { corruptions } = await checked(storage);
      expect(corruptions > 0).toBe(job === 'repair');
      const recording = await RecordingStorage.over(storage);
      const disk = await open(recording, { mode: 'r+', forRepair: true });
      if (job === 'rebuild') await disk.rebuildRefcounts();
      else await disk.check({ repair: 'all' });
      await disk.close();
      await expectSound(storage, content, 'without a crash');
      let states = 0;
      for await (const state of crashStates(recording.log, {
        samples: 10,
        tornSamples: 3,
        exhaustiveUpTo: 5,
      })) {
        states += 1;
        const after = await open(state.content, { mode: 'r+', forRepair: true });
        const found = Buffer.alloc(size);
        await after.read(found, 0);
        expect(found.equals(content), state.description).toBe(true);
        expect((await after.check()).corruptions, state.description).toBeLessThanOrEqual(corruptions);
        const report = await after.check({ repair: 'all' });
        expect(report, state.description).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
        await after.close();
        await expectSound(state.content, content, state.description);
      }
      expect(states).toBeGreaterThan(5);
    },
  );
});

async function checked(storage: MemoryStorage): Promise<CheckReport> {
  const disk = await open(storage, { forRepair: true });
  const report = await disk.check();
  await disk.close();
  return report;
}

/** Makes some refcounts too high, some too low, and a COPIED flag wrong. */
async function spoilRefcounts(storage: MemoryStorage): Promise<void> {
  const field = Buffer.alloc(8);
  const pointer = async (position: number): Promise<number> => {
    await storage.read(field, position);
    return Number(field.readBigUInt64BE() & 0x00ff_ffff_ffff_fe00n);
  };
  const block = await pointer(await pointer(48));
  const l2 = await pointer(await pointer(40));
  await storage.write(Buffer.from([0, 7, 0, 0, 0, 2]), block + 2 * 20);
  await patch(storage, l2, BigInt(await pointer(l2)));
}
