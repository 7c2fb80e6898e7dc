/** Giving a disk its clusters in advance: on storage that fails, and over a backing file. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import { inspectImage } from '../support/image-invariants.js';
import { expectCleanByQemu, qemuContent, qemuImg, qemuIo, qemuMap } from '../support/oracle.js';
import { Random } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';
import { useTempDir } from '../support/temp-dir.js';

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

const inDirectory = useTempDir();

/** A disk of 512 KiB on one of 1 MiB of data, and another like it. */
async function overlays(options: string): Promise<{ ours: string; theirs: string }> {
  const base = inDirectory('base.qcow2');
  await qemuImg(['create', '-q', '-f', 'qcow2', base, '1M']);
  await qemuIo(base, ['write -P 5 0 1M']);
  const [ours = '', theirs = ''] = ['ours.qcow2', 'theirs.qcow2'].map((name) => inDirectory(name));
  for (const image of [ours, theirs]) {
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, '-b', base, '-F', 'qcow2', image, '512k']);
  }
  return { ours, theirs };
}

describe.each(['compat=1.1', 'extended_l2=on', 'cluster_size=128k', 'data_file=data'])(
  'over a backing file, with %s',
  (options) => {
    it.each(['metadata', 'falloc', 'full'] as const)(
      '%s hides as much of it as QEMU does',
      async (preallocation) => {
        const named = options.replace('data_file=data', `data_file=${inDirectory('data')}`);
        const { ours, theirs } = await overlays(named);
        await qemuImg(['resize', '-q', `--preallocation=${preallocation}`, theirs, '3M']);
        const [content, map] = [await qemuContent(theirs), await qemuMap(theirs)];
        const disk = await open(ours, { mode: 'r+', resolve: 'any' });
        await disk.resize(3 * 1024 * KiB, { preallocation });
        await disk.close();
        await expectCleanByQemu(ours);
        expect((await qemuContent(ours)).equals(content)).toBe(true);
        expect(await qemuMap(ours)).toEqual(map);
      },
    );
  },
);

it.each(['metadata', 'falloc', 'full'] as const)(
  '%s lets it show in a new image with subclusters',
  async (preallocation) => {
    await overlays('compat=1.1');
    const image = inDirectory('new.qcow2');
    const backing = { name: 'base.qcow2', format: 'qcow2' as const };
    const disk = await create(image, 1024 * KiB, { extendedL2: true, preallocation, backing });
    await disk.write(Buffer.alloc(5000, 9), 100_000);
    await disk.close();
    await expectCleanByQemu(image);
    const expected = Buffer.alloc(1024 * KiB, 5).fill(9, 100_000, 105_000);
    expect((await qemuContent(image)).equals(expected)).toBe(true);
  },
);

it('is refused where it would hide all of it', async () => {
  const backing = { name: 'base.qcow2', format: 'qcow2' as const };
  await overlays('compat=1.1');
  await expect(
    create(inDirectory('new.qcow2'), 1024 * KiB, { preallocation: 'metadata', backing }),
  ).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
});
