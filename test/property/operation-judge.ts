/** What QEMU has to say of an image that a random history has led to. */
import { copyFile } from 'node:fs/promises';
import { expect } from 'vitest';
import { open, type Disk } from '../../lib/index.js';
import { qemuDirty } from '../support/bitmap-oracle.js';
import { qemuCheck, qemuReadAll } from '../support/encrypted-image.js';
import {
  expectCleanByQemu,
  qemuCompare,
  qemuContent,
  qemuImg,
  qemuInfo,
  qemuMap,
  type QemuMapEntry,
} from '../support/oracle.js';
import type { PlainDisk } from '../support/plain-disk.js';
import { secret, type ImageModel } from './operation-model.js';

/** Fails unless QEMU finds a closed image clean and reads, maps and lists what its model says. */
export async function judgeByQemu(image: ImageModel, format: 'qcow2' | 'raw' = 'qcow2'): Promise<void> {
  const { path, disk, kind } = image;
  if (kind.options.encryption !== undefined) {
    expect(qemuCheck(path, secret)).toContain('No errors were found');
    expect(qemuReadAll(path, secret).equals(disk.read(0, disk.size))).toBe(true);
    return;
  }
  if (format === 'qcow2') await expectCleanByQemu(path);
  await expectSame(path, format, disk);
  if (format === 'raw') return;
  const info = await qemuInfo(path);
  expect(info['backing-filename']).toBe(image.backing?.name);
  const { data } = info['format-specific'] ?? {};
  expect(data?.compat).toBe(image.version === 2 ? '0.10' : '1.1');
  expect(data?.['refcount-bits'] ?? 16).toBe(image.refcountBits);
  expect((info.snapshots ?? []).map(({ name }) => name)).toEqual([...image.snapshots.keys()]);
  const listed = (data?.bitmaps ?? []).map(({ name, granularity, flags }) => ({ name, granularity, flags }));
  expect(listed).toEqual(
    [...image.bitmaps].map(([name, { model, enabled }]) => ({
      name,
      granularity: model.granularity,
      flags: enabled ? ['auto'] : [],
    })),
  );
  for (const [name, { model }] of image.bitmaps) {
    expect(await qemuDirty(path, name), `bitmap ${name} by QEMU`).toEqual(model.ranges());
  }
  await expectSameSnapshots(image);
  if (image.backing?.format === 'raw' || kind.options.dataFile !== undefined) return;
  const reader = await open(path, { resolve: 'same-directory' });
  await expectSameMap(reader, path);
  await reader.close();
}

async function expectSame(path: string, format: string, model: PlainDisk): Promise<void> {
  await model.saveAs(`${path}.expected`);
  const { same, output } = await qemuCompare(path, `${path}.expected`, { a: format, b: 'raw' });
  expect(same, `${path}: ${output}`).toBe(true);
}

/**
 * QEMU applies each snapshot to a copy, reads it and maps it. Where the model does not know the content, this package must
 * read the same.
 */
async function expectSameSnapshots({ path, snapshots, bitmaps, backing }: ImageModel): Promise<void> {
  if (snapshots.size === 0) return;
  const disk = await open(path, { resolve: 'same-directory' });
  for (const [name, model] of snapshots) {
    const copy = `${path}.copy`;
    await copyFile(path, copy);
    for (const bitmap of bitmaps.keys()) await qemuImg(['bitmap', '--remove', copy, bitmap]);
    await qemuImg(['snapshot', '-a', name, copy]);
    const view = await disk.snapshots.open(name);
    if (model !== null) await expectSame(copy, 'qcow2', model);
    else expect((await contentOf(view)).equals(await qemuContent(copy)), `snapshot ${name}`).toBe(true);
    if (backing?.format !== 'raw') await expectSameMap(view, copy);
  }
  await disk.close();
}

/** Both must call the same ranges data, zeros, or neither. */
async function expectSameMap(disk: Disk, path: string): Promise<void> {
  const ours: string[] = [];
  for await (const { start, length, type } of disk.extents()) {
    add(ours, start, length, type === 'compressed' ? 'data' : type);
  }
  const theirs: string[] = [];
  for (const entry of await qemuMap(path)) add(theirs, entry.start, entry.length, typeOf(entry));
  expect(ours).toEqual(theirs);
}

function typeOf({ data, present }: QemuMapEntry): string {
  return data ? 'data' : present ? 'zero' : 'unallocated';
}

/** Adds a run to a list of them, joined to the last where that is of the same type. */
function add(runs: string[], start: number, length: number, type: string): void {
  const [lastType, from = '', to] = (runs.at(-1) ?? '').split(' ');
  if (lastType === type && Number(to) === start) runs.splice(-1, 1, `${type} ${from} ${start + length}`);
  else runs.push(`${type} ${start} ${start + length}`);
}

async function contentOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}
