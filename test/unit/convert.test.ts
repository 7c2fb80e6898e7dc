/** Converting between stores of any kind: options, progress, stopping, failures, durability. */
import { open as openFile, readFile, writeFile, type FileHandle } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import {
  convert,
  MemoryStorage,
  open,
  openDisk,
  type ConvertOptions,
  type Progress,
} from '../../lib/index.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { RecordingStorage } from '../support/recording-storage.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const path = useTempDir();
const disk = mixedDisk(1, 6 * MiB + 512);
const content = disk.read(0, disk.size);
const source = (): MemoryStorage => new MemoryStorage(content);
const small = (): MemoryStorage => new MemoryStorage(content.subarray(0, MiB));

async function bytesOf(storage: MemoryStorage): Promise<Buffer> {
  const bytes = Buffer.alloc(await storage.size());
  await storage.read(bytes, 0);
  return bytes;
}

async function guestBytes(storage: MemoryStorage): Promise<Buffer> {
  const { disk: opened } = await openDisk(storage);
  const bytes = Buffer.alloc(opened.size);
  await opened.read(bytes, 0);
  await opened.close();
  return bytes;
}

describe('between stores in memory', () => {
  it.each<ConvertOptions>([
    { targetFormat: 'qcow2' },
    { targetFormat: 'qcow2', compress: true },
    { targetFormat: 'qcow2', create: { extendedL2: true } },
    { targetFormat: 'raw' },
  ])('%o', async (options) => {
    const target = new MemoryStorage(Buffer.alloc(MiB, 'old content'));
    expect(await convert(source(), target, options)).toEqual({ size: disk.size });
    expect((await guestBytes(target)).equals(content)).toBe(true);
  });

  it('takes an open disk as the source and leaves it open', async () => {
    const image = new MemoryStorage();
    await convert(source(), image, { targetFormat: 'qcow2' });
    await using opened = await open(image);
    const target = new MemoryStorage();
    await convert(opened, target, { targetFormat: 'raw' });
    expect((await bytesOf(target)).equals(content)).toBe(true);
    const start = Buffer.alloc(700);
    await opened.read(start, 0);
    expect(start.equals(content.subarray(0, 700))).toBe(true);
  });

  it('takes a source for what it is told to be', async () => {
    const image = new MemoryStorage();
    await convert(source(), image, { targetFormat: 'qcow2' });
    const copy = new MemoryStorage();
    await convert(image, copy, { targetFormat: 'raw', sourceFormat: 'raw' });
    expect((await bytesOf(copy)).equals(await bytesOf(image))).toBe(true);
    await expect(
      convert(source(), copy, { targetFormat: 'raw', sourceFormat: 'qcow2' }),
    ).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_QCOW2' });
  });

  it('converts a disk of no bytes', async () => {
    const image = new MemoryStorage();
    expect(await convert(new MemoryStorage(), image, { targetFormat: 'qcow2' })).toEqual({ size: 0 });
    const raw = new MemoryStorage();
    await convert(image, raw, { targetFormat: 'raw' });
    expect(await raw.size()).toBe(0);
  });

  it.each([{}, { compress: true }])(
    'gives the same bytes however many requests run at once: %o',
    async (more) => {
      const outputs: Buffer[] = [];
      for (const concurrency of [1, 3, 16]) {
        const target = new MemoryStorage();
        await convert(source(), target, { targetFormat: 'qcow2', concurrency, ...more });
        outputs.push(await bytesOf(target));
      }
      expect(outputs[1]?.equals(outputs[0] ?? Buffer.alloc(0))).toBe(true);
      expect(outputs[2]?.equals(outputs[0] ?? Buffer.alloc(0))).toBe(true);
    },
  );
});

describe('progress and stopping', () => {
  it.each<'raw' | 'qcow2'>(['raw', 'qcow2'])(
    'fails when the %s source is closed, rather than copy the file that gets its descriptor',
    async (format) => {
      const bytes = Buffer.alloc(96 * MiB, 'good');
      await writeFile(path('good'), bytes);
      await writeFile(path('other'), Buffer.alloc(96 * MiB, 'evil'));
      if (format === 'qcow2') await convert(path('good'), path('source'), { targetFormat: 'qcow2' });
      const { disk: opened } = await openDisk(path(format === 'raw' ? 'good' : 'source'));
      let others: Promise<FileHandle[]> | undefined;
      const closeAndOpenOthers = async (): Promise<FileHandle[]> => {
        await opened.close();
        return Promise.all([0, 1, 2].map(() => openFile(path('other'))));
      };
      const converting = convert(opened, path('target'), {
        targetFormat: 'raw',
        onProgress: () => {
          others ??= closeAndOpenOthers();
        },
      });
      await expect(converting).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
      for (const handle of (await others) ?? []) await handle.close();
      expect((await readFile(path('target'))).includes('evil')).toBe(false);
    },
  );

  it('counts bytes up to the size of the disk', async () => {
    const seen: Progress[] = [];
    await convert(source(), new MemoryStorage(), {
      targetFormat: 'qcow2',
      onProgress: (progress) => seen.push(progress),
    });
    expect(seen.length).toBeGreaterThan(3);
    expect(seen.every(({ total }) => total === disk.size)).toBe(true);
    const done = seen.map((progress) => progress.done);
    expect(done).toEqual([...done].sort((a, b) => a - b));
    expect(done.at(-1)).toBe(disk.size);
  });

  it('stops with the reason of the signal, and does not write afterwards', async () => {
    const target = await RecordingStorage.over(new MemoryStorage());
    const controller = new AbortController();
    const reason = new Error('enough');
    const stopping = convert(source(), target, {
      targetFormat: 'raw',
      signal: controller.signal,
      concurrency: 2,
      onProgress: () => controller.abort(reason),
    });
    await expect(stopping).rejects.toBe(reason);
    const changes = target.changes;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(target.changes).toBe(changes);
    expect(target.violations).toEqual([]);
  });

  it('does not begin when the signal was aborted before', async () => {
    const target = new MemoryStorage();
    const stopping = convert(source(), target, { targetFormat: 'raw', signal: AbortSignal.abort() });
    await expect(stopping).rejects.toMatchObject({ name: 'AbortError' });
  });
});

describe('failures', () => {
  it.each(['raw', 'qcow2'] as const)(
    'a failed write to a %s target rejects, whichever it is',
    async (targetFormat) => {
      const perfect = await RecordingStorage.over(new MemoryStorage());
      await convert(small(), perfect, { targetFormat });
      expect(perfect.changes).toBeGreaterThan(5);
      for (let nth = 0; nth < perfect.changes; nth += 1) {
        const target = await RecordingStorage.over(new MemoryStorage(), {
          fault: { of: 'changes', nth, code: 'ENOSPC' },
        });
        await expect(convert(source(), target, { targetFormat })).rejects.toMatchObject({ code: 'ENOSPC' });
      }
    },
  );

  it('a failed read rejects', async () => {
    const broken = await RecordingStorage.over(source(), { fault: { of: 'reads', nth: 3, code: 'EIO' } });
    await expect(convert(broken, new MemoryStorage(), { targetFormat: 'qcow2' })).rejects.toMatchObject({
      code: 'EIO',
    });
  });

  it('refuses to convert a file into itself, with and without locks', async () => {
    await writeFile(path('disk'), content);
    for (const lock of [true, false]) {
      await expect(
        convert(path('disk'), path('disk'), { targetFormat: 'qcow2', open: { lock }, create: { lock } }),
      ).rejects.toMatchObject({ code: 'ERR_QCOW2_LOCKED' });
    }
    const same = source();
    await expect(convert(same, same, { targetFormat: 'raw' })).rejects.toMatchObject({
      code: 'ERR_QCOW2_LOCKED',
    });
    expect((await bytesOf(same)).equals(content)).toBe(true);
  });

  it('refuses a kept target that is too small', async () => {
    const target = new MemoryStorage(content.subarray(0, MiB));
    await expect(convert(source(), target, { targetFormat: 'raw', keepTarget: true })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
  });

  it.each<[ConvertOptions, string]>([
    [{ targetFormat: 'vmdk' as 'raw' }, 'ERR_INVALID_ARG_VALUE'],
    [{ targetFormat: 'raw', sparseSize: 1000 }, 'ERR_OUT_OF_RANGE'],
    [{ targetFormat: 'raw', sparseSize: 32 * MiB }, 'ERR_OUT_OF_RANGE'],
    [{ targetFormat: 'raw', concurrency: 0 }, 'ERR_OUT_OF_RANGE'],
    [{ targetFormat: 'raw', compress: true }, 'ERR_QCOW2_CONFLICT'],
    [{ targetFormat: 'raw', create: { preallocation: 'metadata' } }, 'ERR_QCOW2_CONFLICT'],
    [{ targetFormat: 'qcow2', compress: true, create: { preallocation: 'full' } }, 'ERR_QCOW2_CONFLICT'],
    [
      { targetFormat: 'qcow2', compress: true, create: { encryption: { secret: 'x' } } },
      'ERR_QCOW2_CONFLICT',
    ],
    [{ targetFormat: 'qcow2', compress: true, create: { dataFile: { name: 'x' } } }, 'ERR_QCOW2_CONFLICT'],
  ])('refuses %o before it touches the target', async (options, code) => {
    const target = new MemoryStorage(content);
    await expect(convert(source(), target, options)).rejects.toMatchObject({ code });
    expect((await bytesOf(target)).equals(content)).toBe(true);
  });
});

describe('durability', () => {
  it.each(['raw', 'qcow2'] as const)(
    'a new %s target is flushed once, after everything else',
    async (targetFormat) => {
      const target = await RecordingStorage.over(new MemoryStorage());
      await convert(source(), target, { targetFormat });
      expect(target.flushes).toBe(1);
      expect(target.log.entries.at(-1)?.change.kind).toBe('flush');
    },
  );

  it.each(['raw', 'qcow2'] as const)('or left to the system: %s', async (targetFormat) => {
    const target = await RecordingStorage.over(new MemoryStorage());
    await convert(source(), target, { targetFormat, durable: false });
    expect(target.flushes).toBe(0);
  });
});
