/** Snapshots that QEMU made stay as they were, whatever is done to the disk here. */
import { describe, expect, it } from 'vitest';
import type { Qcow2 } from '../../lib/index.js';
import { plainKind, type ImageKind } from '../support/feature-rows.js';
import { guestRequests } from '../support/guest-requests.js';
import type { PlainDisk } from '../support/plain-disk.js';
import {
  contentByQemu,
  expectClean,
  makeOurs,
  openOurs,
  snapshotByQemu,
  type KindImage,
} from '../support/row-images.js';
import { useTempDir } from '../support/temp-dir.js';
import { perform } from '../support/work.js';

const kinds: Partial<ImageKind>[] = [
  {},
  { version: 2 },
  { clusterSize: 512 },
  { clusterSize: 4096, refcountBits: 64 },
  { extendedL2: true },
  { extendedL2: true, clusterSize: 16384, backing: 'qcow2-long' },
  { backing: 'raw-short' },
  { version: 2, backing: 'qcow2-long' },
  { lazyRefcounts: true, refcountBits: 8 },
  { compressionType: 'zstd' },
  { encryption: 'luks' },
  { encryption: 'luks', extendedL2: true },
  { preallocation: 'metadata' },
];

describe('beside snapshots of QEMU', () => {
  const inDirectory = useTempDir();

  it.each(kinds.map((kind, index) => ({ name: JSON.stringify(kind), kind, seed: index * 10 + 1 })))(
    '$name',
    async ({ kind, seed }) => {
      const { image, disk } = await makeOurs({ ...plainKind, sizeUnit: 'sector', ...kind }, inDirectory());
      await work(image, disk, seed);
      await disk.close();
      const taken = new Map<string, PlainDisk>();
      for (const name of ['first', 'second', 'third']) {
        await snapshotByQemu(image, '-c', name);
        taken.set(name, image.model.clone());
        await workInSession(image, seed + taken.size);
        await expectAllThere(image, taken);
      }

      await snapshotByQemu(image, '-a', 'first');
      const applied = { ...image, model: taken.get('first')?.clone() ?? image.model };
      await expectSameHere(applied);
      await workInSession(applied, seed + 5);
      await expectAllThere(applied, taken);

      await snapshotByQemu(applied, '-d', 'second');
      taken.delete('second');
      await workInSession(applied, seed + 6);
      await expectAllThere(applied, taken);
      for (const name of ['first', 'third']) await snapshotByQemu(applied, '-d', name);
      await workInSession(applied, seed + 7);
      await expectAllThere(applied, new Map());
    },
    60_000,
  );

  it('version 3: resizes leave them alone', async () => {
    const { image, disk } = await makeOurs(plainKind, inDirectory());
    await work(image, disk, 1);
    await disk.close();
    await snapshotByQemu(image, '-c', 'first');
    const taken = new Map([['first', image.model.clone()]]);
    for (const size of [5_000_192, 100 * 1024 + 512, 3_000_320, image.model.size]) {
      const resized = await openOurs(image, 'r+');
      await resized.resize(size, { shrink: true });
      image.model.resize(size);
      await work(image, resized, size);
      await resized.close();
      await expectAllThere(image, taken);
    }
    await snapshotByQemu(image, '-a', 'first');
    await expectSameHere({ ...image, model: taken.get('first') ?? image.model });
  });

  it('version 2: refuses to resize, as its snapshots do not know their size', async () => {
    const { image, disk } = await makeOurs({ ...plainKind, version: 2 }, inDirectory());
    await disk.close();
    await snapshotByQemu(image, '-c', 'first');
    const again = await openOurs(image, 'r+');
    await expect(again.resize(2 * again.size)).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
    await again.close();
    await expectClean(image);
  });
});

async function work({ kind, model }: KindImage, disk: Qcow2, seed: number): Promise<void> {
  const compress = kind.encryption === 'none';
  const options = { unit: 1, compress, count: 16 };
  for (const request of guestRequests(seed, model.size, kind.clusterSize, options)) {
    await perform(disk, model, request);
  }
}

async function workInSession(image: KindImage, seed: number): Promise<void> {
  const disk = await openOurs(image, 'r+');
  await work(image, disk, seed);
  await disk.flush();
  await work(image, disk, seed + 1000);
  await disk.close();
  await expectSameHere(image);
}

async function expectSameHere(image: KindImage): Promise<void> {
  const disk = await openOurs(image);
  expect(disk.size).toBe(image.model.size);
  expect(await image.model.firstDifference((buffer, position) => disk.read(buffer, position))).toBeNull();
  await disk.close();
}

/** Checks the disk and all its snapshots, as QEMU reads them. */
async function expectAllThere(image: KindImage, snapshots: ReadonlyMap<string, PlainDisk>): Promise<void> {
  await expectClean(image);
  expectEqual(await contentByQemu(image), image.model, 'the disk');
  for (const [name, model] of snapshots) expectEqual(await contentByQemu(image, name), model, name);
}

function expectEqual(got: Buffer, model: PlainDisk, what: string): void {
  const length = Math.min(got.length, model.size);
  expect(got.subarray(0, length).equals(model.read(0, length)), what).toBe(true);
}
