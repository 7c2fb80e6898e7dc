/**
 * Rebases of plain files, whose native jobs write past every Storage, so that strace has to watch. Whatever a power cut leaves of
 * their writes, and wherever SIGKILL meets the process: the content stays, whichever backing file the header names, and the
 * rebase can be done again. Needs the built program (dist). Killed at every call and cut in many more ways with
 * `npm run test:crash`.
 */
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type CreateOptions, type Storage } from '../../lib/index.js';
import { mainScript, qcow2Process } from '../cli/run.js';
import { crashStates, type CrashOptions } from '../support/crash-states.js';
import { inspectImage } from '../support/image-invariants.js';
import { qemuCheck, qemuContent, qemuInfo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { withTempDir } from '../support/temp-dir.js';
import { killedAt, logOf, traceNode, type TracedCall } from '../support/traced-changes.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const seed = Number(process.env.QCOW2_SEED ?? 1);
const KiB = 1024;
const size = 2 ** 20 + 3 * 512;
const command = ['rebase', '-f', 'qcow2', '-F', 'raw', '-b', 'new', 'top'];
const cuts: CrashOptions = isLong
  ? { seed }
  : { seed, exhaustiveUpTo: 3, samples: 3, tornSamples: 2, tornUnits: [512] };
/** Every n-th state of a power cut is judged. */
const cutEvery = isLong ? 1 : 4;
const totals = { kills: 0, cuts: 0, old: 0, leaky: 0 };

interface Kind {
  readonly name: string;
  readonly options: CreateOptions;
  readonly snapshot?: boolean;
}

const kinds: readonly Kind[] = [
  { name: '64 KiB clusters', options: {} },
  { name: '4 KiB clusters in a snapshot', options: { clusterSize: 4096 }, snapshot: true },
  { name: '1 KiB clusters of version 2', options: { clusterSize: 1024, version: 2 } },
];

afterAll(() => {
  console.log(
    `rebases killed: ${totals.kills}, states of power cuts: ${totals.cuts}; the old backing file was still named after ` +
      `${totals.old}, clusters were leaked by ${totals.leaky} of the killed`,
  );
});

type Path = (name: string) => string;

describe.each(kinds)('with $name', (kind) => {
  it('a rebase that stops anywhere leaves the content', { timeout: 3_600_000 }, () =>
    withTempDir(async (path) => {
      const model = await makeFiles(path, kind);
      const { calls } = await rebaseTraced(path, []);
      expect(await judge(path, model, 'not killed')).toBe('new');
      expect(await firstProblem(path, model, calls)).toBe(null);
      const unflushed = calls.filter(({ name }) => !name.endsWith('sync'));
      expect(await firstProblem(path, model, unflushed), 'no flush was needed').not.toBe(null);
      const random = new Random(seed);
      const moments = isLong
        ? calls.map((_, index) => index)
        : // The last calls change the header.
          [random.below(calls.length), calls.length - 1 - random.below(3)];
      for (const moment of moments) {
        const signal = await killedAt(calls.slice(0, moment + 1), async (until) => {
          await copyFile(path('pristine'), path('top'));
          return await rebaseTraced(path, until);
        });
        const what = `killed at call ${moment} of ${calls.length}`;
        expect(signal, what).toBe('SIGKILL');
        totals.kills += 1;
        const named = await judge(path, model, what);
        expect(['old', 'new'], what).toContain(named);
        if (named === 'old') totals.old += 1;
        expect(await qcow2Process(command, path('')), what).toMatchObject({ code: 0, stderr: '' });
        expect(await judge(path, model, `${what}, then done again`)).toBe('new');
      }
    }),
  );
});

/** Makes the image that is to be rebased and both backing files; gives the content it has to keep. */
async function makeFiles(path: Path, { options, snapshot }: Kind): Promise<Buffer> {
  const old = pattern(1, size);
  const next = Buffer.from(old);
  // What differs: data, data instead of zeros, zeros instead of data, and what the new file is too short for.
  pattern(2, 100 * KiB).copy(next, 100 * KiB);
  old.fill(0, 300 * KiB, 400 * KiB);
  next.fill(0, 500 * KiB, 580 * KiB);
  for (let at = 600 * KiB; at < 900 * KiB; at += 70 * KiB) next.fill(7, at, at + 600);
  await writeFile(path('old'), old);
  await writeFile(path('new'), next.subarray(0, size - 70 * KiB));
  const model = Buffer.from(old);
  const disk = await create(path('pristine'), size, {
    ...options,
    backing: { name: path('old'), format: 'raw' },
    resolve: 'any',
  });
  const write = async (content: number, position: number, length: number): Promise<void> => {
    const data = pattern(content, length);
    data.copy(model, position);
    await disk.write(data, position);
  };
  await write(3, 80 * KiB, 70 * KiB);
  await write(4, 700 * KiB, 5 * KiB);
  if (snapshot === true) await disk.snapshots.create({ name: 'shares what was written so far' });
  await write(5, 920 * KiB, 512);
  await disk.close();
  await copyFile(path('pristine'), path('top'));
  return model;
}

function rebaseTraced(path: Path, until: readonly TracedCall[]): ReturnType<typeof traceNode> {
  return traceNode([mainScript, ...command], { cwd: path(''), trace: path('trace'), until });
}

/** Judges what power cuts leave of these calls; gives what is wrong with the first bad state, or null. */
async function firstProblem(path: Path, model: Buffer, calls: readonly TracedCall[]): Promise<string | null> {
  const files = new Map<string, Storage>();
  for (const name of ['old', 'new']) files.set(name, new MemoryStorage(await readFile(path(name))));
  const initial = new MemoryStorage(await readFile(path('pristine')));
  let count = 0;
  for await (const { content, description } of crashStates(logOf(new Map([['top', initial]]), calls), cuts)) {
    count += 1;
    if (count % cutEvery !== 0) continue;
    totals.cuts += 1;
    const [broken] = inspectImage(content.toBuffer()).problems;
    if (broken !== undefined) return `${broken} after a ${description}`;
    try {
      if (!(await contentOf(content, files)).equals(model)) return `other content after a ${description}`;
    } catch (error) {
      return `${String(error)} after a ${description}`;
    }
  }
  return null;
}

async function contentOf(image: MemoryStorage, files: ReadonlyMap<string, Storage>): Promise<Buffer> {
  const disk = await open(image, {
    resolve: ({ name }) =>
      files.get(baseOf(name)) ?? Promise.reject(new Error(`no file has the name ${name}`)),
  });
  if (baseOf(disk.header.backingFile) === 'old') totals.old += 1;
  const found = Buffer.alloc(size);
  await disk.read(found, 0);
  await disk.close();
  return found;
}

/** Holds the image to its content, by this package and by QEMU; gives the name of the backing file. */
async function judge(path: Path, model: Buffer, what: string): Promise<string> {
  const { corruptions = 0, leaks = 0 } = await qemuCheck(path('top'));
  expect(corruptions, what).toBe(0);
  if (leaks > 0) totals.leaky += 1;
  expect((await qemuContent(path('top'))).equals(model), what).toBe(true);
  const disk = await open(path('top'), { resolve: 'any' });
  const found = Buffer.alloc(size);
  await disk.read(found, 0);
  await disk.close();
  expect(found.equals(model), what).toBe(true);
  const named = (await qemuInfo(path('top')))['backing-filename'];
  return baseOf(named ?? null);
}

const baseOf = (name: string | null): string => name?.split('/').at(-1) ?? '';
