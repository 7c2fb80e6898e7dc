/** Every two features that go together, in images made here and images made by QEMU, each worked on by the other. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Qcow2 } from '../../lib/index.js';
import { guestRequests, type GuestRequest } from '../support/guest-requests.js';
import { isAllowed, nameOf, pairwiseKinds, type ImageKind } from '../support/feature-rows.js';
import {
  contentByQemu,
  expectClean,
  makeByQemu,
  makeOurs,
  openOurs,
  qemuIoOn,
  type KindImage,
} from '../support/row-images.js';
import { perform } from '../support/work.js';

/** Another number chooses other rows and other requests. */
const firstSeed = Number(process.env['QCOW2_MATRIX_SEED'] ?? 1);
const kinds = pairwiseKinds(isAllowed, firstSeed);
type Direction = 'made here' | 'made by QEMU';
const passed: Record<Direction, Set<ImageKind>> = { 'made here': new Set(), 'made by QEMU': new Set() };

afterAll(() => {
  const result = (kind: ImageKind, direction: Direction): string => {
    if (passed[direction].has(kind)) return 'ok';
    return kind.encryption === 'aes' && direction === 'made here' ? 'not made' : 'FAILED';
  };
  const line = (here: string, byQemu: string, kind: string): string =>
    `${here.padEnd(12)} ${byQemu.padEnd(12)} ${kind}`;
  const lines = kinds.map((kind) =>
    line(result(kind, 'made here'), result(kind, 'made by QEMU'), nameOf(kind)),
  );
  console.log([line('made here', 'made by QEMU', 'kind of image'), ...lines].join('\n'));
});

for (const [index, kind] of kinds.entries()) {
  const seed = firstSeed * 10_000 + index;
  describe.concurrent(nameOf(kind), { timeout: 120_000 }, () => {
    // This package makes no images with the legacy encryption.
    if (kind.encryption !== 'aes') {
      it('made here, read, checked and written by QEMU', () =>
        inDirectory(async (directory) => {
          const { image, disk } = await makeOurs(kind, directory);
          await workHere(image, disk, seed);
          await disk.close();
          await expectSameByQemu(image);

          await workByQemu(image, seed + 1000, false);
          await expectClean(image);
          await expectSameHere(image);
          passed['made here'].add(kind);
        }));
    }

    it('made by QEMU, read and written here', () =>
      inDirectory(async (directory) => {
        const image = await makeByQemu(kind, directory);
        await workByQemu(image, seed + 2000, true);
        await expectSameHere(image);

        const disk = await openOurs(image, 'r+');
        await workHere(image, disk, seed + 3000);
        await disk.close();
        await expectSameByQemu(image);
        await expectSameHere(image);
        passed['made by QEMU'].add(kind);
      }));
  });
}

async function inDirectory(work: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'qcow2-matrix-'));
  try {
    await work(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Changes the disk through this package, and the model alike. */
async function workHere(image: KindImage, disk: Qcow2, seed: number): Promise<void> {
  const { kind, model } = image;
  const options = { unit: 1, compress: canCompress(kind) };
  for (const request of guestRequests(seed, model.size, kind.clusterSize, options)) {
    await perform(disk, model, request);
  }
}

/** Changes the disk through qemu-io, and the model alike. */
async function workByQemu(image: KindImage, seed: number, isNew: boolean): Promise<void> {
  const { kind, model } = image;
  const compress = isNew && canCompress(kind) && kind.preallocation === 'off';
  const size = model.size - (model.size % 512);
  const requests = guestRequests(seed, size, kind.clusterSize, { unit: 512, compress });
  // Compressed clusters first: QEMU 7.2 goes on packing them where one was overwritten and its place given to other data.
  const isCompressed = ({ what }: GuestRequest): number => (what === 'compress' ? 1 : 0);
  const possible = requests.sort((a, b) => isCompressed(b) - isCompressed(a)).filter(isPossible(kind));
  await qemuIoOn(image, possible.map(commandOf));
  for (const { what, position, length, fill } of possible) {
    if (what === 'write' || what === 'compress') model.write(Buffer.alloc(length, fill), position);
    else if (what === 'zero') model.zero(position, length);
    else model.discard(position, length, kind.clusterSize);
  }
}

/** QEMU compresses only what has no cluster yet, and without zero clusters its discards uncover the backing file. */
function isPossible(kind: ImageKind): (request: GuestRequest) => boolean {
  const touched = new Set<number>();
  return ({ what, position, length }) => {
    if (what === 'discard' && (kind.version === 2 || kind.backing !== 'none')) return false;
    const clusters = clustersOf(kind, position, length);
    if (what === 'compress' && clusters.some((cluster) => touched.has(cluster))) return false;
    for (const cluster of clusters) touched.add(cluster);
    return true;
  };
}

function clustersOf({ clusterSize }: ImageKind, position: number, length: number): number[] {
  const first = Math.floor(position / clusterSize);
  const end = Math.ceil((position + length) / clusterSize);
  return Array.from({ length: end - first }, (_, index) => first + index);
}

const canCompress = (kind: ImageKind): boolean => kind.encryption === 'none' && kind.dataFile === 'none';

function commandOf({ what, position, length, fill }: GuestRequest): string {
  const range = `${position} ${length}`;
  if (what === 'write') return `write -P ${fill} ${range}`;
  if (what === 'compress') return `write -c -P ${fill} ${range}`;
  return what === 'zero' ? `write -z ${fill % 2 === 0 ? '-u ' : ''}${range}` : `discard ${range}`;
}

async function expectSameByQemu(image: KindImage): Promise<void> {
  await expectClean(image);
  const content = await contentByQemu(image);
  expectEqual(content, image.model.read(0, content.length), 'as QEMU reads it');
  expect(image.model.size - content.length).toBeLessThan(512);
  if (image.kind.dataFile !== 'raw') return;
  const data = await readFile(image.dataPath);
  expectEqual(data.subarray(0, image.model.size), image.model.read(0, image.model.size), 'the raw data file');
  // Both fill the last cluster.
  expect(data.subarray(image.model.size).every((byte) => byte === 0)).toBe(true);
}

async function expectSameHere(image: KindImage): Promise<void> {
  const disk = await openOurs(image);
  try {
    // QEMU rounds a size down to whole sectors when it writes the header again.
    if (disk.size < image.model.size) image.model.resize(image.model.size - (image.model.size % 512));
    expect(disk.size).toBe(image.model.size);
    expect(await image.model.firstDifference((buffer, position) => disk.read(buffer, position))).toBeNull();
  } finally {
    await disk.close();
  }
}

function expectEqual(got: Buffer, expected: Buffer, what: string): void {
  if (got.equals(expected)) return;
  const at = expected.findIndex((byte, index) => byte !== got[index]);
  expect.fail(`${what}: ${got.length} bytes (expected ${expected.length}), first difference at ${at}`);
}
