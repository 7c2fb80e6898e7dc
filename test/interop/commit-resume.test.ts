/** A commit that was stopped goes on from the checkpoint that the caller kept, and not when anything has changed since. */
import { copyFile, utimes } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type Checkpoint } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';
import { RecordingStorage } from '../support/recording-storage.js';

const path = useTempDir();
const MiB = 2 ** 20;
const resolve = 'any' as const;

/** An overlay with data all over, on a base. */
async function makeChain(): Promise<Buffer> {
  await (await create(path('base'), 16 * MiB)).close();
  const overlay = await create(path('top'), 16 * MiB, { backing: { name: 'base', format: 'qcow2' } });
  for (let at = 0; at < 16; at += 1) await overlay.write(pattern(at + 1, 700_000), at * MiB);
  await overlay.close();
  return qemuContent(path('top'));
}

/** Commits until `stopAfter` checkpoints were reported, and gives the last. */
async function stopped(stopAfter: number): Promise<Checkpoint> {
  const reason = new Error('power cut');
  let last: Checkpoint | undefined;
  let count = 0;
  const top = await open(path('top'), { mode: 'r+', resolve });
  const committing = top.commit({
    checkpointBytes: 2 * MiB,
    onCheckpoint: (checkpoint) => {
      last = JSON.parse(JSON.stringify(checkpoint)) as Checkpoint;
      count += 1;
      if (count === stopAfter) throw reason;
    },
  });
  await expect(committing).rejects.toBe(reason);
  await top.close();
  if (last === undefined) throw new Error('no checkpoint');
  return last;
}

describe('a resumed commit', () => {
  it('copies only what comes after the checkpoint, and is complete', async () => {
    const content = await makeChain();
    const checkpoint = await stopped(3);
    expect(checkpoint.position).toBeGreaterThan(4 * MiB);
    expect((await qemuContent(path('top'))).equals(content)).toBe(true);
    const top = await open(path('top'), { mode: 'r+', resolve });
    const dones: number[] = [];
    await top.commit({ resumeFrom: checkpoint, onProgress: ({ done }) => dones.push(done) });
    await top.close();
    expect(dones[0]).toBeGreaterThan(checkpoint.position);
    expect((await qemuContent(path('base'))).equals(content)).toBe(true);
    expect((await qemuContent(path('top'))).equals(content)).toBe(true);
    for (const name of ['base', 'top']) await expectCleanByQemu(path(name));
  });

  it('is refused when the image has been written since', async () => {
    await makeChain();
    const checkpoint = await stopped(2);
    const writer = await open(path('top'), { mode: 'r+', resolve });
    await writer.write(Buffer.from('new'), 10);
    await writer.close();
    const content = await qemuContent(path('top'));
    const top = await open(path('top'), { mode: 'r+', resolve });
    await expect(top.commit({ resumeFrom: checkpoint })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
    await top.commit();
    await top.close();
    expect((await qemuContent(path('base'))).equals(content)).toBe(true);
  });

  it('is refused for a copy of the image, a touched one, a position outside, and what is no checkpoint', async () => {
    await makeChain();
    const checkpoint = await stopped(2);
    const top = await open(path('top'), { mode: 'r+', resolve });
    for (const position of [-1, 0.5, 17 * MiB]) {
      await expect(top.commit({ resumeFrom: { ...checkpoint, position } })).rejects.toThrow(RangeError);
    }
    const wrong = { position: 0 } as Checkpoint;
    await expect(top.commit({ resumeFrom: wrong })).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' });
    await utimes(path('top'), new Date(), new Date());
    await expect(top.commit({ resumeFrom: checkpoint })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
    await top.close();
    await copyFile(path('top'), path('copy'));
    const copy = await open(path('copy'), { mode: 'r+', resolve });
    await expect(copy.commit({ resumeFrom: checkpoint })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
    await copy.close();
  });

  it('reports nothing that is not flushed', async () => {
    const base = await RecordingStorage.over(new MemoryStorage());
    await (await create(base, 8 * MiB)).close();
    const storage = new MemoryStorage();
    const backing = { name: 'base', format: 'qcow2', unchecked: true } as const;
    await (await create(storage, 8 * MiB, { backing })).close();
    const overlay = await open(storage, { mode: 'r+', resolve: () => base });
    await overlay.write(pattern(1, 7 * MiB), 0);
    let seen = 0;
    await overlay.commit({
      checkpointBytes: MiB,
      onCheckpoint: ({ position }) => {
        seen += 1;
        // Data up to the position was written before the last flush.
        const entries = base.log.entries.map(({ change }) => change);
        const lastFlush = entries.findLastIndex(({ kind }) => kind === 'flush');
        const written = entries
          .slice(0, lastFlush)
          .reduce((sum, change) => sum + (change.kind === 'write' ? change.data.length : 0), 0);
        expect(written).toBeGreaterThanOrEqual(position);
      },
    });
    expect(seen).toBeGreaterThan(3);
    await overlay.close();
  });
});
