/** Reads and writes of sector, page and cluster length at and around every boundary of the format, on disks up to 1 PiB. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { expectCleanByQemu, qemuIo } from '../support/oracle.js';
import { PlainDisk } from '../support/plain-disk.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 2 ** 10;
const MiB = 2 ** 20;
const GiB = 2 ** 30;
const TiB = 2 ** 40;
const PiB = 2 ** 50;
const sector = 512;
const page = 4096;

interface Shape extends Pick<CreateOptions, 'version' | 'extendedL2'> {
  clusterSize: number;
  size: number;
}

/** The largest size of each is what an L1 table of 32 MiB can describe, or 1 PiB. */
const shapes: (Shape & { special?: string })[] = [
  { clusterSize: 512, size: 3 * MiB },
  { clusterSize: 512, size: 128 * GiB },
  { clusterSize: 4 * KiB, size: 5 * GiB + 3 * sector },
  { clusterSize: 4 * KiB, size: 8 * TiB },
  { clusterSize: 64 * KiB, size: MiB + sector },
  { clusterSize: 64 * KiB, size: 5 * TiB },
  { clusterSize: 64 * KiB, size: PiB },
  { clusterSize: 64 * KiB, size: PiB, version: 2, special: 'version 2' },
  { clusterSize: 64 * KiB, size: PiB, extendedL2: true, special: 'extended L2' },
  { clusterSize: 2 * MiB, size: 9 * MiB + page },
  { clusterSize: 2 * MiB, size: PiB },
];
const named = shapes.map((shape) => ({ special: 'plain', ...shape }));

interface Request {
  what: 'write' | 'zero' | 'discard';
  position: number;
  length: number;
  fill: number;
}

describe('at and around the boundaries', () => {
  const inDirectory = useTempDir();

  it.each(named)(
    '$clusterSize-byte clusters, $size bytes, $special',
    async (shape) => {
      const { size, clusterSize, version = 3, extendedL2 = false } = shape;
      const path = inDirectory('image.qcow2');
      const requests = requestsFor(shape);
      const model = new PlainDisk(size);
      const disk = await create(path, size, { clusterSize, version, extendedL2 });
      for (const request of requests) {
        await perform(disk, model, request);
        await expectAround(disk, model, request);
      }
      expect(await firstDifference(disk, model)).toBeNull();
      await disk.close();

      const again = await open(path);
      for (const request of requests) await expectAround(again, model, request);
      expect(await firstDifference(again, model)).toBeNull();
      await again.close();
      await expectCleanByQemu(path);
      await qemuIo(path, readCommands(model, requests), { flags: ['-r'] });
    },
    120_000,
  );

  it.each([512, 4 * KiB, 64 * KiB])(
    'each request as the first of an image of %i-byte clusters',
    async (clusterSize) => {
      const l1Coverage = (clusterSize / 8) ** 2 * clusterSize;
      const shape = { clusterSize, size: l1Coverage + 3 * clusterSize };
      for (const request of requestsFor(shape)) {
        const storage = new MemoryStorage();
        const model = new PlainDisk(shape.size);
        const disk = await create(storage, shape.size, { clusterSize });
        await perform(disk, model, request);
        await disk.close();
        const again = await open(storage);
        await expectAround(again, model, request);
        expect(await firstDifference(again, model), JSON.stringify(request)).toBeNull();
        await again.close();
      }
    },
    60_000,
  );
});

/** Every length so that it ends at, crosses and begins at every boundary. */
function requestsFor({ size, clusterSize, extendedL2 = false }: Shape): Request[] {
  const l2Entries = clusterSize / (extendedL2 ? 16 : 8);
  const l2Coverage = l2Entries * clusterSize;
  // What the entries in one cluster of the L1 table describe.
  const l1Coverage = (clusterSize / 8) * l2Coverage;
  const boundaries = [0, clusterSize, l2Coverage, l1Coverage, Math.floor(size / 2 / page) * page, size];
  const ranges = boundaries.flatMap((boundary) => [
    { position: boundary - 1, length: 2 },
    ...[sector, page, clusterSize].flatMap((length) => [
      { position: boundary - length, length },
      { position: boundary - length + sector, length },
      { position: boundary - length / 2, length },
      { position: boundary - sector, length },
      { position: boundary, length },
      { position: boundary + sector, length },
    ]),
  ]);
  return ranges
    .filter(({ position, length }) => position >= 0 && position + length <= size)
    .map((range, index) => ({ ...range, what: whatOf(index), fill: 1 + (index % 255) }));
}

function whatOf(index: number): Request['what'] {
  if (index % 7 === 5) return 'zero';
  return index % 11 === 9 ? 'discard' : 'write';
}

async function perform(disk: Qcow2, model: PlainDisk, request: Request): Promise<void> {
  const { what, position, length, fill } = request;
  if (what === 'write') {
    const data = Buffer.alloc(length, fill);
    await disk.write(data, position);
    model.write(data, position);
  } else {
    await (what === 'zero' ? disk.writeZeroes(position, length) : disk.discard(position, length));
    model.zero(position, length);
  }
}

/** Reads a request's range with a sector on either side, in one go. */
async function expectAround(disk: Qcow2, model: PlainDisk, { position, length }: Request): Promise<void> {
  const start = Math.max(0, position - sector);
  const end = Math.min(model.size, position + length + sector);
  const got = Buffer.alloc(end - start, 0xcd);
  await disk.read(got, start);
  expect(got.equals(model.read(start, end - start)), `[${start}, ${end})`).toBe(true);
}

function firstDifference(disk: Qcow2, model: PlainDisk): Promise<string | null> {
  return model.firstDifference((buffer, position) => disk.read(buffer, position), 4 * MiB);
}

/** qemu-io commands that compare what was touched, run by run of equal bytes. QEMU sees whole sectors only. */
function readCommands(model: PlainDisk, requests: readonly Request[]): string[] {
  return touched(requests, model.size - (model.size % sector)).flatMap(([start, end]) => {
    const bytes = model.read(start, end - start);
    const commands: string[] = [];
    for (let from = 0; from < bytes.length;) {
      const byte = bytes[from] ?? 0;
      const other = bytes.subarray(from).findIndex((next) => next !== byte);
      const to = other < 0 ? bytes.length : from + other;
      const first = Math.floor(from / sector) * sector;
      const length = Math.ceil(to / sector) * sector - first;
      commands.push(`read -P ${byte} -s ${from - first} -l ${to - from} ${start + first} ${length}`);
      from = to;
    }
    return commands;
  });
}

/** The ranges of all requests with a sector on either side, in whole sectors, joined where they meet. */
function touched(requests: readonly Request[], size: number): [start: number, end: number][] {
  const ranges = requests
    .map(({ position, length }): [number, number] => [
      Math.max(0, Math.floor(position / sector - 1) * sector),
      Math.min(size, Math.ceil((position + length) / sector + 1) * sector),
    ])
    .sort(([a], [b]) => a - b);
  const joined: [number, number][] = [];
  for (const [start, end] of ranges) {
    const last = joined.at(-1);
    if (last !== undefined && start <= last[1]) last[1] = Math.max(last[1], end);
    else joined.push([start, end]);
  }
  return joined;
}
