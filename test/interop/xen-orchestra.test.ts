/** The adapter under the real classes of Xen Orchestra: their code drives ours, on images theirs reads wrongly, too. */
import { createReadStream, createWriteStream } from 'node:fs';
import { open as openFile, stat, writeFile, type FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Disk, DiskChain, RandomAccessDisk, RawDisk, type FileAccessor } from '@xen-orchestra/disk-transform';
import * as theirs from '@xen-orchestra/qcow2';
import { afterEach, describe, expect, it } from 'vitest';
import { create, open } from '../../lib/index.js';
import { QCowAccessor, QcowStream, QcowStreamGenerator, toQcow2Stream } from '../../lib/xen-orchestra.js';
import { imageKinds, secret } from '../support/image-kinds.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuCompare } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';
import { openWorkedOn } from '../support/work.js';

const path = useTempDir();
const MiB = 2 ** 20;

/** What the disks of a test have opened. */
const files: FileHandle[] = [];
afterEach(async () => {
  const left = files.splice(0).filter(({ fd }) => fd >= 0);
  await Promise.all(left.map((file) => file.close()));
  expect(left).toHaveLength(0);
});

/** Files as their remotes have them, as far as a disk uses that. */
function localFiles(): FileAccessor {
  const accessor = {
    isEncrypted: false,
    // Their RawDisk does not close a file with the number 0.
    openFile: async (name: string) => files.push(await openFile(name)),
    closeFile: async (index: number) => files[index - 1]?.close(),
    getSize: async (name: string) => (await stat(name)).size,
    read: async (index: number, buffer: Buffer, position: number) => {
      const { bytesRead } = (await files[index - 1]?.read(buffer, 0, buffer.length, position)) ?? {
        bytesRead: 0,
      };
      return { bytesRead, buffer };
    },
  };
  return accessor as unknown as FileAccessor;
}

/** The content that the blocks of a disk make, as its users put them together. It is closed then. */
async function contentOf(disk: Disk): Promise<Buffer> {
  await disk.init();
  try {
    return await blocksTogether(disk);
  } finally {
    await disk.close();
  }
}

async function blocksTogether(disk: Disk): Promise<Buffer> {
  const blockSize = disk.getBlockSize();
  const content = Buffer.alloc(Math.ceil(disk.getVirtualSize() / blockSize) * blockSize);
  const listed = disk.getBlockIndexes();
  expect(disk.getBlockIndexesCount()).toBe(listed.length);
  const given: number[] = [];
  for await (const { index, data } of disk.diskBlocks()) {
    expect(disk.hasBlock(index)).toBe(true);
    expect(data.length).toBe(blockSize);
    content.set(data, index * blockSize);
    given.push(index);
  }
  expect(given).toEqual(listed);
  return content.subarray(0, disk.getVirtualSize());
}

it('exports what theirs exports, on their classes', () => {
  expect(Object.keys({ QCowAccessor, QcowStream, QcowStreamGenerator, toQcow2Stream }).sort()).toEqual(
    Object.keys(theirs).sort(),
  );
  expect(new QCowAccessor(localFiles(), 'x')).toBeInstanceOf(RandomAccessDisk);
  expect(new QcowStream(Readable.from([]))).toBeInstanceOf(Disk);
});

describe('every kind of image without a parent', () => {
  it.each(imageKinds.filter(({ backing, size }) => backing === undefined && size < 30 * MiB))(
    '$name',
    async (kind) => {
      const { made, disk: image } = await openWorkedOn(kind, path, 5);
      await image.close();
      const expected = made.model.read(0, kind.size);
      const key = {
        ...(kind.options.encryption === undefined ? {} : { secret }),
        ...(made.dataPath === null ? {} : { dataFile: made.dataPath }),
      };
      const disk = new QCowAccessor(localFiles(), made.path, key);
      expect((await contentOf(disk)).equals(expected)).toBe(true);
      const stream = createReadStream(made.path);
      if (made.dataPath === null) {
        expect((await contentOf(new QcowStream(stream, key))).equals(expected)).toBe(true);
      } else {
        await expect(new QcowStream(stream).init()).rejects.toMatchObject({
          code: 'ERR_QCOW2_REFERENCE_DENIED',
        });
      }
    },
  );
});

describe('a differencing disk', () => {
  it.each([{}, { extendedL2: true }])('on its parent, with %j', async (options) => {
    await (await create(path('base'), 4 * MiB)).close();
    const base = await open(path('base'), { mode: 'r+' });
    await base.write(pattern(1, 3 * MiB), 0);
    await base.close();
    const child = await create(path('child'), 4 * MiB, {
      ...options,
      backing: { name: 'base', format: 'qcow2' },
    });
    await child.write(pattern(2, 3000), 100_000);
    await child.writeZeroes(MiB, 131072);
    const expected = Buffer.alloc(4 * MiB);
    await child.read(expected, 0);
    await child.close();
    for (const make of [
      () => new QCowAccessor(localFiles(), path('child')),
      () => new QcowStream(createReadStream(path('child'))),
    ]) {
      const disk = make();
      await disk.init();
      expect(disk.isDifferencing()).toBe(true);
      const content = Buffer.from(await contentOf(new QCowAccessor(localFiles(), path('base'))));
      for await (const { index, data } of disk.buildDiskBlockGenerator())
        content.set(data, index * disk.getBlockSize());
      expect(content.equals(expected)).toBe(true);
      await disk.close();
    }
    if (!('extendedL2' in options)) {
      const chain = new DiskChain({
        disks: [new QCowAccessor(localFiles(), path('base')), new QCowAccessor(localFiles(), path('child'))],
      });
      expect((await chainContent(chain)).equals(expected)).toBe(true);
    }
  });
});

async function chainContent(chain: DiskChain): Promise<Buffer> {
  await chain.init();
  const content = Buffer.alloc(chain.getVirtualSize());
  for (const index of chain.getBlockIndexes())
    content.set((await chain.readBlock(index)).data, index * chain.getBlockSize());
  await chain.close();
  return content;
}

it('closes a file that turns out to be no image', async () => {
  await writeFile(path('text'), 'no image');
  const disk = new QCowAccessor(localFiles(), path('text'));
  await expect(disk.init()).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_QCOW2' });
  expect(files.map(({ fd }) => fd)).toEqual([-1]);
});

describe('streams', () => {
  it.each([65536, 4096, 2 * MiB])(
    'of their raw disk in blocks of %i, which QEMU and their reader take',
    async (blockSize) => {
      const model = mixedDisk(3, 8 * MiB);
      await model.saveAs(path('raw'));
      const disk = new RawDisk(localFiles(), path('raw'), blockSize);
      await disk.init();
      const stream = toQcow2Stream(disk);
      const { length } = stream;
      await pipeline(stream, createWriteStream(path('streamed')));
      await disk.close();
      expect((await stat(path('streamed'))).size).toBe(length);
      await expectCleanByQemu(path('streamed'));
      expect((await qemuCompare(path('raw'), path('streamed'), { a: 'raw' })).same).toBe(true);
      const expected = model.read(0, 8 * MiB);
      expect(
        (await contentOf(new theirs.QcowStream(createReadStream(path('streamed'))))).equals(expected),
      ).toBe(true);
      expect((await contentOf(new QcowStream(createReadStream(path('streamed'))))).equals(expected)).toBe(
        true,
      );
    },
  );

  it('of an image, read by index in their order, and stopped', async () => {
    const image = await create(path('disk'), 8 * MiB);
    await image.write(pattern(1, 3 * MiB), MiB);
    await image.close();
    const accessor = new QCowAccessor(localFiles(), path('disk'));
    await accessor.init();
    await pipeline(new QcowStreamGenerator(accessor).stream(), createWriteStream(path('streamed')));
    await accessor.close();
    expect((await qemuCompare(path('disk'), path('streamed'))).same).toBe(true);
    const disk = new QcowStream(createReadStream(path('streamed')));
    await disk.init();
    const [first = 0, second = 0, third = 0] = disk.getBlockIndexes();
    await disk.readBlock(first);
    const { data } = await disk.readBlock(third);
    expect(data.equals(pattern(1, 3 * MiB).subarray(2 * 65536, 3 * 65536))).toBe(true);
    await expect(disk.readBlock(second)).rejects.toThrow('passed');
    await disk.close();
    const reason = new Error('enough');
    const again = new QCowAccessor(localFiles(), path('disk'));
    await again.init();
    const stopped = toQcow2Stream(again, { signal: AbortSignal.abort(reason) });
    await expect(stopped.toArray()).rejects.toBe(reason);
    await again.close();
  });
});
