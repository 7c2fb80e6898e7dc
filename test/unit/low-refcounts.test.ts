/** Jobs that share or drop clusters in bulk, on images in which any one refcount is too low: nothing that can be read is lost. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, Qcow2Error, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { pattern } from '../support/pattern.js';

const KiB = 1024;

interface Content {
  readonly disk: Buffer;
  readonly snapshots: Readonly<Record<string, Buffer>>;
}

interface Job {
  readonly name: string;
  readonly run: (disk: Qcow2) => Promise<unknown>;
  /** What is left to be read when it is done. */
  readonly after: (before: Content) => Content;
}

const without = ({ disk, snapshots }: Content, name: string): Content => ({
  disk,
  snapshots: Object.fromEntries(Object.entries(snapshots).filter(([other]) => other !== name)),
});

const jobs: readonly Job[] = [
  {
    name: 'snapshot create',
    run: (disk) => disk.snapshots.create({ name: 'new' }),
    after: ({ disk, snapshots }) => ({ disk, snapshots: { ...snapshots, new: disk } }),
  },
  ...['first', 'second'].map((name) => ({
    name: `snapshot delete, ${name}`,
    run: (disk: Qcow2) => disk.snapshots.delete(name),
    after: (before: Content) => without(before, name),
  })),
  ...['first', 'second'].map((name) => ({
    name: `snapshot apply, ${name}`,
    run: (disk: Qcow2) => disk.snapshots.apply(name),
    after: ({ snapshots }: Content) => ({ disk: snapshots[name] ?? Buffer.alloc(0), snapshots }),
  })),
  // By whole tables, and by entries.
  ...[130 * KiB, 3 * KiB].map((lost) => ({
    name: `shrink by ${lost} bytes`,
    run: (disk: Qcow2) => disk.resize(disk.size - lost, { shrink: true }),
    after: ({ disk, snapshots }: Content) => ({ disk: disk.subarray(0, disk.length - lost), snapshots }),
  })),
];

describe.each<CreateOptions & { clusterSize: number }>([
  { clusterSize: 512 },
  { clusterSize: 1024, refcountBits: 8 },
])('with $clusterSize-byte clusters', (kind) => {
  it.each(jobs)('$name', async (job) => {
    const start = await startImage(kind);
    const before = await contentOf(start);
    const used = usedRefcounts(start.toBuffer());
    let refused = 0;
    for (const { at, bytes, cluster } of used) {
      const image = start.clone();
      await lower(image, at, bytes);
      const disk = await open(image, { mode: 'r+' });
      const failure: unknown = await job.run(disk).then(
        () => null,
        (error: unknown) => error,
      );
      await disk.close();
      const what = `with the refcount of cluster ${cluster} too low`;
      if (failure === null) {
        expectSame(await contentOf(image), job.after(before), what);
        continue;
      }
      refused += 1;
      expect(failure, what).toBeInstanceOf(Qcow2Error);
      expect(failure, what).toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
      expectSame(await contentOf(image), before, `${what}, refused`);
    }
    expect(refused).toBeGreaterThan(0);
  });

  it.each(jobs)('$name, after a repair', async (job) => {
    const image = await startImage(kind);
    const before = await contentOf(image);
    for (const { at, bytes } of usedRefcounts(image.toBuffer())) await lower(image, at, bytes);
    const disk = await open(image, { mode: 'r+' });
    await disk.check({ repair: 'all' });
    await job.run(disk);
    expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
    await disk.close();
    expectSame(await contentOf(image), job.after(before), 'after a repair');
  });
});

/** With clusters and tables that the disk and its snapshots have alone, by two and by three; its end in tables of its own. */
async function startImage(options: CreateOptions & { clusterSize: number }): Promise<MemoryStorage> {
  const image = new MemoryStorage();
  const { clusterSize } = options;
  const disk = await create(image, 140 * KiB, options);
  const tail = disk.size - 8 * clusterSize;
  await disk.write(pattern(1, 6 * clusterSize), 0);
  await disk.write(pattern(2, 6 * clusterSize), tail);
  await disk.snapshots.create({ name: 'first' });
  await disk.write(pattern(3, 2 * clusterSize), clusterSize);
  await disk.write(pattern(4, 2 * clusterSize), tail + clusterSize);
  await disk.snapshots.create({ name: 'second' });
  await disk.write(pattern(5, 2 * clusterSize), 2 * clusterSize);
  await disk.write(pattern(6, clusterSize), tail + 2 * clusterSize);
  await disk.close();
  return image;
}

async function contentOf(image: MemoryStorage): Promise<Content> {
  const disk = await open(image);
  const snapshots: Record<string, Buffer> = {};
  for (const { name } of await disk.snapshots.list())
    snapshots[name] = await bytesOf(await disk.snapshots.open(name));
  const content = { disk: await bytesOf(disk), snapshots };
  await disk.close();
  return content;
}

async function bytesOf(disk: { size: number; read: Qcow2['read'] }): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

function expectSame(found: Content, wanted: Content, what: string): void {
  expect(Object.keys(found.snapshots), what).toEqual(Object.keys(wanted.snapshots));
  expect(found.disk.equals(wanted.disk), `${what}: the disk`).toBe(true);
  for (const [name, content] of Object.entries(wanted.snapshots)) {
    expect(found.snapshots[name]?.equals(content), `${what}: ${name}`).toBe(true);
  }
}

/** Where the refcounts other than 0 are in the file. */
function usedRefcounts(image: Buffer): { at: number; bytes: number; cluster: number }[] {
  const clusterSize = 2 ** image.readUInt32BE(20);
  const bytes = 2 ** (image.readUInt32BE(96) - 3);
  const table = Number(image.readBigUInt64BE(48));
  const used: { at: number; bytes: number; cluster: number }[] = [];
  for (let index = 0; index < clusterSize / 8; index += 1) {
    const block = Number(image.readBigUInt64BE(table + index * 8));
    if (block === 0) continue;
    const entries = clusterSize / bytes;
    for (let entry = 0; entry < entries; entry += 1) {
      const at = block + entry * bytes;
      if (image.readUIntBE(at, bytes) > 0) used.push({ at, bytes, cluster: index * entries + entry });
    }
  }
  return used;
}

async function lower(image: MemoryStorage, at: number, bytes: number): Promise<void> {
  const refcount = Buffer.alloc(bytes);
  await image.read(refcount, at);
  refcount.writeUIntBE(refcount.readUIntBE(0, bytes) - 1, 0, bytes);
  await image.write(refcount, at);
}
