/** Images with lazy refcounts that nobody closed: repaired when they are next opened for writing, and only then. */
import { spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import { expectCleanByQemu, qemuCheck, qemuContent, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { PlantedImage } from '../support/planted-damage.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const cluster = 65536;

describe('an image left dirty by qemu-io', () => {
  it('is read without being touched', async () => {
    const path = await dirtyImage();
    const before = await readFile(path);
    const disk = await open(path);
    const buffer = Buffer.alloc(cluster);
    await disk.read(buffer, 3 * cluster);
    await disk.close();
    expect(buffer).toEqual(Buffer.alloc(cluster, 4));
    expect((await readFile(path)).equals(before)).toBe(true);
  });

  it('is checked without being touched, with what qemu-img finds', async () => {
    const path = await dirtyImage();
    const before = await readFile(path);
    const disk = await open(path, { forRepair: true });
    const report = await disk.check();
    await disk.close();
    expect((await readFile(path)).equals(before)).toBe(true);
    const theirs = await qemuCheck(path);
    expect(report.corruptions).toBe(theirs.corruptions);
    expect(report.corruptions).toBeGreaterThan(0);
  });

  it('stays dirty when it is opened for a repair that does not come', async () => {
    const path = await dirtyImage();
    const disk = await open(path, { mode: 'r+', forRepair: true });
    await disk.close();
    expect(await isDirty(path)).toBe(true);
  });

  it('is repaired before the first write and clean after it', async () => {
    const path = await dirtyImage();
    const content = await contentOf(path);
    const disk = await open(path, { mode: 'r+' });
    const report = await disk.check();
    expect(report).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
    await disk.write(Buffer.alloc(cluster, 9), 7 * cluster);
    await disk.close();
    expect(await isDirty(path)).toBe(false);
    await expectCleanByQemu(path);
    content.fill(9, 7 * cluster, 8 * cluster);
    expect((await qemuContent(path)).equals(content)).toBe(true);
  });

  it('loses its DIRTY bit when it is opened for writing and closed', async () => {
    const path = await dirtyImage();
    await (await open(path, { mode: 'r+' })).close();
    expect((await qemuInfo(path))['format-specific']?.data['lazy-refcounts']).toBe(true);
    expect(await isDirty(path)).toBe(false);
    await expectCleanByQemu(path);
  });

  it('is refused for writing while something that refers to clusters cannot be read', async () => {
    const path = await dirtyImage();
    const image = await PlantedImage.open(path);
    // One snapshot, whose table entry claims more extra data than any image has.
    image.bytes.writeUInt32BE(1, 60);
    image.bytes.writeBigUInt64BE(BigInt(image.dataCluster(0) * cluster), 64);
    await image.save();
    await expect(open(path, { mode: 'r+' })).rejects.toThrow(/not closed properly.*snapshot table/);
    expect(await isDirty(path)).toBe(true);
  });
});

describe('an image left dirty by this package', () => {
  it('is dirty in the file while it is written, and recovers', async () => {
    const storage = new MemoryStorage();
    const disk = await create(storage, 64 * 1024 * 1024, { lazyRefcounts: true });
    const pattern = Buffer.alloc(5 * cluster, 0xa7);
    await disk.write(pattern, 3 * cluster);
    await disk.flush();
    const path = temp('killed.qcow2');
    await saveTo(storage, path);
    await disk.close();
    expect(await isDirty(path)).toBe(true);
    const again = await open(path, { mode: 'r+' });
    const buffer = Buffer.alloc(pattern.length);
    await again.read(buffer, 3 * cluster);
    expect(buffer.equals(pattern)).toBe(true);
    await again.write(Buffer.alloc(cluster, 1), 0);
    await again.close();
    await expectCleanByQemu(path);
    expect(await isDirty(path)).toBe(false);
  });

  it('recovers when its process is killed in the middle of writing', async () => {
    const path = temp('killed.qcow2');
    await writeUntilKilled(path);
    const disk = await open(path, { mode: 'r+' });
    expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
    const buffer = Buffer.alloc(cluster);
    await disk.read(buffer, 0);
    expect(buffer.equals(Buffer.alloc(cluster, 1))).toBe(true);
    await disk.close();
    await expectCleanByQemu(path);
  });
});

/** Six clusters written and then an abort: DIRTY is set, and their refcounts are 0 in the file. */
async function dirtyImage(): Promise<string> {
  const path = temp('image.qcow2');
  await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path, '64M']);
  const writes = Array.from({ length: 6 }, (_, i) => `write -P ${i + 1} ${i * cluster} ${cluster}`);
  await new Promise<void>((resolve, reject) => {
    const args = [...writes, 'flush', 'abort'].flatMap((command) => ['-c', command]);
    const child = spawn('qemu-io', ['-f', 'qcow2', ...args, path], { stdio: 'ignore' });
    child.once('error', reject);
    child.once('close', () => resolve());
  });
  expect(await isDirty(path)).toBe(true);
  return path;
}

/** DIRTY, as the bytes of the header have it. */
async function isDirty(path: string): Promise<boolean> {
  return ((await readFile(path)).readBigUInt64BE(72) & 1n) !== 0n;
}

/** The guest's bytes, read from a copy, as QEMU repairs what it opens. */
async function contentOf(path: string): Promise<Buffer> {
  const copy = temp('copy.qcow2');
  await writeFile(copy, await readFile(path));
  await qemuIo(copy, ['read 0 512']);
  return qemuContent(copy);
}

async function saveTo(storage: MemoryStorage, path: string): Promise<void> {
  const bytes = Buffer.alloc(await storage.size());
  await storage.read(bytes, 0);
  await writeFile(path, bytes);
}

/** Another process writes clusters of ones and says so after each flush; it is killed while it goes on. */
async function writeUntilKilled(path: string): Promise<void> {
  const library = new URL('../../dist/index.js', import.meta.url).href;
  const script = `
    const { create } = await import(${JSON.stringify(library)});
    const disk = await create(${JSON.stringify(path)}, 2 ** 30, { lazyRefcounts: true });
    for (let at = 0; ; at = (at + 131072) % 2 ** 29) {
      await disk.write(Buffer.alloc(65536, 1), at);
      await disk.flush();
      process.stdout.write('durable\\n');
    }`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  await new Promise<void>((resolve, reject) => {
    let lines = 0;
    child.stdout.on('data', (chunk: Buffer) => {
      lines += chunk.toString().split('\n').length - 1;
      if (lines >= 20) resolve();
    });
    void closed.then(() => reject(new Error(`the writer ended by itself (was npm run build run?): ${said}`)));
  });
  child.kill('SIGKILL');
  await closed;
  expect(await isDirty(path)).toBe(true);
}
