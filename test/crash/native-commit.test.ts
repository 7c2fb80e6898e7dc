/**
 * Commits between plain files, whose native jobs write past every Storage, so that strace has to watch. Whatever a power cut leaves of
 * their writes to both files, and wherever SIGKILL meets the process: the disk reads as before, so do snapshots of the file below, and
 * the commit can be done again. Needs the built program (dist). Killed at every call and cut in many more ways with
 * `npm run test:crash`.
 */
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type CreateOptions } from '../../lib/index.js';
import { mainScript, qcow2Process } from '../cli/run.js';
import { crashStates, type CrashOptions } from '../support/crash-states.js';
import { inspectImage } from '../support/image-invariants.js';
import { qemuCheck, qemuContent } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { withTempDir } from '../support/temp-dir.js';
import { killedAt, logOf, traceNode, type TracedCall } from '../support/traced-changes.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const seed = Number(process.env.QCOW2_SEED ?? 1);
const KiB = 1024;
const size = 2 ** 20 + 3 * 512;
const command = ['commit', '-f', 'qcow2', 'top'];
const cuts: CrashOptions = isLong
  ? { seed }
  : { seed, exhaustiveUpTo: 3, samples: 3, tornSamples: 2, tornUnits: [512] };
/** Every n-th state of a power cut is judged. */
const cutEvery = isLong ? 1 : 4;
const totals = { kills: 0, cuts: 0, leaky: 0 };

interface Kind {
  readonly name: string;
  /** Of the file below; null for a raw one. */
  readonly base: CreateOptions | null;
  readonly top: CreateOptions;
  readonly snapshot?: boolean;
}

const kinds: readonly Kind[] = [
  { name: 'clusters that a snapshot shares', base: {}, top: {}, snapshot: true },
  { name: 'a raw file', base: null, top: { clusterSize: 4096 } },
  {
    name: 'clusters of 1 KiB of version 2',
    base: { clusterSize: 1024, version: 2 },
    top: { clusterSize: 4096 },
  },
];

/** What has to stay. */
interface Model {
  readonly content: Buffer;
  /** Of the file below; null without one. */
  readonly snapshot: Buffer | null;
  readonly baseFormat: 'raw' | 'qcow2';
}

afterAll(() => {
  console.log(
    `commits killed: ${totals.kills}, states of power cuts: ${totals.cuts}; clusters were leaked by ${totals.leaky} of the killed`,
  );
});

type Path = (name: string) => string;

describe.each(kinds)('into $name', (kind) => {
  it('a commit that stops anywhere leaves the content', { timeout: 3_600_000 }, () =>
    withTempDir(async (path) => {
      const model = await makeFiles(path, kind);
      const { calls } = await commitTraced(path, []);
      await judge(path, model, 'not killed');
      expect((await qemuContent(path('base'), model.baseFormat)).equals(model.content)).toBe(true);
      expect(await firstProblem(path, model, calls)).toBe(null);
      const unflushed = calls.filter(({ name }) => !name.endsWith('sync'));
      expect(await firstProblem(path, model, unflushed), 'no flush was needed').not.toBe(null);
      const random = new Random(seed);
      const moments = isLong ? calls.map((_, index) => index) : [0, 1].map(() => random.below(calls.length));
      for (const moment of moments) {
        const signal = await killedAt(calls.slice(0, moment + 1), async (until) => {
          await startAgain(path);
          return await commitTraced(path, until);
        });
        const what = `killed at call ${moment} of ${calls.length}`;
        expect(signal, what).toBe('SIGKILL');
        totals.kills += 1;
        await judge(path, model, what);
        expect(await qcow2Process(command, path('')), what).toMatchObject({ code: 0, stderr: '' });
        await judge(path, model, `${what}, then done again`);
        expect((await qemuContent(path('base'), model.baseFormat)).equals(model.content), what).toBe(true);
      }
    }),
  );
});

/** Makes the image that is to be committed and the file below. */
async function makeFiles(path: Path, { base, top, snapshot = false }: Kind): Promise<Model> {
  const content = Buffer.alloc(size);
  const write = (data: Buffer, position: number): Buffer => {
    data.copy(content, position);
    return data;
  };
  write(pattern(1, 500 * KiB), 0);
  write(pattern(2, 60 * KiB), 900 * KiB);
  const below = Buffer.from(content);
  if (base === null) await writeFile(path('base'), content);
  else {
    const disk = await create(path('base'), size, base);
    await disk.write(content.subarray(0, 300 * KiB), 0);
    if (snapshot) await disk.snapshots.create({ name: 'one' });
    await disk.write(content.subarray(300 * KiB, 500 * KiB), 300 * KiB);
    await disk.write(content.subarray(900 * KiB, 960 * KiB), 900 * KiB);
    await disk.close();
    below.fill(0, 300 * KiB);
  }
  const baseFormat = base === null ? 'raw' : 'qcow2';
  const disk = await create(path('top'), size, {
    ...top,
    backing: { name: 'base', format: baseFormat },
    resolve: 'any',
  });
  await disk.write(write(pattern(3, 150 * KiB), 250 * KiB), 250 * KiB);
  await disk.write(write(pattern(4, 100 * KiB), 600 * KiB + 512), 600 * KiB + 512);
  await disk.write(write(pattern(5, 512), size - 512), size - 512);
  await disk.writeZeroes(100 * KiB, 70 * KiB);
  content.fill(0, 100 * KiB, 170 * KiB);
  await disk.close();
  for (const name of ['base', 'top']) await copyFile(path(name), path(`pristine-${name}`));
  return { content, baseFormat, snapshot: snapshot ? below : null };
}

async function startAgain(path: Path): Promise<void> {
  for (const name of ['base', 'top']) await copyFile(path(`pristine-${name}`), path(name));
}

function commitTraced(path: Path, until: readonly TracedCall[]): ReturnType<typeof traceNode> {
  return traceNode([mainScript, ...command], { cwd: path(''), trace: path('trace'), until });
}

/** Judges what power cuts leave of these calls; gives what is wrong with the first bad state, or null. */
async function firstProblem(path: Path, model: Model, calls: readonly TracedCall[]): Promise<string | null> {
  const initials = new Map<string, MemoryStorage>();
  for (const name of ['base', 'top'])
    initials.set(name, new MemoryStorage(await readFile(path(`pristine-${name}`))));
  let count = 0;
  for await (const { contents, description } of crashStates(logOf(initials, calls), cuts)) {
    count += 1;
    if (count % cutEvery !== 0) continue;
    totals.cuts += 1;
    const [base, top] = contents;
    if (base === undefined || top === undefined) throw new Error('there are two files');
    for (const image of model.baseFormat === 'raw' ? [top] : [top, base]) {
      const [broken] = inspectImage(image.toBuffer()).problems;
      if (broken !== undefined) return `${broken} after a ${description}`;
    }
    try {
      const wrong = await firstWrong(base, top, model);
      if (wrong !== null) return `${wrong} after a ${description}`;
    } catch (error) {
      return `${String(error)} after a ${description}`;
    }
  }
  return null;
}

async function firstWrong(base: MemoryStorage, top: MemoryStorage, model: Model): Promise<string | null> {
  const disk = await open(top, { resolve: () => base });
  const found = Buffer.alloc(size);
  await disk.read(found, 0);
  await disk.close();
  if (!found.equals(model.content)) return 'other content';
  if (model.snapshot === null) return null;
  const below = await open(base);
  const snapshot = await below.snapshots.open('one');
  await snapshot.read(found, 0);
  await snapshot.close();
  await below.close();
  return found.equals(model.snapshot) ? null : 'another snapshot';
}

/** Holds both images to what has to stay, by this package and by QEMU. */
async function judge(path: Path, model: Model, what: string): Promise<void> {
  for (const name of model.baseFormat === 'raw' ? ['top'] : ['top', 'base']) {
    const { corruptions = 0, leaks = 0 } = await qemuCheck(path(name));
    expect(corruptions, `${name}, ${what}`).toBe(0);
    if (leaks > 0) totals.leaky += 1;
  }
  expect((await qemuContent(path('top'))).equals(model.content), what).toBe(true);
  const [base, top] = await Promise.all(
    ['base', 'top'].map(async (name) => new MemoryStorage(await readFile(path(name)))),
  );
  if (base === undefined || top === undefined) throw new Error('there are two files');
  expect(await firstWrong(base, top, model), what).toBe(null);
}
