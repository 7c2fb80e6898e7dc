/** What the fuzzer found, each reduced to the damage that matters. */
import { describe, expect, it } from 'vitest';
import { MemoryStorage, open } from '../../lib/index.js';
import { at, refcountBlockCluster } from '../hostile/builder.js';
import { standard } from '../hostile/standard.js';

describe('found by the fuzzer', () => {
  it('a refcount of 64 bits past 2^53 is reported and repaired like any other', async () => {
    const image = standard({ refcountOrder: 6 });
    const data = image.clusters - 1;
    image.u64(image.offsetOf(refcountBlockCluster) + data * 8, 2n ** 64n - 1n);
    const storage = new MemoryStorage(image.bytes);
    const disk = await open(storage, { mode: 'r+' });
    expect((await disk.check()).leaks).toBe(1);
    expect(await disk.check({ repair: 'all' })).toMatchObject({ leaksFixed: 1 });
    expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
    await disk.close();
  });

  it('a backing file name without characters stays none when extensions are written over it', async () => {
    const image = standard();
    image.u64(at.backingFileOffset, image.headerLength).u32(at.backingFileSize, 8);
    const storage = new MemoryStorage(image.bytes);
    const disk = await open(storage, { mode: 'r+' });
    await disk.bitmaps.create({ name: 'changes' });
    await disk.close();
    const again = await open(storage);
    expect((await again.info()).backing).toBeNull();
    await again.close();
  });

  it('a snapshot table of refcount 0 at the end of the file outlives a shrink of the disk', async () => {
    const image = standard();
    const [l1, table] = [image.add(), image.add()];
    image.u64(image.offsetOf(table), image.offsetOf(l1)).u32(image.offsetOf(table) + 8, 2);
    image.u32(at.nbSnapshots, 1).u64(at.snapshotsOffset, image.offsetOf(table)).refcount(table, 0);
    const storage = new MemoryStorage(image.bytes);
    const disk = await open(storage, { mode: 'r+' });
    await disk.resize(image.coverage, { shrink: true }).catch((error: unknown) => {
      expect(error).toMatchObject({ code: expect.stringMatching(/^ERR_QCOW2_/) as string });
    });
    expect(await disk.snapshots.list()).toHaveLength(1);
    await disk.close();
  });

  it('a snapshot whose L1 table is too small for its disk does not check clean', async () => {
    const image = standard();
    const [l1, table] = [image.add(), image.add()];
    const entry = image.offsetOf(table);
    image
      .u64(entry, image.offsetOf(l1))
      .u32(entry + 8, 2)
      .u32(entry + 36, 16);
    image.u64(entry + 48, 2 ** 40);
    image.u32(at.nbSnapshots, 1).u64(at.snapshotsOffset, entry);
    const disk = await open(new MemoryStorage(image.bytes));
    const { corruptions, findings } = await disk.check();
    expect(corruptions).toBe(1);
    expect(findings).toMatchObject([{ kind: 'snapshot', expected: 2 ** 40 / image.coverage, found: 2 }]);
    await disk.close();
  });
});
