/**
 * Rebases of plain files, which native jobs copy, killed with SIGKILL at one of their writes or flushes: strace sends it there.
 * The content stays, whichever backing file the header names, and the rebase can be done again. Needs the built program (dist).
 * At every one of these calls with `npm run test:crash`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { create, open, type CreateOptions } from '../../lib/index.js';
import { mainScript, qcow2Process } from '../cli/run.js';
import { qemuCheck, qemuContent, qemuInfo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { withTempDir } from '../support/temp-dir.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const seed = Number(process.env.QCOW2_SEED ?? 1);
const calls = 'pwrite64,pwritev,pwritev2,fallocate,ftruncate,copy_file_range,fsync,fdatasync';
const KiB = 1024;
const size = 4 * 2 ** 20 + 3 * 512;
const command = ['rebase', '-f', 'qcow2', '-F', 'raw', '-b', 'new', 'top'];
const totals = { kills: 0, old: 0, leaky: 0 };

interface Kind {
  readonly name: string;
  readonly options: CreateOptions;
  readonly snapshot?: boolean;
}

const kinds: readonly Kind[] = [
  { name: '64 KiB clusters', options: {} },
  { name: '4 KiB clusters in a snapshot', options: { clusterSize: 4096 }, snapshot: true },
  { name: '512 B clusters of version 2', options: { clusterSize: 512, version: 2 } },
];

afterAll(() => {
  console.log(
    `rebases killed: ${totals.kills}; the old backing file was still named after ${totals.old}, ` +
      `clusters were leaked by ${totals.leaky}`,
  );
});

type Path = (name: string) => string;

describe.each(kinds)('with $name', (kind) => {
  it(
    'a rebase that is killed leaves the content as it was, and can be done again',
    { timeout: 3_600_000 },
    () =>
      withTempDir(async (path) => {
        const model = await makeFiles(path, kind);
        const all = (await runTraced(path, [])).calls;
        await judge(path, model, 'not killed');
        expect((await qemuInfo(path('top')))['backing-filename']).toBe('new');
        const random = new Random(seed);
        const moments = isLong
          ? all.map((_, index) => index)
          : // The last calls change the header.
            [random.below(all.length), all.length - 1 - random.below(3)];
        for (const moment of moments) {
          await copyFile(path('pristine'), path('top'));
          const { signal } = await runTraced(path, all.slice(0, moment + 1));
          const what = `killed at call ${moment} of ${all.length}`;
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
  pattern(2, 300 * KiB).copy(next, 100 * KiB);
  old.fill(0, 700 * KiB, 900 * KiB);
  next.fill(0, 1200 * KiB, 1300 * KiB);
  for (let at = 2000 * KiB; at < 3000 * KiB; at += 70 * KiB) next.fill(7, at, at + 600);
  await writeFile(path('old'), old);
  await writeFile(path('new'), next.subarray(0, size - 200 * KiB));
  const model = Buffer.from(old);
  const disk = await create(path('pristine'), size, {
    ...options,
    backing: { name: path('old'), format: 'raw' },
    resolve: 'any',
  });
  const write = async (seed: number, position: number, length: number): Promise<void> => {
    const data = pattern(seed, length);
    data.copy(model, position);
    await disk.write(data, position);
  };
  await write(3, 60 * KiB, 70 * KiB);
  await write(4, 2100 * KiB, 5 * KiB);
  if (snapshot === true) await disk.snapshots.create({ name: 'shares what was written so far' });
  await write(5, 3500 * KiB, 512);
  await disk.close();
  await copyFile(path('pristine'), path('top'));
  return model;
}

/**
 * Runs the rebase.
 * @param until the calls that change files, up to the one that it is killed at; none where it is to be completed
 * @returns the calls there were, and the signal that ended it
 */
async function runTraced(
  path: Path,
  until: readonly string[],
): Promise<{ calls: string[]; signal: string | null }> {
  const last = until.at(-1);
  // strace counts the calls of each name for itself, and those of each thread.
  const nth = until.filter((name) => name === last).length;
  const kill = last === undefined ? [] : ['-e', `inject=${last}:signal=SIGKILL:when=${nth}`];
  const tracing = ['-f', '-o', path('trace'), '-e', `trace=${calls}`, ...kill];
  const child = spawn('strace', [...tracing, process.execPath, mainScript, ...command], {
    cwd: path(''),
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
  });
  const [, signal] = (await once(child, 'close')) as [number | null, string | null];
  const trace = await readFile(path('trace'), 'utf8');
  return { calls: [...trace.matchAll(/^\d+ +(\w+)\(/gm)].map(([, name = '']) => name), signal };
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
  const named = disk.header.backingFile ?? '';
  expect((await disk.check()).corruptions, what).toBe(0);
  await disk.close();
  expect(found.equals(model), what).toBe(true);
  return named.split('/').at(-1) ?? '';
}
