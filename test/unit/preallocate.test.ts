/** Giving a disk its clusters in advance on storage that fails. */
import { expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import { inspectImage } from '../support/image-invariants.js';
import { Random } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const KiB = 1024;

it.each([3, 10, 20, 30, 40, 50])(
  'fails with what the storage says, and only once (operation %i)',
  async (nth) => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown): number => unhandled.push(reason);
    process.on('unhandledRejection', note);
    try {
      const memory = new MemoryStorage();
      await (await create(memory, 0, { clusterSize: 512 })).close();
      const storage = await RecordingStorage.over(memory, {
        fault: { of: 'changes', code: 'EIO', nth, goesOn: false },
        shuffle: new Random(nth),
      });
      const disk = await open(storage, { mode: 'r+' });
      // An L2 table for each 32 KiB.
      await expect(disk.resize(1024 * KiB, { preallocation: 'falloc' })).rejects.toMatchObject({
        code: 'EIO',
      });
      await disk.close().catch((error: unknown) => expect(error).toMatchObject({ code: 'ERR_QCOW2_FAILED' }));
      expect(inspectImage(memory.toBuffer()).problems).toEqual([]);
    } finally {
      process.off('unhandledRejection', note);
    }
    expect(unhandled).toEqual([]);
  },
);
