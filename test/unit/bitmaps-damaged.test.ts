/** Bitmaps that break the specification, or go beyond it: never trusted, never in the way of the disk, never overwritten. */
import { describe, expect, it } from 'vitest';
import { create, open, type DirtyExtent, type Qcow2 } from '../../lib/index.js';
import {
  bitmapFlags,
  bitmapName,
  encodeBitmapDirectory,
  parseBitmapDirectory,
  type BitmapEntry,
} from '../../lib/format/bitmap-directory.js';
import { headerFields } from '../../lib/format/header-fields.js';
import { hostOffset } from '../../lib/format/units.js';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { pattern } from '../support/pattern.js';

const KiB = 1024;
const size = 1024 * KiB;
const clusterSize = 4096;

/** An image with an enabled bitmap `b` that has its first unit dirty, and what the test makes of its directory entry. */
async function imageWith(
  change: (entry: BitmapEntry) => BitmapEntry = (entry) => entry,
): Promise<MemoryStorage> {
  const memory = new MemoryStorage();
  const disk = await create(memory, size, { clusterSize });
  await disk.bitmaps.create({ name: 'b', granularity: 512 });
  await disk.write(pattern(1, 512), 0);
  await disk.close();
  const [entry] = await directory(memory);
  if (entry === undefined) throw new Error('no bitmap');
  const bytes = encodeBitmapDirectory([change(entry)]);
  const { offset, extension } = await place(memory);
  await memory.write(bytes, offset);
  const length = Buffer.alloc(8);
  length.writeBigUInt64BE(BigInt(bytes.length));
  await memory.write(length, extension + 8);
  return memory;
}

async function place(memory: MemoryStorage): Promise<{ offset: number; size: number; extension: number }> {
  const disk = await open(memory);
  const { bitmaps, extensions } = disk.header;
  await disk.close();
  const extension = extensions.find(({ type }) => type === 0x23852875)?.offset ?? 0;
  return { offset: bitmaps?.directoryOffset ?? 0, size: bitmaps?.directorySize ?? 0, extension };
}

async function directory(memory: MemoryStorage): Promise<BitmapEntry[]> {
  const found = await place(memory);
  const bytes = Buffer.alloc(found.size);
  await memory.read(bytes, found.offset);
  const disk = await open(memory);
  const offset = disk.header.bitmaps?.directoryOffset;
  await disk.close();
  return offset === undefined ? [] : parseBitmapDirectory(bytes, 1, offset);
}

async function content(memory: MemoryStorage): Promise<Buffer> {
  const bytes = Buffer.alloc(await memory.size());
  await memory.read(bytes, 0);
  return bytes;
}

async function dirty(disk: Qcow2): Promise<DirtyExtent[]> {
  const found: DirtyExtent[] = [];
  for await (const extent of disk.bitmaps.extents('b')) found.push(extent);
  return found;
}

describe('bitmaps that this package does not understand', () => {
  const kinds: [string, (entry: BitmapEntry) => BitmapEntry][] = [
    ['extra data', (entry) => ({ ...entry, extraData: Buffer.from('12345678') })],
    ['a flag', (entry) => ({ ...entry, flags: entry.flags | 32 })],
    ['a type', (entry) => ({ ...entry, type: 2 })],
    ['a granularity', (entry) => ({ ...entry, granularityBits: 40 })],
  ];

  it.each(kinds)('stop writing while they are enabled and have %s', async (_, change) => {
    const memory = await imageWith(change);
    const before = await content(memory);
    const disk = await open(memory, { mode: 'r+' });
    await expect(disk.write(pattern(2, 512), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await disk.read(Buffer.alloc(512), 0);
    expect(await disk.bitmaps.list()).toMatchObject([{ name: 'b', enabled: true, consistent: false }]);
    await expect(dirty(disk)).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await disk.close();
    expect((await content(memory)).equals(before)).toBe(true);
    const again = await open(memory, { mode: 'r+' });
    await again.bitmaps.remove('b');
    await again.write(pattern(2, 512), 0);
    await again.close();
  });

  it.each(kinds)('are left as they are while they are disabled and have %s', async (_, change) => {
    const memory = await imageWith((entry) => {
      const changed = change(entry);
      return { ...changed, flags: changed.flags & ~bitmapFlags.auto };
    });
    const before = await directory(memory);
    const disk = await open(memory, { mode: 'r+' });
    await disk.write(pattern(2, 512), 8192);
    await disk.close();
    expect(await directory(memory)).toEqual(before);
  });

  it('are used when their extra data is declared compatible, which stays', async () => {
    const memory = await imageWith((entry) => ({
      ...entry,
      extraData: Buffer.from('12345678'),
      flags: entry.flags | bitmapFlags.extraDataCompatible,
    }));
    const disk = await open(memory, { mode: 'r+' });
    await disk.write(pattern(2, 512), 8192);
    await disk.resize(2 * size);
    await disk.close();
    const [entry] = await directory(memory);
    expect(Buffer.from(entry?.extraData ?? []).toString()).toBe('12345678');
    const reader = await open(memory);
    expect(await dirty(reader)).toEqual([
      { start: 0, length: 512 },
      { start: 8192, length: 512 },
    ]);
  });
});

describe('damaged bitmaps', () => {
  /** Writes an 8-byte entry into the bitmap's table. */
  async function withTableEntry(value: (memory: MemoryStorage) => Promise<bigint>): Promise<MemoryStorage> {
    const memory = await imageWith();
    const [entry] = await directory(memory);
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(await value(memory));
    await memory.write(bytes, entry?.tableOffset ?? 0);
    return memory;
  }

  it.each([
    ['is unaligned', (): Promise<bigint> => Promise.resolve(0x1200n)],
    ['has reserved bits', (): Promise<bigint> => Promise.resolve(1n << 62n)],
    ['is past the end of the file', (): Promise<bigint> => Promise.resolve(1n << 40n)],
    ['is past 2^53', (): Promise<bigint> => Promise.resolve(1n << 55n)],
    [
      'points at the L1 table',
      async (memory: MemoryStorage): Promise<bigint> => {
        const disk = await open(memory);
        return BigInt(disk.header.l1TableOffset);
      },
    ],
  ])('whose table entry %s are marked, and the disk goes on', async (_, value) => {
    const memory = await withTableEntry(value);
    const reader = await open(memory);
    expect(await reader.bitmaps.list()).toMatchObject([{ consistent: false }]);
    await expect(dirty(reader)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    await reader.close();
    const disk = await open(memory, { mode: 'r+' });
    await disk.write(pattern(2, 512), 8192);
    await disk.close();
    const [entry] = await directory(memory);
    expect(entry?.flags).toBe(bitmapFlags.auto | bitmapFlags.inUse);
    const again = await open(memory, { mode: 'r+' });
    const got = Buffer.alloc(512);
    await again.read(got, 8192);
    expect(got.equals(pattern(2, 512))).toBe(true);
    await again.bitmaps.remove('b');
    await again.read(got, 0);
    expect(got.equals(pattern(1, 512))).toBe(true);
    await again.close();
  });

  it('that claim more bits than memory has are refused before any is taken', async () => {
    const memory = new MemoryStorage();
    const disk = await create(memory, 2 ** 50, { clusterSize: 2 ** 21 });
    await disk.bitmaps.create({ name: 'b', granularity: 2 ** 31 });
    await disk.close();
    const { offset } = await place(memory);
    await memory.write(Buffer.from([9]), offset + 17);
    const reader = await open(memory);
    const corrupt = { code: 'ERR_QCOW2_CORRUPT' };
    await expect(reader.bitmaps.bits('b')).rejects.toMatchObject(corrupt);
    await expect(reader.bitmaps.extents('b').next()).rejects.toMatchObject(corrupt);
    await reader.close();
  });

  it('of all ones are dirty everywhere, and stay so', async () => {
    const memory = await withTableEntry(() => Promise.resolve(1n));
    for (const mode of ['r', 'r+', 'r'] as const) {
      const disk = await open(memory, { mode });
      if (mode === 'r+') await disk.write(pattern(2, 512), 8192);
      expect(await dirty(disk)).toEqual([{ start: 0, length: size }]);
      await disk.close();
    }
  });

  it('in a directory that makes no sense are given up with the first change, not before', async () => {
    const memory = await imageWith();
    const { offset } = await place(memory);
    await memory.write(Buffer.alloc(64, 0xff), offset);
    const before = await content(memory);
    const reader = await open(memory, { mode: 'r+' });
    await reader.read(Buffer.alloc(512), 0);
    await expect(reader.bitmaps.list()).rejects.toMatchObject({ code: 'ERR_QCOW2_UNSUPPORTED' });
    await reader.close();
    expect((await content(memory)).equals(before)).toBe(true);
    const disk = await open(memory, { mode: 'r+' });
    await disk.write(pattern(2, 512), 8192);
    await disk.close();
    const after = await content(memory);
    expect(after.readBigUInt64BE(headerFields.autoclear.offset)).toBe(0n);
  });

  it('without their autoclear bit are out of date: not listed, not touched, replaced by the next one', async () => {
    const memory = await imageWith();
    const { extension } = await place(memory);
    await memory.write(Buffer.alloc(8), headerFields.autoclear.offset);
    const before = (await content(memory)).subarray(extension, extension + 24);
    const disk = await open(memory, { mode: 'r+' });
    expect(await disk.bitmaps.list()).toEqual([]);
    await disk.write(pattern(2, 512), 8192);
    await disk.close();
    expect((await content(memory)).subarray(extension, extension + 24).equals(before)).toBe(true);
    const again = await open(memory, { mode: 'r+' });
    await again.bitmaps.create({ name: 'new', granularity: 512 });
    await again.close();
    const reader = await open(memory);
    expect(await reader.bitmaps.list()).toMatchObject([{ name: 'new', consistent: true }]);
  });
});

describe('a bitmap that names clusters of the guest', () => {
  const data = Buffer.concat([Buffer.alloc(8), pattern(5, clusterSize - 8)]);

  async function pointerAt(memory: MemoryStorage, position: number): Promise<number> {
    const bytes = Buffer.alloc(8);
    await memory.read(bytes, position);
    return Number(bytes.readBigUInt64BE() & 0x00ff_ffff_ffff_fe00n);
  }

  /** An image whose guest data at 64 KiB, `data`, is where the bitmap has its bits or its table, too. */
  async function confused(what: 'bits' | 'table', snapshot: boolean): Promise<MemoryStorage> {
    const memory = await imageWith();
    const disk = await open(memory, { mode: 'r+' });
    await disk.write(data, 64 * KiB);
    await disk.flush();
    const l2 = await pointerAt(memory, disk.header.l1TableOffset);
    const host = await pointerAt(memory, l2 + (64 * KiB * 8) / clusterSize);
    if (snapshot) {
      await disk.snapshots.create({ name: 's' });
      await disk.discard(64 * KiB, clusterSize);
    }
    await disk.close();
    const [entry] = await directory(memory);
    if (entry === undefined) throw new Error('no bitmap');
    if (what === 'table') {
      const { offset } = await place(memory);
      await memory.write(encodeBitmapDirectory([{ ...entry, tableOffset: hostOffset(host) }]), offset);
    } else {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(BigInt(host));
      await memory.write(bytes, entry.tableOffset);
    }
    return memory;
  }

  async function expectData(memory: MemoryStorage, snapshot: boolean): Promise<void> {
    const disk = await open(memory, { mode: 'r+' });
    await disk.write(pattern(9, 64 * clusterSize), 128 * KiB);
    const got = Buffer.alloc(clusterSize);
    await (snapshot ? await disk.snapshots.open('s') : disk).read(got, 64 * KiB);
    expect(got.equals(data)).toBe(true);
    await disk.close();
  }

  it.each([
    ['bits', false],
    ['bits', true],
    ['table', false],
  ] as const)('as its %s overwrites none and gives none free (in a snapshot: %s)', async (what, snapshot) => {
    for (const job of ['write', 'remove', 'clear', 'resize'] as const) {
      const memory = await confused(what, snapshot);
      const disk = await open(memory, { mode: 'r+' });
      if (job === 'write') await disk.write(pattern(2, 512), 8192);
      else if (job === 'resize') await disk.resize(64 * size);
      else await disk.bitmaps[job]('b');
      await disk.close();
      await expectData(memory, snapshot);
    }
  });

  it('is told from one that names its own, which are given free when new ones take their place', async () => {
    const memory = await imageWith();
    for (let round = 0; round < 3; round++) {
      const disk = await open(memory, { mode: 'r+' });
      await disk.write(pattern(round, 512), round * 8192);
      await disk.close();
      const reader = await open(memory);
      expect(await reader.check()).toMatchObject({ leaks: 0, corruptions: 0 });
      await reader.close();
    }
  });
});

describe('many bitmaps', () => {
  /** Replaces the directory of an image by one of more entries, which fit into its cluster. */
  async function rewrite(memory: MemoryStorage, entries: BitmapEntry[]): Promise<void> {
    const { offset, extension } = await place(memory);
    const bytes = encodeBitmapDirectory(entries);
    await memory.write(bytes, offset);
    const counts = Buffer.alloc(16);
    counts.writeUInt32BE(entries.length);
    counts.writeBigUInt64BE(BigInt(bytes.length), 8);
    await memory.write(counts, extension);
  }

  async function flagsOf(memory: MemoryStorage, count: number): Promise<number[]> {
    const { offset, size: length } = await place(memory);
    const bytes = Buffer.alloc(length);
    await memory.read(bytes, offset);
    return parseBitmapDirectory(bytes, count, hostOffset(offset)).map(({ flags }) => flags);
  }

  const inUse = bitmapFlags.auto | bitmapFlags.inUse;

  it('of one table are all out of date, and each can be removed', async () => {
    const memory = await imageWith();
    const [entry] = await directory(memory);
    if (entry === undefined) throw new Error('no bitmap');
    await rewrite(memory, [entry, { ...entry, ...bitmapName('c') }]);
    const disk = await open(memory, { mode: 'r+' });
    expect(await disk.bitmaps.list()).toMatchObject([{ consistent: false }, { consistent: false }]);
    await expect(dirty(disk)).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    await disk.write(pattern(2, 512), 8192);
    await disk.close();
    expect(await flagsOf(memory, 2)).toEqual([inUse, inUse]);
    const again = await open(memory, { mode: 'r+' });
    await again.bitmaps.remove('b');
    await again.bitmaps.remove('c');
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await again.close();
  });

  it('are followed as far as 64 MiB of tables go', async () => {
    const MiB = 1024 * KiB;
    const memory = new MemoryStorage();
    const made = await create(memory, 2 * 1024 * 1024 * MiB, { clusterSize });
    await made.bitmaps.create({ name: 'b', granularity: 512 });
    await made.close();
    const [entry] = await directory(memory);
    if (entry === undefined) throw new Error('no bitmap');
    expect(entry.tableSize * 8).toBe(MiB);
    const entries = Array.from({ length: 66 }, (_, i) => ({
      ...entry,
      ...bitmapName(`b${i}`),
      tableOffset: hostOffset((64 + i) * MiB),
    }));
    await rewrite(memory, entries);
    await memory.write(Buffer.alloc(1), (64 + 66) * MiB - 1);
    const disk = await open(memory, { mode: 'r+' });
    await disk.write(pattern(2, 512), 8192);
    await disk.close();
    const flags = await flagsOf(memory, 66);
    expect(flags.slice(0, 64)).toEqual(Array.from({ length: 64 }, () => bitmapFlags.auto));
    expect(flags.slice(64)).toEqual([inUse, inUse]);
  });
});

describe('a bitmap larger than QEMU allows', () => {
  it('is not made', async () => {
    const disk = await create(new MemoryStorage(), 2 ** 42);
    await disk.bitmaps.create({ name: 'fits', granularity: 1024 });
    await expect(disk.bitmaps.create({ name: 'does not', granularity: 512 })).rejects.toMatchObject({
      code: 'ERR_QCOW2_LIMIT',
    });
    await disk.close();
  });
});
