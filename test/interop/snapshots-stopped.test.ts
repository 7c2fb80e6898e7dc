/** Making, applying and deleting snapshots report progress and can be stopped, which leaves the image as it was. */
import { describe, expect, it } from 'vitest';
import { create, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent, qemuInfo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { stopEverywhere } from '../support/stopping.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const kinds: [name: string, size: number, CreateOptions][] = [
  ['512 B clusters', 3 * MiB, { clusterSize: 512 }],
  ['extended L2', 24 * MiB, { clusterSize: 16 * KiB, extendedL2: true, refcountBits: 64 }],
  ['lazy refcounts', 3 * MiB, { clusterSize: 1024, lazyRefcounts: true }],
];

describe('snapshot jobs', () => {
  const temp = useTempDir();

  it.each(kinds)('can be stopped anywhere: %s', { timeout: 60_000 }, async (_name, size, options) => {
    const path = temp('disk.qcow2');
    const disk = await create(path, size, options);
    const fill = async (seed: number): Promise<Buffer> => {
      for (let at = 0; at < size; at += size / 8) await disk.write(pattern(seed + at, size / 10), at);
      return contentOf(disk);
    };
    const first = await fill(1);

    /** Stops a job everywhere; while it is not done, the image is what it was. */
    const stop = async (
      expected: { snapshots: string[]; content: Buffer },
      run: (job: { signal: AbortSignal }) => Promise<unknown>,
    ): Promise<void> => {
      const stops = await stopEverywhere(
        run,
        async () => {
          expect((await disk.snapshots.list()).map(({ name }) => name)).toEqual(expected.snapshots);
          expect((await contentOf(disk)).equals(expected.content)).toBe(true);
          await disk.flush();
          expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
        },
        3,
      );
      expect(stops).toBeGreaterThan(0);
    };
    await stop({ snapshots: [], content: first }, (job) => disk.snapshots.create({ name: 'a', ...job }));
    const second = await fill(2);
    await disk.snapshots.create({ name: 'b' });
    const third = await fill(3);
    await stop({ snapshots: ['a', 'b'], content: third }, (job) => disk.snapshots.apply('a', job));
    expect((await contentOf(disk)).equals(first)).toBe(true);
    await stop({ snapshots: ['a', 'b'], content: first }, (job) => disk.snapshots.delete('a', job));
    await disk.snapshots.apply('b');
    await disk.close();
    await expectCleanByQemu(path);
    expect((await qemuInfo(path)).snapshots?.map(({ name }) => name)).toEqual(['b']);
    expect((await qemuContent(path)).equals(second)).toBe(true);
  });

  it('do not begin when they are stopped already', async () => {
    const disk = await create(temp('disk.qcow2'), MiB);
    await disk.snapshots.create({ name: 'a' });
    const reason = new Error('no');
    const job = { signal: AbortSignal.abort(reason) };
    await expect(disk.snapshots.create({ name: 'b', ...job })).rejects.toBe(reason);
    await expect(disk.snapshots.apply('a', job)).rejects.toBe(reason);
    await expect(disk.snapshots.delete('a', job)).rejects.toBe(reason);
    expect(await disk.snapshots.list()).toHaveLength(1);
    await disk.close();
  });
});

async function contentOf(disk: Qcow2): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}
