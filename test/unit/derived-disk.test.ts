/** Disks made of other disks, held against plain buffers. */
import { describe, expect, it } from 'vitest';
import {
  ConcatenatedDisk,
  create,
  DiskSlice,
  MemoryStorage,
  openDisk,
  SalvagedDisk,
  type Disk,
  type Extent,
  type ExtentQuery,
  type Op,
  type Qcow2,
} from '../../lib/index.js';
import { pattern, Random } from '../support/pattern.js';

const KiB = 1024;

async function rawDisk(bytes: Buffer): Promise<Disk> {
  return (await openDisk(new MemoryStorage(bytes), { format: 'raw' })).disk;
}

/** A disk with data, zeros and nothing by turns, and its content. */
async function mixedDisk(size: number): Promise<{ disk: Qcow2; content: Buffer }> {
  const disk = await create(new MemoryStorage(), size, { clusterSize: 4 * KiB });
  const content = Buffer.alloc(size);
  for (let at = 0; at < size; at += 20 * KiB) {
    const bytes = pattern(at, Math.min(6 * KiB, size - at));
    await disk.write(bytes, at);
    content.set(bytes, at);
  }
  if (size > 16 * KiB) await disk.writeZeroes(12 * KiB, 4 * KiB);
  return { disk, content };
}

async function contentOf(disk: Disk): Promise<Buffer> {
  const content = Buffer.alloc(disk.size, 0xcd);
  await disk.read(content, 0);
  return content;
}

/** Extents cover the range without gaps, and what they call empty is zeros in `content`. */
async function holdExtents(disk: Disk, content: Buffer, start: number, length: number): Promise<void> {
  let at = start;
  for await (const extent of disk.extents({ start, length })) {
    expect(extent.start).toBe(at);
    at += extent.length;
    if (extent.type === 'data' || extent.type === 'compressed') continue;
    expect(content.subarray(extent.start, at).every((byte) => byte === 0)).toBe(true);
  }
  expect(at).toBe(Math.min(content.length, start + length));
}

async function holdDisk(disk: Disk, content: Buffer, seed: number): Promise<void> {
  expect(disk.size).toBe(content.length);
  expect((await contentOf(disk)).equals(content)).toBe(true);
  const random = new Random(seed);
  for (let round = 0; round < 50; round++) {
    const start = random.below(disk.size);
    const length = random.between(1, disk.size - start);
    const part = Buffer.alloc(length, 0xcd);
    await disk.read(part, start);
    expect(part.equals(content.subarray(start, start + length)), `${start}+${length}`).toBe(true);
    await holdExtents(disk, content, start, length);
  }
  await expect(disk.read(Buffer.alloc(2), disk.size - 1)).rejects.toBeInstanceOf(RangeError);
  const streamed: Buffer[] = [];
  for await (const chunk of disk.createReadStream({ start: 1000 })) streamed.push(chunk as Buffer);
  expect(Buffer.concat(streamed).equals(content.subarray(1000))).toBe(true);
}

describe('disks behind one another', () => {
  it.each([1, 512, 4096])('are one disk, each filled up to %i bytes', async (unit) => {
    const parts = [
      await mixedDisk(50_000),
      { disk: await rawDisk(pattern(2, 5001)), content: pattern(2, 5001) },
    ];
    parts.push(await mixedDisk(KiB));
    const contents = parts.map(({ content }) =>
      Buffer.concat([content, Buffer.alloc(Math.ceil(content.length / unit) * unit - content.length)]),
    );
    const whole = new ConcatenatedDisk(
      parts.map(({ disk }) => disk),
      unit,
    );
    await holdDisk(whole, Buffer.concat(contents), unit);
    await whole.close();
    // They are whose they were.
    expect((await contentOf(parts[1]?.disk ?? whole)).equals(pattern(2, 5001))).toBe(true);
  });

  it('may be none', async () => {
    const none = new ConcatenatedDisk([]);
    expect(none.size).toBe(0);
    expect(await none.nextData(0)).toBeNull();
    await none.read(Buffer.alloc(0), 0);
  });
});

describe('a part of a disk', () => {
  it.each([
    [0, 50_000],
    [5000, 30_001],
    [49_999, 1],
  ])('from %i on, %i bytes', async (start, length) => {
    const { disk, content } = await mixedDisk(50_000);
    const part = new DiskSlice(disk, start, BigInt(length));
    if (length > 1000) await holdDisk(part, content.subarray(start, start + length), start);
    else expect((await contentOf(part)).equals(content.subarray(start, start + length))).toBe(true);
  });

  it('says where data and holes are as the disk does', async () => {
    const { disk } = await mixedDisk(50_000);
    const part = new DiskSlice(disk, 10_000, 30_000);
    expect(await part.nextData(0)).toBe(20 * KiB - 10_000);
    expect(await part.nextHole(20 * KiB - 10_000)).toBe(28 * KiB - 10_000);
  });

  it.each([
    [0, 50_001],
    [50_001, 0],
    [-1, 5],
    [1.5, 5],
  ])('from %i on, %i bytes, is refused', async (start, length) => {
    const { disk } = await mixedDisk(50_000);
    expect(() => new DiskSlice(disk, start, length)).toThrow(RangeError);
  });
});

/** A disk that cannot be read where it touches certain sectors, and whose extents cannot be told from a place on. */
class FailingDisk extends DiskSlice {
  readonly #sectors: readonly number[];
  readonly #extentsEnd: number;

  constructor(disk: Disk, sectors: readonly number[], extentsEnd = Infinity) {
    super(disk, 0, disk.size);
    this.#sectors = sectors;
    this.#extentsEnd = extentsEnd;
  }

  override async read(buffer: Uint8Array, position: number, op?: Op): Promise<void> {
    const end = position + buffer.length;
    const isBad = this.#sectors.some((sector) => position < sector * 512 + 512 && end > sector * 512);
    if (isBad) throw new Error('a bad sector');
    await super.read(buffer, position, op);
  }

  override async *extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    if (Number(query.start ?? 0) >= this.#extentsEnd) throw new Error('a bad table');
    for await (const extent of super.extents(query)) {
      if (extent.start >= this.#extentsEnd) throw new Error('a bad table');
      yield extent;
    }
  }
}

describe('what can be read of a disk', () => {
  it('is all but the sectors that cannot, which are told and read as zeros', async () => {
    const bytes = pattern(5, 20 * KiB);
    const lost: number[] = [];
    const salvaged = new SalvagedDisk(
      new FailingDisk(await rawDisk(bytes), [3, 17, 39]),
      ({ start, end }) => {
        for (let at = start; at < end; at += 512) lost.push(at / 512);
      },
    );
    const expected = Buffer.from(bytes);
    for (const sector of [3, 17, 39]) expected.fill(0, sector * 512, sector * 512 + 512);
    expect((await contentOf(salvaged)).equals(expected)).toBe(true);
    expect(lost).toEqual([3, 17, 39]);
  });

  it('is called data where its extents cannot be told', async () => {
    const { disk, content } = await mixedDisk(300_000);
    const salvaged = new SalvagedDisk(new FailingDisk(disk, [], 100_000), () => undefined);
    await holdExtents(salvaged, content, 0, 300_000);
    const types: string[] = [];
    for await (const { type } of salvaged.extents({ start: 150_000 })) types.push(type);
    expect(new Set(types)).toEqual(new Set(['data']));
  });

  it('ends when it is told to', async () => {
    const signal = AbortSignal.abort(new Error('enough'));
    const salvaged = new SalvagedDisk(new FailingDisk(await rawDisk(pattern(6, 4096)), [1]), () => undefined);
    await expect(salvaged.read(Buffer.alloc(4096), 0, { signal })).rejects.toThrow('enough');
  });
});
