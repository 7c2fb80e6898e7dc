/** Comparing disks gives the answer of qemu-img compare, and the ranges a plain comparison of all bytes gives. */
import { describe, expect, it } from 'vitest';
import { open as openFile } from 'node:fs/promises';
import {
  compare,
  create,
  openDisk,
  type CompareOptions,
  type Difference,
  type Disk,
} from '../../lib/index.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const KiB = 1024;

async function collect(a: Disk, b: Disk, options?: CompareOptions): Promise<Difference[]> {
  const found: Difference[] = [];
  for await (const difference of compare(a, b, options)) found.push(difference);
  return found;
}

async function withDisks<T>(
  a: { path: string; format: 'qcow2' | 'raw' },
  b: { path: string; format: 'qcow2' | 'raw' },
  work: (a: Disk, b: Disk) => Promise<T>,
): Promise<T> {
  const { disk: diskA } = await openDisk(a.path, { format: a.format, resolve: 'any' });
  const { disk: diskB } = await openDisk(b.path, { format: b.format, resolve: 'any' });
  try {
    return await work(diskA, diskB);
  } finally {
    await diskA.close();
    await diskB.close();
  }
}

/** What qemu-img says: whether the two are the same, and where it saw the first difference. */
async function byQemu(
  a: { path: string; format: string },
  b: { path: string; format: string },
  strict: boolean,
): Promise<{ same: boolean; at: number | null }> {
  const flags = ['-f', a.format, '-F', b.format, ...(strict ? ['-s'] : [])];
  const { exit, stdout } = await qemuImg(['compare', ...flags, a.path, b.path], { expectExit: null });
  expect(exit).toBeLessThan(2);
  const at = /offset (\d+)/i.exec(stdout);
  return { same: exit === 0, at: at === null ? null : Number(at[1]) };
}

/** The differing sectors, found by reading everything. */
async function byReading(a: Disk, b: Disk): Promise<Difference[]> {
  const size = Math.max(a.size, b.size);
  const [bytesA, bytesB] = [Buffer.alloc(size), Buffer.alloc(size)];
  await a.read(bytesA.subarray(0, a.size), 0);
  await b.read(bytesB.subarray(0, b.size), 0);
  const found: Difference[] = [];
  for (let at = 0; at < size; at += 512) {
    const end = Math.min(at + 512, size);
    if (bytesA.subarray(at, end).equals(bytesB.subarray(at, end))) continue;
    const last = found.at(-1);
    if (last !== undefined && last.start + last.length === at) last.length += end - at;
    else found.push({ start: at, length: end - at, kind: 'content' });
  }
  return found;
}

const kinds = ['default', 'compressed', 'extended', 'small clusters', 'overlay', 'raw'] as const;

/** Makes an image of a kind and does the same sixteen changes to it, and to each second image one more. */
async function makeImage(
  kind: (typeof kinds)[number],
  name: string,
  size: number,
  seed: number,
  extra: boolean,
): Promise<{ path: string; format: 'qcow2' | 'raw' }> {
  const file = path(name);
  const image = { path: file, format: kind === 'raw' ? ('raw' as const) : ('qcow2' as const) };
  const random = new Random(seed);
  const writes: string[] = [];
  for (let i = 0; i < 16; i++) {
    const at = random.below(size / 512 - 256) * 512;
    const length = random.between(1, 256) * 512;
    const what = random.pick(['write -z', 'write -P 0', `write -P ${random.between(1, 255)}`, 'discard']);
    writes.push(`${what} ${at} ${length}`);
  }
  if (extra) writes.push(`write -P 77 ${random.below(size / 512) * 512} 512`);
  if (kind === 'overlay') {
    await qemuImg(['create', '-f', 'raw', `${file}.base`, `${size}`]);
    await qemuIo(`${file}.base`, writes.slice(0, 8), { format: 'raw' });
    await qemuImg(['create', '-f', 'qcow2', '-b', `${file}.base`, '-F', 'raw', file]);
    await qemuIo(file, writes.slice(8));
    return image;
  }
  if (kind === 'compressed') {
    await qemuImg(['create', '-f', 'raw', `${file}.raw`, `${size}`]);
    await qemuIo(`${file}.raw`, writes, { format: 'raw' });
    await qemuImg(['convert', '-c', '-f', 'raw', '-O', 'qcow2', `${file}.raw`, file]);
    return image;
  }
  const options =
    kind === 'extended'
      ? ['-o', 'extended_l2=on']
      : kind === 'small clusters'
        ? ['-o', 'cluster_size=512']
        : [];
  await qemuImg(['create', '-f', image.format, ...options, file, `${size}`]);
  await qemuIo(file, writes, { format: image.format });
  return image;
}

describe('compare', () => {
  it.each(kinds)('agrees with qemu-img and with plain reading: %s against every other kind', async (kind) => {
    const size = 3 * 1024 * KiB;
    const a = await makeImage(kind, 'a', size, 1, false);
    for (const [index, other] of kinds.entries()) {
      const extra = index % 2 === 0;
      const b = await makeImage(other, `b${index}`, size, 1, extra);
      const expected = await byQemu(a, b, false);
      await withDisks(a, b, async (diskA, diskB) => {
        const found = await collect(diskA, diskB);
        expect(found).toEqual(await byReading(diskA, diskB));
        expect(found.length === 0).toBe(expected.same);
        expect(found[0]?.start ?? null).toBe(expected.at);
      });
    }
  });

  it.each(kinds)('says in strict mode what qemu-img says: %s', async (kind) => {
    const size = 1024 * KiB;
    const a = await makeImage(kind, 'a', size, 2, false);
    for (const [index, other] of kinds.entries()) {
      const b = await makeImage(other, `b${index}`, size, 2, false);
      const { same } = await byQemu(a, b, true);
      const found = await withDisks(a, b, (diskA, diskB) => collect(diskA, diskB, { strict: true }));
      expect(found.length === 0, `${kind} against ${other}: ${JSON.stringify(found)}`).toBe(same);
    }
  });

  it('takes what a shorter disk does not have for zeros, unless strict', async () => {
    const a = { path: path('a'), format: 'qcow2' as const };
    const b = { path: path('b'), format: 'qcow2' as const };
    await qemuImg(['create', '-f', 'qcow2', a.path, '1M']);
    await qemuImg(['create', '-f', 'qcow2', b.path, '5M']);
    for (const data of [false, true]) {
      if (data) await qemuIo(b.path, ['write -P 9 3000k 1k', 'write -z 4000k 64k']);
      expect((await byQemu(a, b, false)).same).toBe(!data);
      await withDisks(a, b, async (diskA, diskB) => {
        const content = data ? [{ start: 3000 * KiB, length: KiB, kind: 'content' }] : [];
        expect(await collect(diskA, diskB)).toEqual(content);
        expect(await collect(diskB, diskA)).toEqual(content);
        const size = { start: 1024 * KiB, length: 4096 * KiB, kind: 'size' };
        expect(await collect(diskB, diskA, { strict: true })).toEqual([size]);
      });
    }
  });

  it('compares a range alone', async () => {
    const a = await create(path('a'), 256 * KiB);
    const b = await create(path('b'), 256 * KiB);
    await b.write(pattern(1, 128 * KiB), 64 * KiB);
    const range = { start: 100 * KiB, length: 10 * KiB };
    expect(await collect(a, b, range)).toEqual([{ ...range, kind: 'content' }]);
    expect(await collect(a, b, { start: 192 * KiB })).toEqual([]);
    await a.close();
    await b.close();
  });

  it('reports progress up to the end and reads nothing where neither disk has data', async () => {
    const a = await create(path('a'), 2 ** 40);
    const b = await create(path('b'), 2 ** 40);
    await b.write(pattern(1, 3 * 1024 * KiB), 2 ** 39 + 512);
    const seen: number[] = [];
    const onProgress = ({ done, total }: { done: number; total: number }): void => {
      expect(total).toBe(2 ** 40);
      seen.push(done);
    };
    expect(await collect(a, b, { onProgress })).toEqual([
      { start: 2 ** 39 + 512, length: 3 * 1024 * KiB, kind: 'content' },
    ]);
    expect(seen.at(-1)).toBe(2 ** 40);
    expect(seen).toEqual(seen.toSorted((x, y) => x - y));
    await a.close();
    await b.close();
  });

  it('stops with the reason of its signal, and when its reader stops', async () => {
    const a = await create(path('a'), 64 * 1024 * KiB);
    const b = await create(path('b'), 64 * 1024 * KiB);
    for (let at = 0; at < a.size; at += 8 * 1024 * KiB) await a.write(pattern(at, 512), at);
    const controller = new AbortController();
    const reason = new Error('enough');
    const run = async (): Promise<void> => {
      for await (const { start } of compare(a, b, { signal: controller.signal, concurrency: 2 })) {
        if (start > 0) controller.abort(reason);
      }
    };
    await expect(run()).rejects.toBe(reason);
    for await (const { start } of compare(a, b)) {
      expect(start).toBe(0);
      break;
    }
    await a.close();
    await b.close();
  });

  it('fails where a disk cannot be read, after the ranges before it', async () => {
    const file = path('a');
    await qemuImg(['create', '-f', 'qcow2', file, '4M']);
    await qemuIo(file, ['write -P 1 0 64k', 'write -P 2 3M 64k']);
    const { disk: probe } = await openDisk(file);
    let host = 0;
    for await (const extent of probe.extents({ start: 3 * 1024 * KiB, length: KiB }))
      host = extent.hostOffset ?? 0;
    await probe.close();
    const handle = await openFile(file, 'r+');
    await handle.truncate(host - 64 * KiB);
    await handle.close();
    const a = (await openDisk(file)).disk;
    const b = await create(path('b'), 4 * 1024 * KiB);
    const seen: number[] = [];
    const run = async (): Promise<void> => {
      for await (const { start } of compare(a, b)) seen.push(start);
    };
    await expect(run()).rejects.toThrow(expect.objectContaining({ code: 'ERR_QCOW2_CORRUPT' }));
    await a.close();
    await b.close();
  });
});
