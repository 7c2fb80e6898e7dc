/** Images that keep guest data in a file of its own. */
import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type Qcow2 } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent, qemuIo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const inDirectory = useTempDir();
const image = (): string => inDirectory('image.qcow2');
const data = (): string => inDirectory('data');

/** The name is absolute, since QEMU takes relative ones from its working directory. */
function make(raw: boolean, size = 4 * MiB): Promise<Qcow2> {
  return create(image(), size, { dataFile: { name: data(), raw } });
}

async function contentOf(disk: Qcow2): Promise<Buffer> {
  const content = Buffer.alloc(disk.size, 0xcd);
  await disk.read(content, 0);
  return content;
}

describe.each([
  { name: 'a plain data file', raw: false },
  { name: 'a raw data file', raw: true },
])('$name', ({ raw }) => {
  it('holds the guest bytes in their places, the image none of them', async () => {
    const disk = await make(raw);
    await disk.write(pattern(1, MiB), MiB + 12_345);
    await disk.close();
    const file = await readFile(data());
    expect(file.subarray(MiB + 12_345, 2 * MiB + 12_345).equals(pattern(1, MiB))).toBe(true);
    expect((await stat(image())).size).toBeLessThan(MiB);
    await expectCleanByQemu(image());
  });

  it('is read and written by QEMU, and its work is read here', async () => {
    const disk = await make(raw);
    await disk.write(pattern(1, 2 * MiB), 500_000);
    await disk.writeZeroes(700_000, 300_000);
    await disk.close();
    await qemuIo(image(), ['write -P 9 1M 64k', 'write -z 2M 128k', 'write -P 8 3M 1M']);
    const again = await open(image(), { resolve: 'any' });
    const expected = await qemuContent(image());
    expect((await contentOf(again)).equals(expected)).toBe(true);
    expect(expected.subarray(3 * MiB).every((byte) => byte === 8)).toBe(true);
    await again.close();
  });

  it('reads as zeros past its end', async () => {
    const disk = await make(raw);
    await disk.write(pattern(1, 4 * MiB), 0);
    await disk.close();
    await truncate(data(), MiB + 100);
    const again = await open(image(), { resolve: 'any' });
    const expected = Buffer.alloc(4 * MiB);
    pattern(1, MiB + 100).copy(expected);
    expect((await contentOf(again)).equals(expected)).toBe(true);
    await again.close();
  });

  it('takes no compressed clusters', async () => {
    const disk = await make(raw);
    const refused = { code: 'ERR_QCOW2_CONFLICT' };
    await expect(disk.write(Buffer.alloc(65536), 0, { compress: true })).rejects.toMatchObject(refused);
    await disk.close();
  });

  it('may be given in place of the one the image names, from memory too', async () => {
    const disk = await make(raw);
    await disk.write(pattern(1, 65536), 0);
    await disk.close();
    const other = new MemoryStorage(Buffer.from(pattern(2, 4 * MiB)));
    const again = await open(image(), { mode: 'r+', dataFile: other });
    await again.write(pattern(3, 512), 0);
    const start = Buffer.alloc(65536);
    await again.read(start, 0);
    await again.close();
    expect(start.equals(Buffer.concat([pattern(3, 512), pattern(2, 65536).subarray(512)]))).toBe(true);
    expect((await readFile(data())).subarray(0, 65536).equals(pattern(1, 65536))).toBe(true);
  });

  it('that may not be written refuses a read-write open', async () => {
    await (await make(raw)).close();
    const storage = new MemoryStorage(Buffer.alloc(4 * MiB));
    const readOnly = Object.create(storage, { readOnly: { value: true } }) as MemoryStorage;
    await expect(open(image(), { mode: 'r+', dataFile: readOnly })).rejects.toMatchObject({
      code: 'ERR_QCOW2_READ_ONLY',
    });
  });
});

describe('a raw data file', () => {
  it('is the disk, byte for byte, whatever is done to it', async () => {
    const disk = await make(true);
    const expected = Buffer.alloc(4 * MiB);
    await disk.write(pattern(1, 3 * MiB), 1000);
    pattern(1, 3 * MiB).copy(expected, 1000);
    for (const [start, end] of [
      [5000, 5100],
      [65536, 3 * 65536],
      [MiB - 7, MiB + 700_000],
    ] as const) {
      await disk.writeZeroes(start, end - start);
      expected.fill(0, start, end);
    }
    await disk.discard(2 * MiB, MiB);
    expected.fill(0, 2 * MiB, 3 * MiB);
    await disk.close();
    expect((await readFile(data())).equals(expected)).toBe(true);
  });

  it('gives the space of discarded ranges back', async () => {
    const disk = await make(true);
    await disk.write(pattern(1, 4 * MiB), 0);
    await disk.flush();
    const before = (await stat(data())).blocks;
    await disk.discard(0, 3 * MiB);
    await disk.close();
    expect((await stat(data())).blocks * 512).toBeLessThan(before * 512 - 2 * MiB);
  });

  it.each([
    { what: 'new', made: 4 * MiB },
    { what: 'grown', made: MiB },
  ])('of a $what disk, changed by others, shows the change', async ({ made }) => {
    const first = await make(true, made);
    await first.resize(4 * MiB);
    await first.close();
    await writeFile(data(), pattern(5, 4 * MiB));
    const disk = await open(image(), { resolve: 'any' });
    expect((await contentOf(disk)).equals(pattern(5, 4 * MiB))).toBe(true);
    await disk.close();
  });
});
