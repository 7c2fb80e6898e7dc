/** Wherever a crash falls between snapshots, applications and deletions: each snapshot is whole or not there, and stays. */
import { describe, expect, it } from 'vitest';
import { create, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { crashStates } from '../support/crash-states.js';
import { inspectImage } from '../support/image-invariants.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const KiB = 1024;
const size = 32 * KiB;

interface Step {
  name: string;
  run: (disk: Qcow2) => Promise<void>;
}

/** What the image held when a step was done. */
interface Moment {
  readonly tick: number;
  readonly disk: Buffer;
  readonly snapshots: ReadonlyMap<string, Buffer>;
}

const write = (seed: number, start: number, length: number): Step => ({
  name: `write ${start}`,
  run: async (disk) => {
    await disk.write(pattern(seed, length), start);
    await disk.flush();
  },
});
const make = (name: string): Step => ({
  name: `create ${name}`,
  run: async (disk) => {
    await disk.snapshots.create({ name, date: new Date(0) });
  },
});
const apply = (name: string): Step => ({ name: `apply ${name}`, run: (disk) => disk.snapshots.apply(name) });
const remove = (name: string): Step => ({
  name: `delete ${name}`,
  run: (disk) => disk.snapshots.delete(name),
});
const resize = (to: number): Step => ({
  name: `resize ${to}`,
  run: (disk) => disk.resize(to, { shrink: true }),
});
const compress: Step = {
  name: 'compress',
  run: async (disk) => {
    await disk.write(Buffer.alloc(16 * KiB, 'qcow2'), 0, { compress: true });
    await disk.flush();
  },
};

const histories: Step[][] = [
  [make('a'), write(2, 4 * KiB, 8 * KiB), make('b'), apply('a'), write(3, 0, 4 * KiB)],
  [compress, make('a'), write(4, 0, size), remove('a'), write(5, 512, 512)],
  [make('a'), write(6, 8 * KiB, 4 * KiB), make('b'), remove('a'), write(7, 8 * KiB, 8 * KiB), apply('b')],
  [
    make('a'),
    resize(60 * KiB),
    write(8, 50 * KiB, 4 * KiB),
    make('b'),
    apply('a'),
    write(9, 0, 512),
    apply('b'),
  ],
];
const kinds: CreateOptions[] = [
  { clusterSize: 512 },
  { clusterSize: 4096, lazyRefcounts: true },
  { clusterSize: 16 * KiB, extendedL2: true },
  { clusterSize: 1024, refcountBits: 8 },
];
/** Each kind with one history, and each with all in a long run. */
const cases = kinds.flatMap((kind, i) =>
  histories.filter((_, j) => isLong || i === j).map((steps) => ({ kind, steps })),
);

async function contentOf(disk: { size: number; read: Qcow2['read'] }): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

async function snapshotsOf(disk: Qcow2): Promise<Map<string, Buffer>> {
  const contents = new Map<string, Buffer>();
  for (const { name } of await disk.snapshots.list()) {
    const view = await disk.snapshots.open(name);
    contents.set(name, await contentOf(view));
    await view.close();
  }
  return contents;
}

/** Whether every sector holds what it held at one of these moments. */
function isMixOf(found: Buffer, disks: readonly Buffer[]): boolean {
  if (!disks.some(({ length }) => length === found.length)) return false;
  for (let at = 0; at < found.length; at += 512) {
    const sector = found.subarray(at, at + 512);
    const zeros = Buffer.alloc(sector.length);
    const allowed = disks.some((disk) =>
      sector.equals(at < disk.length ? disk.subarray(at, at + 512) : zeros),
    );
    if (!allowed) return false;
  }
  return true;
}

describe('a crash among snapshots', () => {
  it.each(cases)(
    '$kind, history $steps.length: $steps.0.name, $steps.1.name, …',
    async ({ kind, steps }) => {
      const memory = new MemoryStorage();
      const made = await create(memory, size, kind);
      await made.write(pattern(1, 20 * KiB), 0);
      await made.close();
      const recording = await RecordingStorage.over(memory);
      const disk = await open(recording, { mode: 'r+' });
      const note = async (): Promise<Moment> => {
        const tick = recording.mark();
        return { tick, disk: await contentOf(disk), snapshots: await snapshotsOf(disk) };
      };
      const moments = [await note()];
      for (const step of steps) {
        await step.run(disk);
        moments.push(await note());
      }
      await disk.close();
      expect(recording.violations).toEqual([]);
      expect(inspectImage(await bytesOf(memory))).toMatchObject({ problems: [], leaks: 0, dirty: false });

      let states = 0;
      const options = isLong
        ? { exhaustiveUpTo: 10, samples: 500, tornSamples: 30 }
        : { exhaustiveUpTo: 3, samples: 3, tornSamples: 1 };
      for await (const { content, from, to, description } of crashStates(recording.log, {
        ...options,
        seed: 3,
      })) {
        states += 1;
        const first = Math.max(
          0,
          moments.findLastIndex(({ tick }) => tick <= from),
        );
        const last = moments.findIndex(({ tick }) => tick > to);
        const possible = moments.slice(first, last < 0 ? undefined : last + 1);
        const image = await bytesOf(content);
        const { problems } = inspectImage(image);
        expect(problems, description).toEqual([]);
        const crashed = await open(content, { mode: 'r+' });
        const found = await snapshotsOf(crashed);
        const sets = possible.map(({ snapshots }) => [...snapshots.keys()].join());
        expect(sets, description).toContain([...found.keys()].join());
        for (const [name, bytes] of found) {
          const right = possible.some(({ snapshots }) => snapshots.get(name)?.equals(bytes));
          expect(right, `snapshot ${name}\n${description}`).toBe(true);
        }
        const disks = possible.map((moment) => moment.disk);
        expect(isMixOf(await contentOf(crashed), disks), description).toBe(true);
        if (states % 5 === 0) {
          // Writing goes on, and no snapshot changes with it.
          const data = pattern(99, crashed.size);
          await crashed.write(data, 0);
          await crashed.flush();
          expect((await contentOf(crashed)).equals(data)).toBe(true);
          expect(await snapshotsOf(crashed), description).toEqual(found);
        }
        await crashed.close();
      }
      expect(states).toBeGreaterThan(50);
    },
    isLong ? 3_600_000 : 300_000,
  );
});

async function bytesOf(memory: MemoryStorage): Promise<Buffer> {
  const bytes = Buffer.alloc(await memory.size());
  await memory.read(bytes, 0);
  return bytes;
}
