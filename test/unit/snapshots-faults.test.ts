/** An operation on the file that fails amid snapshot and bitmap work costs that work at most, whichever it is. */
import { describe, expect, it } from 'vitest';
import { create, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { inspectImage } from '../support/image-invariants.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage, type Fault } from '../support/recording-storage.js';

const KiB = 1024;
const size = 64 * KiB;
const granularity = 4096;
const step = Number(process.env.QCOW2_FAULT_STEP ?? 3);

const kinds: CreateOptions[] = [{ clusterSize: 512 }, { clusterSize: 16 * KiB, extendedL2: true }];
const faults: Omit<Fault, 'nth'>[] = [
  { of: 'changes', code: 'ENOSPC' },
  { of: 'changes', code: 'EIO', written: 512, goesOn: true },
  // Everything was written, and still the write is said to have failed.
  { of: 'changes', code: 'EIO', written: 2 ** 20 },
  { of: 'reads', code: 'EIO' },
];

async function contentOf(disk: { size: number; read: Qcow2['read'] }): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

/** Runs all steps, each although the one before failed; how many failed. */
async function work(disk: Qcow2): Promise<number> {
  const steps: (() => Promise<unknown>)[] = [
    () => disk.write(pattern(2, 8 * KiB), 4 * KiB),
    () => disk.snapshots.create({ name: 'b' }),
    () => disk.write(pattern(3, 8 * KiB), 8 * KiB),
    () => disk.bitmaps.create({ name: 'second' }),
    () => disk.bitmaps.merge('second', ['first']),
    () => disk.resize(80 * KiB),
    () => disk.snapshots.delete('a'),
    () => disk.bitmaps.remove('second'),
    () => disk.write(pattern(4, 512), 60 * KiB),
    () => disk.close(),
  ];
  let failed = 0;
  for (const run of steps) await run().catch(() => (failed += 1));
  return failed;
}

describe.each(kinds)('with $clusterSize-byte clusters', (kind) => {
  it.each(faults)('$of fail with $code, $written', { timeout: 120_000 }, async (fault) => {
    const start = new MemoryStorage();
    const made = await create(start, size, kind);
    await made.write(pattern(1, 32 * KiB), 0);
    await made.snapshots.create({ name: 'a' });
    await made.write(pattern(5, 4 * KiB), 20 * KiB);
    await made.bitmaps.create({ name: 'first', granularity });
    const before = await contentOf(made);
    const view = await made.snapshots.open('a');
    const snapshot = await contentOf(view);
    await made.close();

    let failures = 0;
    for (let nth = 0; ; nth += step) {
      const memory = start.clone();
      const storage = await RecordingStorage.over(memory, { fault: { ...fault, nth } });
      const disk = await open(storage, { mode: 'r+' }).catch(() => null);
      if (disk === null) continue;
      const failed = await work(disk);
      failures += failed;
      const message = `${fault.of} ${nth} ${fault.code}`;
      const image = Buffer.alloc(await memory.size());
      await memory.read(image, 0);
      expect(inspectImage(image).problems, message).toEqual([]);
      const again = await open(memory, { mode: 'r+' });
      for (const { name } of await again.snapshots.list()) {
        if (name === 'a')
          expect((await contentOf(await again.snapshots.open('a'))).equals(snapshot), message).toBe(true);
      }
      const bitmap = (await again.bitmaps.list()).find(({ name }) => name === 'first');
      if (bitmap?.consistent === true) {
        const { bits } = await again.bitmaps.bits('first');
        const after = await contentOf(again);
        for (let at = 0; at < size; at += granularity) {
          const unit = at / granularity;
          if (((bits[unit >> 3] ?? 0) & (1 << (unit & 7))) !== 0) continue;
          const same = after.subarray(at, at + granularity).equals(before.subarray(at, at + granularity));
          expect(same, `${message}: unit at ${at}`).toBe(true);
        }
      }
      await again.write(pattern(6, again.size), 0);
      await again.close();
      const used = fault.of === 'reads' ? storage.reads : storage.changes;
      if (nth > used) break;
    }
    expect(failures).toBeGreaterThan(0);
  });
});
