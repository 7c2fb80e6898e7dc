import { execFileSync } from 'node:child_process';
import { stat, truncate, writeFile } from 'node:fs/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { OsResult, native } from '../../lib/native.js';
import { FileStorage } from '../../lib/storage/file.js';
import { qemuMap } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const kibibyte = 1024;
const temp = useTempDir();
afterEach(() => {
  vi.restoreAllMocks();
});

async function opened(content: Uint8Array): Promise<FileStorage> {
  await writeFile(temp('file'), content);
  return FileStorage.open(temp('file'), { mode: 'r+' });
}

async function contentOf(storage: FileStorage): Promise<Buffer> {
  const buffer = Buffer.alloc(await storage.size());
  await storage.read(buffer, 0);
  return buffer;
}

/** The runs of data, as nextData and nextHole tell them. */
async function dataRuns(storage: FileStorage): Promise<[start: number, end: number][]> {
  const runs: [number, number][] = [];
  for (let start = await storage.nextData(0); start !== null;) {
    const end = await storage.nextHole(start);
    runs.push([start, end]);
    start = await storage.nextData(end);
  }
  return runs;
}

describe('space in a file', () => {
  it('is given back by punching: zeros, the same length, fewer blocks', async () => {
    const content = pattern(1, 256 * kibibyte);
    const storage = await opened(content);
    const before = await storage.allocatedSize();
    expect(await storage.punch(10_000, 100 * kibibyte)).toBe(true);
    expect(await storage.punch(250 * kibibyte, 2 ** 40)).toBe(true);
    expect(await storage.punch(0, 0)).toBe(true);
    content.fill(0, 10_000, 10_000 + 100 * kibibyte);
    content.fill(0, 250 * kibibyte);
    expect((await contentOf(storage)).equals(content)).toBe(true);
    expect(before - (await storage.allocatedSize())).toBeGreaterThanOrEqual(96 * kibibyte);
    await storage.close();
  });

  it('is reserved by allocating: the bytes stay, the file grows with zeros', async () => {
    const storage = await opened(pattern(1, 10 * kibibyte));
    expect(await storage.allocate(5 * kibibyte, 1000 * kibibyte)).toBe(true);
    const expected = Buffer.concat([pattern(1, 10 * kibibyte), Buffer.alloc(995 * kibibyte)]);
    expect((await contentOf(storage)).equals(expected)).toBe(true);
    expect((await stat(temp('file'))).blocks * 512).toBeGreaterThanOrEqual(1005 * kibibyte);
    await storage.close();
  });

  it('is told apart from holes as qemu-img tells it', async () => {
    const storage = await opened(pattern(1, 64 * kibibyte));
    await storage.write(pattern(2, 64 * kibibyte), 1024 * kibibyte);
    await truncate(temp('file'), 2048 * kibibyte);
    const runs = await dataRuns(storage);
    const map = await qemuMap(temp('file'), 'raw');
    expect(runs).toEqual(map.filter(({ data }) => data).map(({ start, length }) => [start, start + length]));
    expect(runs.length).toBe(2);
    expect(await storage.nextData(1500 * kibibyte)).toBeNull();
    expect(await storage.nextHole(100 * kibibyte)).toBe(100 * kibibyte);
    expect(await storage.nextData(2 ** 40)).toBeNull();
    expect(await storage.nextHole(2 ** 40)).toBe(2 ** 40);
    await storage.close();
  });

  it('is all data where the system cannot tell', async () => {
    vi.spyOn(native, 'seekData').mockReturnValue(OsResult.unsupported);
    vi.spyOn(native, 'seekHole').mockReturnValue(OsResult.unsupported);
    const storage = await opened(new Uint8Array(100));
    expect(await storage.nextData(7)).toBe(7);
    expect(await storage.nextHole(7)).toBe(100);
    expect(await storage.nextData(100)).toBeNull();
    expect(await storage.nextHole(200)).toBe(200);
    await storage.close();
  });

  it('is not changed through a storage that is open read-only', async () => {
    await writeFile(temp('file'), pattern(1, 100));
    const storage = await FileStorage.open(temp('file'), { mode: 'r' });
    await expect(storage.punch(0, 10)).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await expect(storage.allocate(0, 1000)).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await storage.close();
  });
});

/** Needs root and the loop driver; where they are missing the file stands in, which must do the same. */
function loopDevice(file: string): { path: string; detach: () => void } {
  try {
    const path = execFileSync('losetup', ['-f', '--show', file], { encoding: 'utf8', stdio: 'pipe' }).trim();
    return { path, detach: () => execFileSync('losetup', ['-d', path]) };
  } catch {
    return { path: file, detach: () => undefined };
  }
}

describe('a block device', () => {
  it('has a size, is written in place, keeps its size, and is refused where only files will do', async () => {
    const content = pattern(1, 1024 * kibibyte);
    await writeFile(temp('disk'), content);
    const device = loopDevice(temp('disk'));
    try {
      const storage = await FileStorage.open(device.path, { mode: 'r+' });
      expect(await storage.size()).toBe(1024 * kibibyte);
      await storage.write(pattern(2, 3000), 1000);
      await storage.flush();
      pattern(2, 3000).copy(content, 1000);
      expect((await contentOf(storage)).equals(content)).toBe(true);
      if (await storage.punch(64 * kibibyte, 64 * kibibyte)) content.fill(0, 64 * kibibyte, 128 * kibibyte);
      expect((await contentOf(storage)).equals(content)).toBe(true);
      await storage.truncate(1024 * kibibyte);
      expect(await dataRuns(storage)).not.toEqual([]);
      if (device.path !== temp('disk')) {
        expect(await storage.punch(1, 1)).toBe(false);
        await expect(storage.truncate(1024 * kibibyte + 1)).rejects.toMatchObject({
          code: 'ERR_QCOW2_UNSUPPORTED',
        });
        const onlyFiles = { mode: 'r', regularOnly: true } as const;
        await expect(FileStorage.open(device.path, onlyFiles)).rejects.toMatchObject({
          code: 'ERR_QCOW2_UNSUPPORTED',
        });
      }
      await storage.close();
    } finally {
      device.detach();
    }
  });
});
