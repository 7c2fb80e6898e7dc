/** Images inside other files, and images that stand on what their caller chooses. */
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { MemoryStorage, create, open, openDisk, type Disk } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent, qemuImg } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const inDirectory = useTempDir();

async function contentOf(disk: Disk): Promise<Buffer> {
  const content = Buffer.alloc(disk.size, 0xcd);
  await disk.read(content, 0);
  return content;
}

/** A file with a qcow2 image from 1 MiB on, and room behind it. */
async function archive(room: number): Promise<{ path: string; image: string; bytes: Buffer }> {
  const [path, image] = [inDirectory('archive'), inDirectory('image.qcow2')];
  const made = await create(image, 4 * MiB);
  await made.write(pattern(3, MiB), 12345);
  await made.close();
  const bytes = await readFile(image);
  await writeFile(path, Buffer.concat([Buffer.alloc(MiB, 'a'), bytes, Buffer.alloc(room, 'b')]));
  return { path, image, bytes };
}

describe('the part of a file that is an image', () => {
  it('is read and written, and nothing around it', async () => {
    const { path, image, bytes } = await archive(MiB);
    const window = { offset: MiB, size: bytes.length + 512 * 1024 };
    const disk = await open(path, { mode: 'r+', window });
    expect((await contentOf(disk)).equals(await qemuContent(image))).toBe(true);
    await disk.write(pattern(4, 256 * 1024), 3 * MiB);
    const expected = await contentOf(disk);
    await disk.close();
    const whole = await readFile(path);
    expect(whole.length).toBe(2 * MiB + bytes.length);
    expect(whole.subarray(0, MiB).equals(Buffer.alloc(MiB, 'a'))).toBe(true);
    expect(whole.subarray(MiB + window.size).equals(Buffer.alloc(512 * 1024, 'b'))).toBe(true);
    const out = inDirectory('out.qcow2');
    await writeFile(out, whole.subarray(MiB, MiB + window.size));
    await expectCleanByQemu(out);
    expect((await qemuContent(out)).equals(expected)).toBe(true);
  });

  it('has no more room than it has', async () => {
    const { path, bytes } = await archive(MiB);
    const disk = await open(path, { mode: 'r+', window: { offset: MiB, size: bytes.length } });
    await expect(disk.write(pattern(5, 2 * MiB), 2 * MiB).then(() => disk.flush())).rejects.toMatchObject({
      code: 'ENOSPC',
    });
    await disk.close().catch(() => undefined);
    const whole = await readFile(path);
    expect(whole.subarray(MiB + bytes.length).equals(Buffer.alloc(MiB, 'b'))).toBe(true);
  });

  it('of a raw disk begins and ends where it is said to', async () => {
    const bytes = pattern(6, MiB);
    const store = new MemoryStorage(bytes);
    const { disk } = await openDisk(store, {
      format: 'raw',
      mode: 'r+',
      window: { offset: 1000, size: 4096n },
    });
    expect((await contentOf(disk)).equals(bytes.subarray(1000, 5096))).toBe(true);
    for await (const { start, length, hostOffset } of disk.extents()) {
      expect({ start, length, hostOffset }).toEqual({ start: 0, length: 4096, hostOffset: 1000 });
    }
    await disk.close();
    // Not what was opened there: the store is the caller's.
    expect(await store.size()).toBe(MiB);
  });

  it.each([
    [{ offset: MiB + 1 }, 'offset'],
    [{ offset: 1, size: MiB }, 'size'],
    [{ size: -1 }, 'size'],
    [{ offset: 0.5 }, 'offset'],
  ])('is not %o of a file of 1 MiB', async (window, name) => {
    const path = inDirectory('file');
    await writeFile(path, Buffer.alloc(MiB));
    const failure = await openDisk(path, { format: 'raw', window }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(RangeError);
    expect(String(failure)).toContain(`"${name}"`);
  });
});

describe('a backing file that the caller chooses', () => {
  it('is in the place of what the image names, which need not be there', async () => {
    const top = inDirectory('top.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-u', '-b', 'missing', '-F', 'qcow2', top, '1M']);
    const below = pattern(7, MiB);
    await writeFile(inDirectory('below.raw'), below);
    const backing = { source: inDirectory('below.raw'), format: 'raw' as const };
    const disk = await open(top, { mode: 'r+', backing });
    expect((await contentOf(disk)).equals(below)).toBe(true);
    await disk.write(pattern(8, 1000), 5000);
    const expected = await contentOf(disk);
    await disk.commit();
    expect((await contentOf(disk)).equals(expected)).toBe(true);
    await disk.close();
    expect((await readFile(inDirectory('below.raw'))).equals(expected)).toBe(true);
  });

  it('may be chosen further down, and in another format than the image says', async () => {
    const [top, middle] = [inDirectory('top.qcow2'), inDirectory('middle.qcow2')];
    await writeFile(inDirectory('base'), pattern(9, MiB));
    await qemuImg(['create', '-q', '-f', 'qcow2', '-u', '-b', 'base', '-F', 'qcow2', middle, '1M']);
    await qemuImg(['create', '-q', '-f', 'qcow2', '-u', '-b', middle, '-F', 'raw', top, '1M']);
    const disk = await open(top, {
      resolve: 'any',
      backing: { format: 'qcow2', backing: { format: 'raw', window: { offset: 512 } } },
    });
    const expected = Buffer.concat([pattern(9, MiB).subarray(512), Buffer.alloc(512)]);
    expect((await contentOf(disk)).equals(expected)).toBe(true);
    await disk.close();
  });

  it('must be named where the image names none, and be an image of its format', async () => {
    const top = inDirectory('top.qcow2');
    await (await create(top, MiB)).close();
    await expect(open(top, { backing: { format: 'raw' } })).rejects.toMatchObject({
      code: 'ERR_QCOW2_REFERENCE',
    });
    await writeFile(inDirectory('text'), 'no image');
    const backing = { source: inDirectory('text'), format: 'qcow2' as const };
    await expect(open(top, { backing })).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_QCOW2', depth: 1 });
  });
});
