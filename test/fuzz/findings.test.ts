/** What the fuzzer found, each reduced to the damage that matters. */
import { describe, expect, it } from 'vitest';
import { MemoryStorage, open } from '../../lib/index.js';
import { refcountBlockCluster } from '../hostile/builder.js';
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
});
