/** Clusters that are taken before it is known which are needed: what happens to them when the file fails. */
import { expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import { transferStride } from '../../lib/native.js';
import { ReservedRoom } from '../../lib/operations/copy/reserved-room.js';
import { HeldStorage, systemError } from '../support/held-storage.js';
import { inspectImage } from '../support/image-invariants.js';

const KiB = 1024;

it('gives back nothing that was mapped before mapping failed', async () => {
  const memory = new MemoryStorage();
  const clusterSize = 512;
  const size = 1024 * KiB;
  await (await create(memory, size, { clusterSize })).close();
  const storage = new HeldStorage(memory);
  // So few tables are kept that most have to be read again.
  const disk = await open(storage, { mode: 'r+', cacheBytes: 0 });
  const room = new ReservedRoom(disk.guest);
  const units = Float64Array.of(0, size, 0);
  expect(units.length).toBe(transferStride.unit);
  const places = await room.reserve(size, units);
  await disk.flush();
  const runs: number[] = [];
  let guest = 0;
  let longest = 0;
  for (let i = 0; i < places.length; i += 2) {
    const [host = 0, length = 0] = places.slice(i, i + 2);
    runs.push(guest, length, host);
    guest += length;
    longest = Math.max(longest, length);
  }
  expect(runs.length / transferStride.placed).toBeGreaterThan(8);
  let reads = 0;
  storage.fails = ({ kind }) => {
    if (kind === 'read') reads += 1;
    return reads > 6 ? systemError('EIO') : undefined;
  };
  await expect(room.use(Float64Array.from(runs))).rejects.toMatchObject({ code: 'EIO' });
  storage.fails = () => undefined;
  room.giveBack();
  await disk.close();
  const { problems, leaks } = inspectImage(memory.toBuffer());
  expect(problems).toEqual([]);
  // Of one run it is not known which part was mapped.
  expect(leaks).toBeLessThan(longest / clusterSize);
});
