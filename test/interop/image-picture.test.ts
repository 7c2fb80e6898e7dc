/** Pictures of images: their sums are what QEMU's tools count in the same images. */
import { copyFile, open as openFile, stat, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, imagePicture, open, type ImagePicture, type PartList } from '../../lib/index.js';
import { qemuCheck, qemuImg, qemuIo, qemuMap } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const at = useTempDir();

const sum = (values: Float64Array): number => values.reduce((total, value) => total + value, 0);

function totals<Kind extends string>({ bytes }: PartList<Kind>): Record<Kind, number> {
  return Object.fromEntries(
    Object.entries<Float64Array>(bytes).map(([kind, list]) => [kind, sum(list)]),
  ) as Record<Kind, number>;
}

async function pictureOf(path: string, parts = 64): Promise<ImagePicture> {
  const image = await open(path, { resolve: 'any' });
  try {
    return await imagePicture(image, { parts });
  } finally {
    await image.close();
  }
}

/** What qemu-img map says the image itself (depth 0) holds. */
async function byQemu(path: string): Promise<{ data: number; compressed: number; zero: number }> {
  const found = { data: 0, compressed: 0, zero: 0 };
  for (const { depth, data, zero, present, length, offset } of await qemuMap(path)) {
    if (depth !== 0 || !present) continue;
    // Compressed data has no offset.
    if (data) found[offset === undefined ? 'compressed' : 'data'] += length;
    else if (zero) found.zero += length;
  }
  return found;
}

/** Gives clusters at the end of the file refcounts that nobody needs: an image with leaks. */
async function leak(path: string, clusters: number): Promise<void> {
  const { size } = await stat(path);
  const file = await openFile(path, 'r+');
  try {
    const header = Buffer.alloc(104);
    await file.read(header, 0, 104, 0);
    const pointer = Buffer.alloc(8);
    await file.read(pointer, 0, 8, Number(header.readBigUInt64BE(48)));
    const block = Number(pointer.readBigUInt64BE());
    for (let i = 0; i < clusters; i++)
      await file.write(Buffer.from([0, 1]), 0, 2, block + (Math.ceil(size / 65536) + i) * 2);
    await file.truncate((Math.ceil(size / 65536) + clusters) * 65536);
  } finally {
    await file.close();
  }
}

describe('imagePicture', () => {
  it('adds up what qemu-img finds in an image of every kind of cluster', async () => {
    const path = at('disk.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', path, '64M']);
    await qemuIo(path, ['write -P 1 0 5M', 'write -c -P 2 8M 2M', 'write -z 20M 3M', 'write -P 3 40M 64k']);
    const picture = await pictureOf(path);
    const disk = totals(picture.layers[0]?.disk ?? expect.fail('no layer'));
    expect(disk).toMatchObject(await byQemu(path));
    expect(sum(Float64Array.of(...Object.values(disk)))).toBe(64 * MiB);
    const file = totals(picture.file);
    expect(sum(Float64Array.of(...Object.values(file)))).toBe(Math.ceil(picture.file.size / 65536) * 65536);
    expect(file).toMatchObject({ data: 5 * MiB + 65536, kept: 0, leaked: 0, other: 0 });
    // Header, L1 table, L2 table, refcount table and block.
    expect(file.metadata).toBe(5 * 65536);
    expect(sum(picture.links.bytes)).toBeGreaterThanOrEqual(5 * MiB + 65536);
  });

  it('knows leaked clusters, and what snapshots alone have', async () => {
    const path = at('disk.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', path, '64M']);
    await qemuIo(path, ['write -P 1 0 4M']);
    await qemuImg(['snapshot', '-c', 'first', path]);
    await qemuIo(path, ['write -P 2 0 1M']);
    await leak(path, 7);
    const check = await qemuCheck(path);
    expect(check.leaks).toBe(7);
    const picture = await pictureOf(path);
    const file = totals(picture.file);
    expect(file).toMatchObject({ leaked: 7 * 65536, data: 4 * MiB, other: MiB });
    expect(picture).toMatchObject({ refcountsTooHigh: 7, refcountsTooLow: 0 });
    expect(picture.snapshots.map(({ name }) => name)).toEqual(['first']);
    // Seven at the end: they are where the file is, not spread.
    expect([...picture.file.bytes.leaked].filter((bytes) => bytes > 0).length).toBeLessThanOrEqual(7);
  });

  it('shows each layer of a chain by itself', async () => {
    const [base, top, raw] = [at('base.qcow2'), at('top.qcow2'), at('raw.img')];
    await writeFile(raw, '');
    await truncate(raw, 16 * MiB);
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', raw, '-F', 'raw', base, '16M']);
    await qemuIo(base, ['write -P 1 0 3M']);
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top, '32M']);
    await qemuIo(top, ['write -P 2 1M 1M']);
    const { layers } = await pictureOf(top);
    expect(layers.map(({ name, format, size }) => [name, format, size])).toEqual([
      [null, 'qcow2', 32 * MiB],
      [base, 'qcow2', 16 * MiB],
      [raw, 'raw', 16 * MiB],
    ]);
    expect(layers.map(({ disk }) => sum(disk.bytes.data))).toEqual([MiB, 3 * MiB, 0]);
  });

  it('counts pieces: one for a disk that was written in order, many for one that was not', async () => {
    const [ordered, scattered] = [at('ordered.qcow2'), at('scattered.qcow2')];
    for (const path of [ordered, scattered]) {
      const disk = await create(path, 32 * MiB);
      const order = Array.from({ length: 256 }, (_, i) => (path === ordered ? i : (i * 77) % 256));
      for (const cluster of order) {
        await disk.write(Buffer.alloc(65536, 1), cluster * 65536);
      }
      await disk.close();
    }
    expect(sum((await pictureOf(ordered)).layers[0]?.pieces ?? new Float64Array())).toBe(1);
    expect(sum((await pictureOf(scattered)).layers[0]?.pieces ?? new Float64Array())).toBe(256);
  });

  it('takes an external data file for what it is', async () => {
    const path = at('disk.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', `data_file=${at('data.raw')}`, path, '16M']);
    await qemuIo(path, ['write -P 1 2M 1M']);
    const { file, dataFile } = await pictureOf(path);
    expect(totals(file).data).toBe(0);
    expect(totals(dataFile ?? expect.fail('no data file')).data).toBe(MiB);
  });

  it('holds a disk of 10 TiB in as many numbers as any other', async () => {
    const path = at('huge.qcow2');
    const disk = await create(path, 10 * 2 ** 40);
    for (let i = 0; i < 20; i++) await disk.write(Buffer.alloc(65536, 1), i * 2 ** 39 + 12345 * 65536);
    await disk.close();
    const picture = await pictureOf(path, 1024);
    const { disk: parts } = picture.layers[0] ?? expect.fail('no layer');
    expect(parts.bytes.data.length).toBeLessThanOrEqual(1024);
    expect(sum(parts.bytes.data)).toBe(20 * 65536);
    expect([...parts.bytes.data].filter((bytes) => bytes > 0)).toHaveLength(20);
  });

  it('pictures what is left of a damaged image', async () => {
    const path = at('disk.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', path, '64M']);
    await qemuIo(path, ['write -P 1 0 4M']);
    await copyFile(path, at('sound.qcow2'));
    const file = await openFile(path, 'r+');
    const pointer = Buffer.alloc(8);
    await file.read(pointer, 0, 8, 0x30000);
    const l2 = Number(pointer.readBigUInt64BE() & 0x00fffffffffffe00n);
    // An entry that is not aligned to a cluster.
    await file.write(Buffer.from('8000000000050200', 'hex'), 0, 8, l2 + 8 * 3);
    await file.close();
    const { layers } = await pictureOf(path);
    expect(totals(layers[0]?.disk ?? expect.fail('no layer'))).toMatchObject({
      damaged: 65536,
      data: 4 * MiB - 65536,
    });
  });

  it('refuses numbers of parts that make no picture, and stops when told', async () => {
    const image = await open(await made(at('disk.qcow2')));
    await expect(imagePicture(image, { parts: 3 })).rejects.toThrow(RangeError);
    await expect(imagePicture(image, { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow(
      'enough',
    );
    await image.close();
  });
});

async function made(path: string): Promise<string> {
  await qemuImg(['create', '-q', '-f', 'qcow2', path, '64M']);
  await qemuIo(path, ['write -P 1 0 4M']);
  return path;
}
