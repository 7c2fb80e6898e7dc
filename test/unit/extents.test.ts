/** What a disk says it is made of: against qemu-img map, against its own content, and in the shape it promises. */
import { writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, RawDisk, type Disk, type Extent } from '../../lib/index.js';
import { plainKind, type ImageKind } from '../support/feature-rows.js';
import { guestRequests } from '../support/guest-requests.js';
import { pattern, Random } from '../support/pattern.js';
import { makeOurs, mapByQemu, openOurs } from '../support/row-images.js';
import { useTempDir } from '../support/temp-dir.js';
import { perform } from '../support/work.js';

const MiB = 2 ** 20;
const cluster = 65536;

const kinds: Partial<ImageKind>[] = [
  {},
  { version: 2 },
  { clusterSize: 512 },
  { clusterSize: 2097152 },
  { extendedL2: true, clusterSize: 16384 },
  { backing: 'raw-short' },
  { backing: 'raw-long', extendedL2: true },
  { backing: 'qcow2-short' },
  { backing: 'qcow2-long', version: 2 },
  { dataFile: 'plain' },
  { dataFile: 'raw' },
  { encryption: 'luks' },
  { encryption: 'luks', backing: 'qcow2-long', dataFile: 'plain' },
  { preallocation: 'full' },
];

async function all(extents: AsyncIterable<Extent>): Promise<Extent[]> {
  const list: Extent[] = [];
  for await (const extent of extents) list.push(extent);
  return list;
}

const isStored = ({ type }: Extent): boolean => type === 'data' || type === 'compressed';

describe('extents', () => {
  const inDirectory = useTempDir();

  it.each(kinds.map((kind, index) => ({ name: JSON.stringify(kind), kind, seed: index + 1 })))(
    'agree with qemu-img map and with the content: $name',
    async ({ kind: choices, seed }) => {
      const kind = { ...plainKind, sizeUnit: 'sector' as const, ...choices };
      const { image, disk } = await makeOurs(kind, inDirectory());
      const compress = kind.encryption === 'none' && kind.dataFile === 'none';
      const options = { unit: 1, compress, count: 20 };
      for (const request of guestRequests(seed, image.model.size, kind.clusterSize, options)) {
        await perform(disk, image.model, request);
      }
      await disk.close();

      const again = await openOurs(image);
      const extents = await all(again.extents());
      expectShape(extents, 0, again.size);
      for (const { start, length, type } of extents) {
        if (type === 'data' || type === 'compressed') continue;
        expect(image.model.read(start, length).equals(Buffer.alloc(length)), `zeros at ${start}`).toBe(true);
      }
      const stored = (await mapByQemu(image)).filter(({ data }) => data);
      expect(flat(extents.filter(isStored))).toEqual(
        flat(
          stored.map(({ start, length, depth, offset = null }) => ({
            start,
            length,
            depth,
            hostOffset: offset,
          })),
        ),
      );
      await expectPartsAgree(again, extents, new Random(seed));
      await again.close();
    },
    60_000,
  );

  it('of this layer alone leave out what shows through', async () => {
    const base = new MemoryStorage(pattern(1, MiB));
    const backing = { name: 'base', format: 'raw' as const };
    await writeFile(inDirectory('base'), pattern(1, MiB));
    const disk = await create(inDirectory('image.qcow2'), 2 * MiB, { backing });
    await disk.write(pattern(2, cluster), cluster);
    await disk.writeZeroes(4 * cluster, cluster);
    const summary = (extents: Extent[]): unknown[] =>
      extents.map(({ start, length, type, depth }) => [start / cluster, length / cluster, type, depth]);
    expect(summary(await all(disk.extents({ layers: 'self' })))).toEqual([
      [0, 1, 'unallocated', 0],
      [1, 1, 'data', 0],
      [2, 2, 'unallocated', 0],
      [4, 1, 'zero', 0],
      [5, 27, 'unallocated', 0],
    ]);
    expect(summary(await all(disk.extents()))).toEqual([
      [0, 1, 'data', 1],
      [1, 1, 'data', 0],
      [2, 2, 'data', 1],
      [4, 1, 'zero', 0],
      [5, 11, 'data', 1],
      [16, 16, 'unallocated', 0],
    ]);
    await disk.close();
    await base.close();
  });

  it('of an empty disk of 1 PiB come at once', async () => {
    const disk = await create(new MemoryStorage(), 2 ** 50, { clusterSize: 2 * MiB });
    await disk.write(pattern(1, 512), 2 ** 49);
    const extents = await all(disk.extents());
    expect(extents.map(({ start, type }) => [start, type])).toEqual([
      [0, 'unallocated'],
      [2 ** 49, 'data'],
      [2 ** 49 + 2 * MiB, 'unallocated'],
    ]);
    expect(await disk.nextData(0)).toBe(2 ** 49);
    expect(await disk.nextHole(2 ** 49)).toBe(2 ** 49 + 2 * MiB);
    expect(await disk.nextData(2 ** 49 + 2 * MiB)).toBeNull();
    await disk.close();
  }, 5_000);

  it('of an empty query are none, and a range past the end is cut', async () => {
    const disk = await create(new MemoryStorage(), MiB);
    expect(await all(disk.extents({ start: 5, length: 0 }))).toEqual([]);
    expect(await all(disk.extents({ start: 2 * MiB }))).toEqual([]);
    expect(await all(disk.extents({ start: MiB - 5, length: 100 }))).toMatchObject([
      { start: MiB - 5, length: 5 },
    ]);
    await disk.close();
  });

  it('stop when they are aborted', async () => {
    const disk = await create(new MemoryStorage(), MiB);
    const reason = new Error('enough');
    await expect(all(disk.extents({ signal: AbortSignal.abort(reason) }))).rejects.toBe(reason);
    await disk.close();
  });

  it('stay readable as far as the tables are sound', async () => {
    const storage = new MemoryStorage();
    const disk = await create(storage, 4 * MiB, { clusterSize: 4096 });
    for (const at of [0, 2 * MiB]) await disk.write(pattern(1, 4096), at);
    await disk.close();
    const damaged = 2 * MiB;
    const l1 = Buffer.alloc(16);
    const { l1TableOffset } = (await open(storage)).header;
    await storage.read(l1, l1TableOffset);
    l1.writeBigUInt64BE(l1.readBigUInt64BE(8) | 0x200n, 8);
    await storage.write(l1, l1TableOffset);
    const again = await open(storage);
    expect(await all(again.extents({ length: damaged }))).toMatchObject([
      { type: 'data' },
      { type: 'unallocated' },
    ]);
    await expect(all(again.extents())).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
    await again.close();
  });
});

describe('extents of a raw disk', () => {
  it('are the holes and the data of the file', async () => {
    const storage = new MemoryStorage();
    await storage.write(pattern(1, cluster), 4 * cluster);
    await storage.truncate(10 * cluster);
    const disk = new RawDisk(storage, 10 * cluster, true);
    const extents = await all(disk.extents());
    expectShape(extents, 0, disk.size);
    expect(extents.filter(({ type }) => type === 'data')).toEqual([
      { start: 4 * cluster, length: cluster, type: 'data', depth: 0, hostOffset: 4 * cluster },
    ]);
    await disk.close();
  });
});

/** In order, without gaps, nothing empty, and no neighbours that could be one. */
function expectShape(extents: readonly Extent[], start: number, end: number): void {
  let at = start;
  for (const [index, extent] of extents.entries()) {
    expect(extent.start).toBe(at);
    expect(extent.length).toBeGreaterThan(0);
    at += extent.length;
    const next = extents[index + 1];
    if (next === undefined || next.type !== extent.type || next.depth !== extent.depth) continue;
    const continuing = extent.hostOffset === null ? null : extent.hostOffset + extent.length;
    expect(next.hostOffset, `at ${next.start}`).not.toBe(continuing);
  }
  expect(at).toBe(end);
}

/** Queries of parts give the cut extents, and nextData and nextHole the borders between them. */
async function expectPartsAgree(disk: Disk, extents: readonly Extent[], random: Random): Promise<void> {
  for (let i = 0; i < 20; i += 1) {
    const start = random.below(disk.size);
    const end = start + random.between(1, disk.size - start);
    const part = await all(disk.extents({ start, length: end - start }));
    expectShape(part, start, end);
    expect(flat(part)).toEqual(flat(extents.flatMap((extent) => cut(extent, start, end))));
    const after = extents.filter((extent) => extent.start + extent.length > start);
    const data = after.find(isStored);
    expect(await disk.nextData(start)).toBe(data === undefined ? null : Math.max(start, data.start));
    const hole = after.find((extent) => !isStored(extent));
    expect(await disk.nextHole(start)).toBe(hole === undefined ? disk.size : Math.max(start, hole.start));
  }
}

function cut(extent: Extent, start: number, end: number): Extent[] {
  const from = Math.max(start, extent.start);
  const to = Math.min(end, extent.start + extent.length);
  if (from >= to) return [];
  const hostOffset = extent.hostOffset === null ? null : extent.hostOffset + from - extent.start;
  return [{ ...extent, start: from, length: to - from, hostOffset }];
}

/** Joins neighbours of one layer and place: where one ends and the next begins is for each tool to choose. */
function flat(extents: readonly Omit<Extent, 'type'>[]): string[] {
  const joined: { start: number; length: number; depth: number; hostOffset: number | null }[] = [];
  for (const { start, length, depth, hostOffset } of extents) {
    const last = joined.at(-1);
    const follows = last !== undefined && last.start + last.length === start && last.depth === depth;
    const lastPlace = last?.hostOffset ?? null;
    const place = lastPlace === null ? null : lastPlace + (last?.length ?? 0);
    if (follows && place === hostOffset) last.length += length;
    else joined.push({ start, length, depth, hostOffset });
  }
  return joined.map(
    ({ start, length, depth, hostOffset }) => `${start}+${length} depth ${depth} at ${hostOffset ?? '-'}`,
  );
}
