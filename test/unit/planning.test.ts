/** Jobs on large disks whose tables are all in memory: the event loop has its turns, and an abort ends them early. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { compare, convert, create, open } from '../../lib/index.js';
import { useTempDir } from '../support/temp-dir.js';

const gib = 2 ** 30;
const pathOf = useTempDir('memory');

/** Nothing but zero clusters, so that whole-disk jobs have tables to look into and nothing to read. */
async function zeros(path: string, size: number): Promise<void> {
  const disk = await create(path, size, { preallocation: 'metadata' });
  await disk.writeZeroes(0, size);
  await disk.close();
}

/** Aborts in the next turn of the event loop. */
function abortSoon(): AbortSignal {
  const controller = new AbortController();
  void nextTurn().then(() => {
    controller.abort();
  });
  return controller.signal;
}

/** Aborts in the next turn of the event loop after a job has begun to plan. */
function abortPlanning(): AbortSignal {
  const controller = new AbortController();
  const { signal } = controller;
  let looks = 0;
  signal.throwIfAborted = () => {
    looks += 1;
    if (looks === 16) void nextTurn().then(() => controller.abort());
    AbortSignal.prototype.throwIfAborted.call(signal);
  };
  return signal;
}

describe('planning a disk of 64 GiB of zero clusters', () => {
  it('can be stopped in a comparison', async () => {
    await zeros(pathOf('a'), 64 * gib);
    const a = await open(pathOf('a'), { lock: false });
    const b = await open(pathOf('a'), { lock: false });
    const run = async (): Promise<void> => {
      for await (const difference of compare(a, b, { signal: abortSoon() })) expect(difference).toBeNull();
    };
    await expect(run()).rejects.toMatchObject({ name: 'AbortError' });
    await a.close();
    await b.close();
  });

  it('can be stopped in a conversion', async () => {
    await zeros(pathOf('a'), 64 * gib);
    const source = await open(pathOf('a'));
    const converted = convert(source, pathOf('out'), { targetFormat: 'raw', signal: abortSoon() });
    await expect(converted).rejects.toMatchObject({ name: 'AbortError' });
    await source.close();
  });

  it('can be stopped in a rebase', async () => {
    await zeros(pathOf('old'), 64 * gib);
    await zeros(pathOf('new'), 64 * gib);
    // All of it the image's own, so that nothing of it has to be looked at in the layers below.
    const top = await create(pathOf('top'), 64 * gib, { preallocation: 'metadata', resolve: 'any' });
    await top.rebase({ name: 'old', format: 'qcow2' }, { mode: 'unsafe' });
    const rebased = top.rebase({ name: 'new', format: 'qcow2' }, { signal: abortPlanning() });
    await expect(rebased).rejects.toMatchObject({ name: 'AbortError' });
    await top.close();
  });
});

describe('commit with a cache full of changed tables', () => {
  it.each([3, 4, 5, 6, 7])('ends with %i of them', async (changed) => {
    const [clusterSize, tables] = [512, 20];
    const coverage = (clusterSize / 8) * clusterSize;
    await (await create(pathOf('base'), tables * coverage, { clusterSize })).close();
    const options = { backing: { name: 'base', format: 'qcow2' as const }, clusterSize, cacheBytes: 2048 };
    const top = await create(pathOf('top'), tables * coverage, options);
    const data = new Uint8Array(clusterSize).fill(7);
    for (let table = 0; table < tables; table += 1) await top.write(data, table * coverage);
    await top.flush();
    const later = data.map(() => 9);
    const places = Array.from({ length: changed }, (_, table) => table * coverage + clusterSize);
    await Promise.all(places.map((at) => top.write(later, at)));
    await top.commit();
    await top.close();
    const base = await open(pathOf('base'));
    const got = new Uint8Array(2 * clusterSize);
    for (let table = 0; table < tables; table += 1) {
      await base.read(got, table * coverage);
      expect(got[0]).toBe(7);
      expect(got[clusterSize]).toBe(table < changed ? 9 : 0);
    }
    await base.close();
  });
});
