/** What is streamed is an image that QEMU finds clean and reads as the disk, of just the length that was announced. */
import { createWriteStream } from 'node:fs';
import { open as openFile, readdir, readFile, readlink, truncate, writeFile } from 'node:fs/promises';
import { PassThrough, Writable, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, expect, it } from 'vitest';
import {
  create,
  difference,
  MemoryStorage,
  open,
  openDisk,
  RawDisk,
  toQcow2Stream,
  type Disk,
  type SizedStream,
  type ToQcow2StreamOptions,
} from '../../lib/index.js';
import { imageKinds, makeImage } from '../support/image-kinds.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuCompare, qemuContent, qemuInfo, qemuMap } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { makeChain } from '../support/random-chain.js';
import { useTempDir } from '../support/temp-dir.js';
import { openWorkedOn } from '../support/work.js';

const path = useTempDir();
const KiB = 1024;
const MiB = 1024 * KiB;

/** Writes a stream to a file, and expects it to be as long as it said before its first byte. */
async function save(stream: SizedStream, name: string): Promise<number> {
  let before: number | null = null;
  let bytes = 0;
  stream.once('readable', () => (before = stream.length));
  const count = new PassThrough();
  count.on('data', (chunk: Buffer) => (bytes += chunk.length));
  await pipeline(stream, count, createWriteStream(path(name)));
  expect(before).toBe(bytes);
  return bytes;
}

/** Streams a disk and has QEMU compare it with a raw file. */
async function expectSame(disk: Disk, raw: string, options: ToQcow2StreamOptions = {}): Promise<void> {
  await save(toQcow2Stream(disk, options), 'streamed');
  await expectCleanByQemu(path('streamed'));
  await roundUp(disk.size, raw);
  const { same, output } = await qemuCompare(path(raw), path('streamed'), { a: 'raw' });
  expect(same, output).toBe(true);
}

/** QEMU leaves out what is past the last whole sector of a qcow2 image: makes that sector whole, in the header and the raw file. */
async function roundUp(size: number, raw: string): Promise<void> {
  const whole = Math.ceil(size / 512) * 512;
  const streamed = await openFile(path('streamed'), 'r+');
  const field = Buffer.alloc(8);
  await streamed.read(field, 0, 8, 24);
  expect(Number(field.readBigUInt64BE())).toBe(size);
  field.writeBigUInt64BE(BigInt(whole));
  await streamed.write(field, 0, 8, 24);
  await streamed.close();
  await truncate(path(raw), whole);
}

describe('a stream of every kind of image', () => {
  it.each(imageKinds)('$name', async (kind) => {
    const { made, disk } = await openWorkedOn(kind, path, 3);
    await made.model.saveAs(path('raw'));
    await expectSame(disk, 'raw');
    await disk.close();
  });

  it('a snapshot', async () => {
    const kind = imageKinds.find(({ snapshots }) => snapshots === 2);
    if (kind === undefined) throw new Error('no kind with snapshots');
    const made = await makeImage(kind, path);
    const image = await open(made.path, { mode: 'r' });
    await using snapshot = await image.snapshots.open('s1');
    await made.snapshots.get('s1')?.saveAs(path('raw'));
    await expectSame(snapshot, 'raw');
    await image.close();
  });

  it('a backing chain, flattened, from a path', async () => {
    const files = [
      { format: 'raw', size: 2 * MiB },
      { format: 'qcow2', size: MiB, options: 'cluster_size=4k' },
      { format: 'qcow2', size: 3 * MiB, options: 'extended_l2=on' },
    ] as const;
    const paths = await makeChain(path, 'x', files, 4);
    await writeFile(path('raw'), await qemuContent(paths[2] ?? ''));
    await save(toQcow2Stream(paths[2] ?? '', { open: { resolve: 'any' } }), 'streamed');
    await expectCleanByQemu(path('streamed'));
    expect((await qemuCompare(path('raw'), path('streamed'), { a: 'raw' })).same).toBe(true);
  });
});

describe('options and sizes', () => {
  const shapes: ToQcow2StreamOptions[] = [
    {},
    { version: 2 },
    { clusterSize: 512 },
    { clusterSize: 512, refcountBits: 64 },
    { clusterSize: 4096, refcountBits: 1 },
    { clusterSize: 2 * MiB },
    { extendedL2: true },
    { scanZeros: true },
    {
      clusterSize: 16 * KiB,
      extendedL2: true,
      scanZeros: true,
      lazyRefcounts: true,
      compressionType: 'zstd',
    },
  ];
  it.each(shapes)('%j', async (options) => {
    const model = mixedDisk(5, 3 * MiB + 777);
    await model.saveAs(path('raw'));
    const { disk } = await openDisk(path('raw'), { format: 'raw' });
    await expectSame(disk, 'raw', options);
    await disk.close();
  });

  it.each([0, 1, 511, 512, 513, 65536, 65537, 512 * MiB + 1])('a disk of %i bytes', async (size) => {
    const model = mixedDisk(size, size, Math.min(0.5, MiB / Math.max(size, 1)));
    await model.saveAs(path('raw'));
    const { disk } = await openDisk(path('raw'), { format: 'raw' });
    await expectSame(disk, 'raw');
    await disk.close();
  });

  it('a disk too large for its clusters fails before the first byte', async () => {
    const disk = new RawDisk(await sparse(2 ** 40), 2 ** 40, true);
    const stream = toQcow2Stream(disk, { clusterSize: 512 });
    await expect(stream.sized()).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT' });
    await expect(stream.toArray()).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT' });
  });

  it('16 TiB with little in them take little', async () => {
    const size = 16 * 2 ** 40;
    const image = await create(path('huge'), size);
    for (let at = 0; at < 40; at += 1) await image.write(pattern(at, 5000), Math.floor((size / 41) * at));
    const stream = toQcow2Stream(image);
    expect(await stream.sized()).toBeLessThan(12 * MiB);
    const bytes = await save(stream, 'streamed');
    expect(bytes).toBeLessThan(12 * MiB);
    await image.close();
    await expectCleanByQemu(path('streamed'));
    expect((await qemuCompare(path('huge'), path('streamed'))).same).toBe(true);
  });

  it('only clusters with data are stored', async () => {
    const raw = Buffer.alloc(4 * MiB);
    raw.fill(1, MiB, MiB + 100);
    const disk = new RawDisk(new MemoryStorage(raw), raw.length, true);
    const all = await toQcow2Stream(disk).sized();
    await save(toQcow2Stream(disk, { scanZeros: true }), 'scanned');
    const data = (await qemuMap(path('scanned'))).filter((entry) => entry.data);
    expect(data.map(({ start, length }) => ({ start, length }))).toEqual([{ start: MiB, length: 65536 }]);
    expect(all).toBeGreaterThan(64 * 65536);
  });
});

describe('an incremental stream', () => {
  it.each<ToQcow2StreamOptions>([
    {},
    { version: 2 },
    { clusterSize: 4096 },
    { clusterSize: 2 * MiB },
    { extendedL2: true },
    { scanZeros: true },
  ])('by a bitmap, with %j, completes the full one', async (options) => {
    const image = await create(path('disk'), 8 * MiB);
    await image.write(pattern(1, 3 * MiB), MiB);
    await save(toQcow2Stream(image, options), 'full');
    await image.bitmaps.create({ name: 'nightly' });
    await image.write(pattern(2, 100_000), 2 * MiB + 5);
    await image.writeZeroes(3 * MiB, 300_000);
    await image.discard(MiB, 65536);
    await image.write(Buffer.alloc(200_000), 2 * MiB + 300_000);
    await image.write(pattern(3, 65536), 7 * MiB);
    const stream = toQcow2Stream(image, {
      ...options,
      changes: difference(image, { bitmap: 'nightly' }),
      backing: { name: 'full', format: 'qcow2' },
    });
    await save(stream, 'incremental');
    await image.close();
    await expectCleanByQemu(path('incremental'));
    const { same, output } = await qemuCompare(path('disk'), path('incremental'));
    expect(same, output).toBe(true);
    expect((await qemuInfo(path('incremental')))['backing-filename']).toBe('full');
    const depths = new Set((await qemuMap(path('incremental'))).map(({ depth }) => depth));
    expect(depths.has(0)).toBe(true);
    if (options.clusterSize !== 2 * MiB) expect(depths.has(1)).toBe(true);
  });

  it('by the layers above a base, and by comparing', async () => {
    const files = [
      { format: 'qcow2', size: 3 * MiB },
      { format: 'qcow2', size: MiB },
      { format: 'qcow2', size: 4 * MiB, options: 'cluster_size=4k' },
    ] as const;
    const paths = await makeChain(path, 'x', files, 9);
    const [base = '', , top = ''] = paths;
    await using disk = await open(top, { resolve: 'any' });
    await using below = await open(base);
    for (const since of [{ base: 2 }, { disk: below }]) {
      const options = { changes: difference(disk, since), backing: { name: base, format: 'qcow2' } } as const;
      await save(toQcow2Stream(disk, options), 'incremental');
      await expectCleanByQemu(path('incremental'));
      const { same, output } = await qemuCompare(top, path('incremental'));
      expect(same, output).toBe(true);
    }
  });
});

describe('the consumer decides the pace and the end', () => {
  function source(): { disk: RawDisk; reads: () => number } {
    const storage = new MemoryStorage(pattern(1, 32 * MiB));
    let reads = 0;
    const counted = Object.assign(Object.create(storage) as MemoryStorage, {
      name: 'counted',
      readOnly: true,
      read: (buffer: Uint8Array, position: number) => {
        reads += buffer.length;
        return storage.read(buffer, position);
      },
      size: () => storage.size(),
      nextData: (at: number) => storage.nextData(at),
      nextHole: (at: number) => storage.nextHole(at),
    });
    return { disk: new RawDisk(counted, 32 * MiB, true), reads: () => reads };
  }

  it('a slow one holds the reading back', async () => {
    const { disk, reads } = source();
    const stream = toQcow2Stream(disk);
    let taken = 0;
    let most = 0;
    const slow = new Writable({
      highWaterMark: 1,
      write: (chunk: Buffer, _encoding, done) => {
        taken += chunk.length;
        most = Math.max(most, reads() - taken);
        setTimeout(done, 2);
      },
    });
    await pipeline(stream, slow);
    expect(taken).toBe(stream.length);
    expect(most).toBeLessThan(10 * MiB);
  });

  it.each(['destroy', 'abort', 'break'])('%s in the middle stops the reading', async (how) => {
    const { disk, reads } = source();
    const controller = new AbortController();
    const stream = toQcow2Stream(disk, { signal: controller.signal });
    const reason = new Error('enough');
    const taking = (async () => {
      let taken = 0;
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        taken += chunk.length;
        if (taken < 4 * MiB) continue;
        if (how === 'break') break;
        if (how === 'abort') controller.abort(reason);
        else stream.destroy(reason);
      }
    })();
    if (how === 'break') await taking;
    else await expect(taking).rejects.toBe(reason);
    const then = reads();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(reads()).toBe(then);
    expect(then).toBeLessThan(20 * MiB);
    // The disk is the caller's, and goes on.
    await disk.read(Buffer.alloc(10), 0);
  });

  it('a signal aborted before, and a stream destroyed before it is read', async () => {
    const { disk, reads } = source();
    const reason = new Error('never mind');
    await expect(toQcow2Stream(disk, { signal: AbortSignal.abort(reason) }).toArray()).rejects.toBe(reason);
    const stream = toQcow2Stream(disk);
    stream.destroy();
    await expect(stream.sized()).rejects.toThrow('destroyed');
    expect(reads()).toBe(0);
  });

  it('a failure that the promise of the length tells of needs no other listener', async () => {
    await expect(toQcow2Stream(path('none')).sized()).rejects.toMatchObject({ code: 'ENOENT' });
    const late = toQcow2Stream(path('none'));
    await expect(late.sized()).rejects.toMatchObject({ code: 'ENOENT' });
    await new Promise((resolve) => setImmediate(resolve));
    expect(late.destroyed).toBe(true);
  });

  it('what the stream opened itself is closed, however it ends', async () => {
    const model = mixedDisk(5, 5 * MiB);
    await model.saveAs(path('raw'));
    const opened = async (): Promise<number> => {
      const links = (await readdir('/proc/self/fd')).map((fd) =>
        readlink(`/proc/self/fd/${fd}`).catch(() => ''),
      );
      return (await Promise.all(links)).filter((link) => link === path('raw')).length;
    };
    for (const end of ['whole', 'destroyed']) {
      const stream = toQcow2Stream(path('raw'), { sourceFormat: 'raw' });
      await stream.sized();
      expect(await opened()).toBe(1);
      if (end === 'whole') stream.resume();
      else stream.destroy();
      await new Promise((resolve) => stream.once('close', resolve));
      expect(await opened()).toBe(0);
    }
  });

  it('a source that cannot be read fails the stream', async () => {
    const image = await create(path('disk'), 4 * MiB, { clusterSize: 4096 });
    await image.write(pattern(1, 3 * MiB), 0, { compress: true });
    await image.write(Buffer.alloc(MiB, 'text'), 3 * MiB, { compress: true });
    await image.close();
    const map = await readFile(path('disk'));
    const file = await openFile(path('disk'), 'r+');
    await file.write(Buffer.alloc(40_000, 0xff), 0, 40_000, map.length - 41_000);
    await file.close();
    await using disk = await open(path('disk'));
    const stream: Readable = toQcow2Stream(disk);
    await expect(stream.toArray()).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
  });
});

async function sparse(size: number): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  await storage.truncate(size);
  return storage;
}
