/** Changing the size of raw disks. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { MemoryStorage, resizeRaw } from '../../lib/index.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const path = useTempDir();
const content = pattern(1, MiB);

describe('growing', () => {
  it.each([
    ['off', 0],
    ['falloc', 3 * MiB],
    ['full', 3 * MiB],
  ] as const)(
    'with preallocation %s: what was there stays, zeros follow',
    async (preallocation, reserved) => {
      await writeFile(path('disk'), content);
      const before = (await stat(path('disk'))).blocks;
      await resizeRaw(path('disk'), 4 * MiB, { preallocation });
      const bytes = await readFile(path('disk'));
      expect(bytes.length).toBe(4 * MiB);
      expect(bytes.subarray(0, MiB).equals(content)).toBe(true);
      expect(bytes.subarray(MiB).every((byte) => byte === 0)).toBe(true);
      const added = ((await stat(path('disk'))).blocks - before) * 512;
      expect(added).toBeGreaterThanOrEqual(reserved);
      if (reserved === 0) expect(added).toBeLessThan(MiB);
    },
  );

  it('reserves by writing where the storage knows no other way', async () => {
    const inner = new MemoryStorage(content);
    const storage = await RecordingStorage.over(inner);
    const plain = {
      name: 'plain',
      readOnly: false,
      read: storage.read.bind(storage),
      write: storage.write.bind(storage),
      flush: storage.flush.bind(storage),
      size: storage.size.bind(storage),
      truncate: storage.truncate.bind(storage),
      close: storage.close.bind(storage),
    };
    await resizeRaw(plain, 2 * MiB + 5, { preallocation: 'falloc' });
    const written = storage.log.entries.flatMap(({ change }) =>
      change.kind === 'write' ? [[change.position, change.data.length]] : [],
    );
    expect(written).toEqual([
      [MiB, MiB],
      [2 * MiB, 5],
    ]);
    expect(storage.log.entries.at(-1)?.change.kind).toBe('flush');
  });
});

describe('shrinking', () => {
  it('needs to be asked for', async () => {
    await writeFile(path('disk'), content);
    await expect(resizeRaw(path('disk'), 1000)).rejects.toMatchObject({ code: 'ERR_QCOW2_DATA_LOSS' });
    expect((await readFile(path('disk'))).equals(content)).toBe(true);
    await resizeRaw(path('disk'), 1000n, { shrink: true });
    expect((await readFile(path('disk'))).equals(content.subarray(0, 1000))).toBe(true);
  });

  it('reserves nothing', async () => {
    const storage = new MemoryStorage(content);
    await expect(resizeRaw(storage, 1000, { shrink: true, preallocation: 'full' })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_VALUE',
    });
    expect(await storage.size()).toBe(MiB);
  });
});

it('refuses what makes no sense', async () => {
  const storage = new MemoryStorage(content);
  await expect(resizeRaw(storage, -1)).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' });
  await expect(resizeRaw(storage, 2 * MiB, { preallocation: 'metadata' as 'off' })).rejects.toMatchObject({
    code: 'ERR_INVALID_ARG_VALUE',
  });
  expect(await storage.size()).toBe(MiB);
});
