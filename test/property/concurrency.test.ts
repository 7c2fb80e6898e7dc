/** Many requests at once on one image, none awaited before the next: every byte must be one that some order gives. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { inspectImage } from '../support/image-invariants.js';
import { pattern, Random } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { RecordingStorage } from '../support/recording-storage.js';

const rounds = Number(process.env.QCOW2_SEQUENCES ?? 3);
const firstSeed = Number(process.env.QCOW2_SEED ?? 1);
const kib = 1024;

interface Kind {
  readonly name: string;
  readonly options: CreateOptions;
  readonly size: number;
}

const kinds: readonly Kind[] = [
  { name: '512 B clusters', options: { clusterSize: 512 }, size: 70 * kib },
  {
    name: '512 B clusters, refcounts of 64 bits',
    options: { clusterSize: 512, refcountBits: 64 },
    size: 70 * kib,
  },
  {
    name: '4 KiB clusters, refcounts of 2 bits',
    options: { clusterSize: 4096, refcountBits: 2 },
    size: 200 * kib,
  },
  { name: '64 KiB clusters', options: {}, size: 300 * kib },
  { name: 'extended L2', options: { clusterSize: 16384, extendedL2: true }, size: 400 * kib },
  { name: 'lazy refcounts', options: { clusterSize: 1024, lazyRefcounts: true }, size: 100 * kib },
];

/** A storage in which requests under way settle in any order. */
async function shuffled(
  kind: Kind,
  seed: number,
): Promise<{ memory: MemoryStorage; storage: RecordingStorage }> {
  const memory = new MemoryStorage();
  await (await create(memory, kind.size, kind.options)).close();
  return { memory, storage: await RecordingStorage.over(memory, { shuffle: new Random(seed) }) };
}

function openFor(storage: RecordingStorage, { options }: Kind): Promise<Qcow2> {
  return open(storage, { mode: 'r+', cacheBytes: 6 * (options.clusterSize ?? 65536) });
}

function expectSound(memory: MemoryStorage): void {
  const { problems, leaks, dirty } = inspectImage(memory.toBuffer());
  expect({ problems, leaks, dirty }).toEqual({ problems: [], leaks: 0, dirty: false });
}

/** A change of bytes [from, to) to one value, made at the same time as others. */
interface Change {
  readonly from: number;
  readonly to: number;
  readonly value: number;
}

/** The first byte that none of the changes, done at once in any order, leaves as it is. */
function impossible(before: Buffer, after: Buffer, changes: readonly Change[]): string | null {
  const cuts = [...new Set([0, after.length, ...changes.flatMap(({ from, to }) => [from, to])])];
  cuts.sort((a, b) => a - b);
  for (const [i, start] of cuts.entries()) {
    const end = cuts[i + 1] ?? start;
    const values = new Set(
      changes.filter(({ from, to }) => from <= start && end <= to).map(({ value }) => value),
    );
    for (let at = start; at < end; at += 1) {
      const byte = after[at] ?? -1;
      if (values.size === 0 ? byte !== before[at] : !values.has(byte)) return `byte ${at} is ${byte}`;
    }
  }
  return null;
}

const seeds = Array.from({ length: rounds }, (_, i) => firstSeed + i);

describe.each(kinds)('$name', (kind) => {
  const clusterSize = kind.options.clusterSize ?? 65536;

  it.each(seeds)('overlapping requests leave bytes of one of the last (seed %i)', async (seed) => {
    const random = new Random(seed);
    const { memory, storage } = await shuffled(kind, seed);
    const disk = await openFor(storage, kind);
    // Request n writes the byte n; zeros are 0. What may be at a byte after each round: any of those that touched it in it.
    let before: Buffer = Buffer.alloc(kind.size);
    for (let round = 0; round < 4; round += 1) {
      const changes: Change[] = [];
      const requests: Promise<unknown>[] = [];
      for (let number = 1; number <= 25; number += 1) {
        const near = random.below(4) * 3 * clusterSize;
        const position = Math.min(kind.size - 1, near + random.below(3 * clusterSize));
        const length = Math.min(kind.size - position, 1 + random.below(2 * clusterSize));
        const byte = round * 25 + number;
        const note = (from: number, count: number, value: number): void => {
          changes.push({ from, to: from + count, value });
        };
        const first = Math.floor(position / clusterSize) * clusterSize;
        const whole = Math.min(clusterSize * 2, kind.size - first);
        requests.push(
          random.pick([
            () => (note(position, length, byte), disk.write(Buffer.alloc(length, byte), position)),
            () => (note(position, length, byte), disk.write(Buffer.alloc(length, byte), position)),
            () => (
              note(first, whole, byte),
              disk.write(Buffer.alloc(whole, byte), first, { compress: true })
            ),
            () => (note(position, length, 0), disk.writeZeroes(position, length)),
            () => (note(position, length, 0), disk.discard(position, length)),
            () => disk.read(Buffer.alloc(length), position),
            () => disk.flush(),
          ])(),
        );
      }
      await Promise.all(requests);
      const after = Buffer.alloc(kind.size);
      await disk.read(after, 0);
      expect(impossible(before, after, changes), `round ${round}`).toBe(null);
      before = after;
    }
    await disk.close();
    const again = await open(memory);
    const content = Buffer.alloc(kind.size);
    await again.read(content, 0);
    expect(content.equals(before)).toBe(true);
    expectSound(memory);
  });

  it.each(seeds)('disjoint requests into the same clusters are exact (seed %i)', async (seed) => {
    const random = new Random(seed);
    const { memory, storage } = await shuffled(kind, seed);
    const disk = await openFor(storage, kind);
    const model = new PlainDisk(kind.size);
    for (let round = 0; round < 6; round += 1) {
      const requests: Promise<unknown>[] = [];
      let at = random.below(clusterSize);
      while (requests.length < 30 && at < kind.size) {
        const length = Math.min(kind.size - at, 1 + random.below(clusterSize));
        const position = at;
        const data = pattern(seed * 1000 + round * 50 + requests.length, length);
        requests.push(
          random.pick([
            () => (model.write(data, position), disk.write(data, position)),
            () => (model.write(data, position), disk.write(data, position)),
            () => (model.zero(position, length), disk.writeZeroes(position, length)),
            () => (model.zero(position, length), disk.discard(position, length)),
            () => disk.flush(),
          ])(),
        );
        at += length + (random.chance(0.5) ? 0 : random.below(clusterSize));
      }
      await Promise.all(requests);
      expect(await model.firstDifference((buffer, position) => disk.read(buffer, position))).toBe(null);
    }
    await disk.close();
    expect(storage.violations).toEqual([]);
    expectSound(memory);
  });

  it.each(seeds)(
    'reads see no other place than their own while clusters are freed and reused (seed %i)',
    async (seed) => {
      const random = new Random(seed);
      const { memory, storage } = await shuffled(kind, seed);
      const disk = await openFor(storage, kind);
      const clusters = Math.floor(kind.size / clusterSize);
      // Every byte of a guest cluster is 0 or the cluster's own number, whatever is done.
      const own = (cluster: number): number => 1 + (cluster % 255);
      const wrong: string[] = [];
      const change = async (): Promise<void> => {
        for (let i = 0; i < 25; i += 1) {
          const cluster = random.below(clusters);
          const [position, data] = [cluster * clusterSize, Buffer.alloc(clusterSize, own(cluster))];
          await random.pick([
            () => disk.write(data, position),
            () => disk.write(data, position, { compress: true }),
            () => disk.discard(position, clusterSize * Math.min(3, clusters - cluster)),
            () => disk.flush(),
          ])();
        }
      };
      const read = async (): Promise<void> => {
        for (let i = 0; i < 60; i += 1) {
          const position = random.below(kind.size);
          const got = Buffer.alloc(Math.min(kind.size - position, 1 + random.below(2 * clusterSize)), 0xff);
          await disk.read(got, position);
          const bad = got.findIndex(
            (byte, k) => byte !== 0 && byte !== own(Math.floor((position + k) / clusterSize)),
          );
          if (bad >= 0) wrong.push(`byte ${position + bad} is ${String(got[bad])}`);
        }
      };
      await Promise.all([change(), read(), change(), read(), change()]);
      expect(wrong).toEqual([]);
      await disk.close();
      expectSound(memory);
    },
  );

  it('closing waits for what is under way, and refuses what comes later', async () => {
    const { memory, storage } = await shuffled(kind, 7);
    const disk = await openFor(storage, kind);
    const data = pattern(1, kind.size);
    const step = Math.ceil(kind.size / 20);
    const requests: Promise<void>[] = [];
    for (let at = 0; at < kind.size; at += step) requests.push(disk.write(data.subarray(at, at + step), at));
    const closing = disk.close();
    await expect(disk.write(data.subarray(0, 1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await expect(disk.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await Promise.all([...requests, closing]);
    expect(disk.close()).toBe(closing);
    const content = Buffer.alloc(kind.size);
    await (await open(memory)).read(content, 0);
    expect(content.equals(data)).toBe(true);
    expect(storage.violations).toEqual([]);
    expectSound(memory);
  });
});
