/** Dehydrating and rehydrating: the structure stays what it is, as QEMU sees it, and nothing the guest wrote is in between. */
import { link, readFile, stat, writeFile } from 'node:fs/promises';
import { Readable, Writable } from 'node:stream';
import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import {
  create,
  dehydrate,
  MemoryStorage,
  open,
  Qcow2Error,
  rehydrate,
  type DehydrateOptions,
  type Extent,
} from '../../lib/index.js';
import { imageKinds, makeImage } from '../support/image-kinds.js';
import { qemuCheck, qemuImg, qemuIo, qemuMap, type QemuMapEntry } from '../support/oracle.js';
import { Random } from '../support/pattern.js';
import { damages, PlantedImage } from '../support/planted-damage.js';
import { useTempDir } from '../support/temp-dir.js';

const kib = 1024;
const headSize = 16;
const temp = useTempDir('memory');

/** Text that says where it is, so that no byte of it looks like metadata. */
function guestText(length: number): Buffer {
  const lines: string[] = [];
  for (let at = 0; at < length; at += 32) lines.push(`GUEST DATA ${String(at).padStart(20, '.')}\n`);
  return Buffer.from(lines.join(''), 'latin1').subarray(0, length);
}

const marker = Buffer.from('GUEST DA', 'latin1');

async function throughContainer(from: string, to: string, options: DehydrateOptions = {}): Promise<Buffer> {
  const container = temp('container');
  await dehydrate(from, container, options);
  await rehydrate(container, to);
  return gunzipSync((await readFile(container)).subarray(headSize));
}

describe('an image of every kind', () => {
  it.each(imageKinds.map((kind) => [kind.name, kind] as const))('%s', async (_name, kind) => {
    const made = await makeImage(kind, temp);
    const disk = await open(made.path, made.open);
    const text = guestText(Math.min(kind.size, 30 * kind.clusterSize));
    await disk.write(text.subarray(0, text.length - (text.length % 512)), 0);
    if (kind.compress) {
      // Levels of no use leave text as it is: what cannot be found compressed, can be found stored.
      const random = new Random(3);
      const noise = Buffer.alloc(kind.clusterSize, marker);
      for (let i = 0; i < noise.length / 2; i += 9) noise[i] = random.below(256);
      await disk.write(noise, 0, { compress: true });
    }
    await disk.discard(3 * kind.clusterSize, kind.clusterSize);
    await disk.close();

    const pieces = await throughContainer(made.path, temp('again'));
    expect(pieces.includes(marker)).toBe(false);
    expect((await readFile(temp('again'))).includes(marker)).toBe(false);
    expect((await stat(temp('again'))).size).toBe((await stat(made.path)).size);
    expect(await checkAndMap(temp('again'))).toEqual(await checkAndMap(made.path));
    if (kind.backing !== undefined || made.dataPath !== null || kind.options.encryption !== undefined) return;
    const theirs = { ...(await qemuCheck(made.path)), filename: temp('again') };
    expect(await qemuCheck(temp('again'))).toEqual(theirs);
    expect(places(await qemuMap(temp('again')))).toEqual(places(await qemuMap(made.path)));
  });
});

/** What has which place. Whether the file has a hole there, which QEMU tells, too, is another matter. */
function places(map: QemuMapEntry[]): unknown[] {
  const found: { start: number; length: number; offset: number | undefined }[] = [];
  for (const { start, length, offset } of map) {
    const last = found.at(-1);
    const expected = last?.offset === undefined ? undefined : last.offset + last.length;
    if (last !== undefined && offset === expected) last.length += length;
    else found.push({ start, length, offset });
  }
  return found;
}

async function checkAndMap(path: string): Promise<unknown> {
  const dataFile = (await readFile(path)).readBigUInt64BE(72) & 4n ? { dataFile: new MemoryStorage() } : {};
  const disk = await open(path, { backing: 'none', forRepair: true, ...dataFile });
  const report = await disk.check();
  const extents: Extent[] = [];
  for await (const extent of disk.extents({ layers: 'self' })) extents.push(extent);
  const { size, header } = disk;
  await disk.close();
  return { report, extents, size, geometry: header.geometry, snapshots: header.nbSnapshots };
}

describe.each(['cluster_size=65536', 'cluster_size=512', 'cluster_size=65536,extended_l2=on'])(
  'a damaged image, %s',
  (options) => {
    it.each(damages)('$name', async ({ plant }) => {
      const path = temp('image');
      await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, path, '4M']);
      const writes = Array.from({ length: 6 }, (_, i) => `write -P ${i + 1} ${i * 64}k 64k`);
      await qemuIo(path, writes);
      const image = await PlantedImage.open(path);
      plant(image);
      await image.save();
      await throughContainer(path, temp('again'));
      const [ours, theirs] = await Promise.all([path, temp('again')].map(counts));
      expect(theirs).toEqual(ours);
      expect(asCounts(await qemuCheck(temp('again')))).toEqual(asCounts(await qemuCheck(path)));
    });
  },
);

async function counts(path: string): Promise<unknown> {
  const disk = await open(path, { forRepair: true });
  const { leaks, corruptions, checkErrors, imageEndOffset, allocatedClusters } = await disk.check();
  await disk.close();
  return { leaks, corruptions, checkErrors, imageEndOffset, allocatedClusters };
}

const asCounts = ({ leaks, corruptions, exit }: Awaited<ReturnType<typeof qemuCheck>>): unknown => ({
  leaks,
  corruptions,
  exit,
});

describe('guest data where metadata should be', () => {
  const overwrite = (image: PlantedImage, at: number, length = image.clusterSize): void => {
    guestText(length).copy(image.bytes, at);
  };
  const places: [string, (image: PlantedImage) => void][] = [
    ['an L2 table', (image) => overwrite(image, image.l2())],
    ['one sector of an L2 table', (image) => overwrite(image, image.l2() + 1024, 512)],
    ['the L1 table', (image) => overwrite(image, image.l1 + 16, 32)],
    ['behind the L1 table', (image) => overwrite(image, image.l1 + 8 * 1024, 4096)],
    ['a refcount block', (image) => overwrite(image, image.refcountBlock() + 512, 4096)],
    ['the refcount table', (image) => overwrite(image, image.refcountTable + 8, 4096)],
    ['the header cluster', (image) => overwrite(image, 1024, 4096)],
    ['an L2 table that is a data cluster, too', (image) => image.setEntry(image.l1, 1, image.l2Entry(2))],
    [
      'a refcount block that is a data cluster, too',
      (image) => image.setEntry(image.refcountTable, 0, image.l2Entry(2) & ~copiedFlag),
    ],
  ];
  it.each(places)('%s', async (_name, plant) => {
    const path = temp('image');
    const disk = await create(path, 1024 * 1024 * 1024, { clusterSize: 65536 });
    await disk.write(guestText(640 * kib), 0);
    await disk.close();
    const image = await PlantedImage.open(path);
    plant(image);
    await image.save();
    const pieces = await throughContainer(path, temp('again'));
    for (const part of ['GUEST', 'DATA', '....']) expect(pieces.includes(part), part).toBe(false);
  });
});

const copiedFlag = 1n << 63n;

describe('names and keys', () => {
  it('are left out, or kept where that is wanted', async () => {
    const disk = await create(temp('image'), 640 * kib, {
      backing: { name: '/home/alice/secret-base.qcow2', unchecked: true, format: 'qcow2' },
    });
    await disk.close();
    const image = await open(temp('image'), { mode: 'r+', backing: 'none' });
    await image.snapshots.create({ name: 'before the merger' });
    await image.bitmaps.create({ name: 'alice-backup' });
    await image.bitmaps.create({ name: 'alice-other' });
    await image.close();
    const without = await throughContainer(temp('image'), temp('without'));
    for (const name of ['alice', 'merger', 'secret-base']) expect(without.includes(name)).toBe(false);
    const kept = await throughContainer(temp('image'), temp('kept'), { strings: true });
    for (const name of ['/home/alice/secret-base', 'before the merger', 'alice-backup']) {
      expect(kept.includes(name)).toBe(true);
    }
    for (const path of [temp('without'), temp('kept')]) {
      const again = await open(path, { backing: 'none' });
      expect(await again.snapshots.list()).toHaveLength(1);
      expect(await again.bitmaps.list()).toHaveLength(2);
      expect(await again.check()).toMatchObject({ leaks: 0, corruptions: 0, checkErrors: 0 });
      await again.close();
    }
  });

  it('of LUKS: nothing that helps to open the image', async () => {
    const path = temp('image');
    await (await create(path, 640 * kib, { encryption: { secret: 'abc', iterTimeMs: 10 } })).close();
    const bytes = await readFile(path);
    const disk = await open(path);
    const { offset = 0, length = 0 } = disk.header.encryption ?? {};
    await disk.close();
    const header = bytes.subarray(offset, offset + 592);
    const pieces = await throughContainer(path, temp('again'));
    const secrets = [header.subarray(112, 132), header.subarray(132, 164), header.subarray(168, 204)];
    for (let slot = 0; slot < 8; slot++) secrets.push(header.subarray(216 + slot * 48, 248 + slot * 48));
    const isBlank = (part: Buffer): boolean => part.every((byte) => byte === 0);
    for (const secret of secrets.filter((part) => !isBlank(part)))
      expect(pieces.includes(secret)).toBe(false);
    const again = await readFile(temp('again'));
    expect(isBlank(again.subarray(offset + 592, offset + length))).toBe(true);
    await expect(open(temp('again'), { secret: 'abc' })).rejects.toMatchObject({ code: 'ERR_QCOW2_SECRET' });
    const look = await open(temp('again'));
    const { encryption } = await look.info();
    expect(encryption?.format === 'luks' && encryption.slots.filter(({ active }) => active)).toHaveLength(1);
    await look.close();
  });

  it('bits of bitmaps only where they are wanted', async () => {
    const path = temp('image');
    const disk = await create(path, 64 * 1024 * kib);
    await disk.bitmaps.create({ name: 'b' });
    await disk.write(Buffer.alloc(65536, 1), 20 * 1024 * kib);
    await disk.close();
    const dirtyOf = async (name: string): Promise<unknown[]> => {
      const image = await open(name);
      const found: unknown[] = [];
      const [bitmap] = await image.bitmaps.list();
      for await (const extent of image.bitmaps.extents(bitmap?.name ?? '')) found.push(extent);
      await image.close();
      return found;
    };
    await throughContainer(path, temp('without'));
    expect(await dirtyOf(temp('without'))).toEqual([]);
    await throughContainer(path, temp('with'), { bitmapContents: true });
    expect(await dirtyOf(temp('with'))).toEqual(await dirtyOf(path));
  });
});

describe('containers', () => {
  async function anyContainer(): Promise<Buffer> {
    const image = new MemoryStorage();
    const disk = await create(image, 100 * 1024 * kib, { clusterSize: 4096 });
    await disk.write(Buffer.alloc(300 * kib, 5), 0);
    await disk.close();
    const chunks: Buffer[] = [];
    await dehydrate(
      image,
      new Writable({
        write: (chunk: Buffer, _encoding, done) => {
          chunks.push(chunk);
          done();
        },
      }),
    );
    return Buffer.concat(chunks);
  }

  /** A container with this in its gzip stream. */
  const containerOf = (head: Buffer, ...parts: Buffer[]): Buffer =>
    Buffer.concat([head.subarray(0, headSize), gzipSync(Buffer.concat(parts))]);
  const u64 = (value: bigint): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(value);
    return bytes;
  };
  const piece = (offset: bigint, length: number, bytes = Buffer.alloc(length)): Buffer => {
    const size = Buffer.alloc(4);
    size.writeUInt32BE(length);
    return Buffer.concat([u64(offset), size, bytes]);
  };
  const end = (total: number): Buffer => piece(2n ** 64n - 1n, total, Buffer.alloc(0));

  it('go through a stream, and are small', async () => {
    const container = await anyContainer();
    expect(container.length).toBeLessThan(8 * kib);
    const target = new MemoryStorage();
    await rehydrate(Readable.from([container.subarray(0, 5), container.subarray(5)]), target);
    const disk = await open(target);
    expect(await disk.check()).toMatchObject({ leaks: 0, corruptions: 0, allocatedClusters: 75 });
    await disk.close();
  });

  it('that are cut off or changed anywhere are refused, and leave an empty target', async () => {
    const container = await anyContainer();
    const random = new Random(1);
    const refused = async (bytes: Buffer): Promise<void> => {
      const target = new MemoryStorage();
      await expect(rehydrate(Readable.from([bytes]), target)).rejects.toBeInstanceOf(Qcow2Error);
      expect(await target.size()).toBe(0);
    };
    for (let at = 0; at < container.length; at += Math.ceil(container.length / 60)) {
      await refused(container.subarray(0, at));
    }
    for (let i = 0; i < 60; i++) {
      const changed = Buffer.from(container);
      // The four bytes of the time and two more in the header of the gzip stream mean nothing.
      const at = i < headSize ? i : headSize + 10 + random.below(container.length - headSize - 10);
      changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
      await refused(changed);
    }
  });

  it('with pieces where none can be are refused', async () => {
    const head = await anyContainer();
    const size = u64(65536n);
    const cases: [string, Buffer[]][] = [
      ['past the end', [size, piece(65530n, 8), end(8)]],
      ['far past the end', [size, piece(2n ** 63n, 8), end(8)]],
      ['backwards', [size, piece(4096n, 8), piece(0n, 8), end(16)]],
      ['overlapping', [size, piece(0n, 16), piece(8n, 8), end(24)]],
      ['empty', [size, piece(0n, 0), end(0)]],
      ['too long', [size, piece(0n, 4 * 1024 * kib), end(4 * 1024 * kib)]],
      ['a wrong sum', [size, piece(0n, 8), end(9)]],
      ['no end', [size, piece(0n, 8)]],
      ['something behind the end', [size, piece(0n, 8), end(8), Buffer.alloc(1)]],
      ['a file past 2^53', [u64(2n ** 60n), end(0)]],
      ['no image in it', [size, piece(0n, 512, Buffer.alloc(512, 'x')), end(512)]],
    ];
    for (const [name, parts] of cases) {
      const target = new MemoryStorage();
      const refusal = rehydrate(Readable.from([containerOf(head, ...parts)]), target);
      await expect(refusal, name).rejects.toBeInstanceOf(Qcow2Error);
      expect(await target.size(), name).toBe(0);
    }
  });

  it('that unpack to more than is allowed are refused', async () => {
    const head = await anyContainer();
    const pieces = Array.from({ length: 64 }, (_, i) => piece(BigInt(i * 1024 * kib), 1024 * kib));
    const bomb = containerOf(head, u64(2n ** 40n), ...pieces, end(64 * 1024 * kib));
    expect(bomb.length).toBeLessThan(100 * kib);
    const target = new MemoryStorage();
    const options = { maxBytes: 10 * 1024 * kib };
    await expect(rehydrate(Readable.from([bomb]), target, options)).rejects.toMatchObject({
      code: 'ERR_QCOW2_LIMIT',
    });
    expect(await target.size()).toBe(0);
  });

  it('are not written over what they are made of, nor is that written over them', async () => {
    await (await create(temp('image'), 640 * kib)).close();
    await link(temp('image'), temp('linked'));
    const image = await readFile(temp('image'));
    const refusal = { code: 'ERR_QCOW2_DATA_LOSS' };
    await expect(dehydrate(temp('image'), temp('linked'))).rejects.toMatchObject(refusal);
    expect((await readFile(temp('image'))).equals(image)).toBe(true);
    const container = await anyContainer();
    await writeFile(temp('container'), container);
    await expect(rehydrate(temp('container'), temp('container'))).rejects.toMatchObject(refusal);
    expect((await readFile(temp('container'))).equals(container)).toBe(true);
  });

  it('stop when told to', async () => {
    const container = await anyContainer();
    await writeFile(temp('container'), container);
    const signal = AbortSignal.abort(new Error('enough'));
    const target = new MemoryStorage();
    await expect(rehydrate(temp('container'), target, { signal })).rejects.toThrow('enough');
    expect(await target.size()).toBe(0);
    const image = new MemoryStorage();
    await (await create(image, 640 * kib)).close();
    const sink = new Writable({ write: (_chunk, _encoding, done) => done() });
    await expect(dehydrate(image, sink, { signal })).rejects.toThrow();
  });

  it.each([0, 5, headSize, 200])('stop where the stream gives no more than %i bytes', async (length) => {
    const container = await anyContainer();
    const stream = new Readable({ read: () => undefined });
    stream.push(container.subarray(0, length));
    const target = new MemoryStorage();
    const stop = new AbortController();
    const work = rehydrate(stream, target, { signal: stop.signal });
    setTimeout(() => stop.abort(new Error('enough')), 20);
    await expect(work).rejects.toThrow('enough');
    expect(stream.destroyed).toBe(true);
    expect(await target.size()).toBe(0);
  });
});
