/** Merges and commits whose process is killed again and again, and which go on from the last checkpoint each time. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, readFile, truncate, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { convert, create, open, openChain, type Checkpoint, type ImageFormat } from '../../lib/index.js';
import { expectCleanByQemu, qemuCompare, qemuContent } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 2 ** 20;
const size = 24 * MiB;
const layers = ['base', 'middle', 'top'];
const program = fileURLToPath(new URL('../support/copy-process.mjs', import.meta.url));

async function makeChain(): Promise<void> {
  for (const [at, name] of layers.entries()) {
    const backing = at === 0 ? {} : { backing: { name: layers[at - 1] ?? '', format: 'qcow2' as const } };
    const image = await create(path(name), size, { ...backing, resolve: 'any' });
    for (let part = at; part < 24; part += at + 1)
      await image.write(pattern(at * 100 + part, 700_000), part * MiB + 700);
    await image.writeZeroes((5 + at) * MiB, 600_000);
    await image.close();
  }
}

interface Work {
  readonly job: 'merge' | 'commit';
  readonly target: string;
  readonly targetFormat: ImageFormat;
}

/** Runs the work until it has said `kills` checkpoints, or to its end; gives the last one said, and whether it ended. */
async function runAndKill(
  work: Work,
  checkpoint: Checkpoint | null,
  checkpoints: number,
  delay: number,
): Promise<{ last: Checkpoint | null; isDone: boolean }> {
  const given = JSON.stringify({ ...work, layers: layers.map(path), checkpoint });
  const child = spawn(process.execPath, [program, given], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit') as Promise<[number | null, string | null]>;
  let last = checkpoint;
  let said = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    last = JSON.parse(line) as Checkpoint;
    said += 1;
    if (said !== checkpoints) continue;
    await sleep(delay);
    child.kill('SIGKILL');
  }
  const [code, signal] = await exited;
  if (signal === null) expect(code).toBe(0);
  return { last, isDone: signal === null };
}

/** Kills the work until it is done; gives how often it was killed. */
async function insist(work: Work): Promise<number> {
  const random = new Random(5);
  let checkpoint: Checkpoint | null = null;
  for (let killed = 0; ; killed += 1) {
    const { last, isDone } = await runAndKill(work, checkpoint, 1 + random.below(4), random.below(12));
    if (isDone) return killed;
    if (work.job === 'merge') expect(last?.position ?? 0).toBeGreaterThan(checkpoint?.position ?? -1);
    checkpoint = last;
  }
}

describe('a process that is killed', () => {
  it.each<ImageFormat>(['qcow2', 'raw'])('goes on with a merge into a %s file', async (targetFormat) => {
    await makeChain();
    await convert(path('base'), path('target'), { targetFormat });
    expect(await insist({ job: 'merge', target: path('target'), targetFormat })).toBeGreaterThan(2);
    const { same, output } = await qemuCompare(path('top'), path('target'), { b: targetFormat });
    expect(same, output).toBe(true);
  });

  it('goes on with a commit', async () => {
    await makeChain();
    const expected = await qemuContent(path('top'));
    expect(await insist({ job: 'commit', target: path('top'), targetFormat: 'qcow2' })).toBeGreaterThan(0);
    expect((await qemuContent(path('middle'))).equals(expected)).toBe(true);
    const top = await open(path('top'), { mode: 'r+', resolve: 'any' });
    // What was freed when the process was killed may leak, and nothing worse.
    expect(await top.check({ repair: 'leaks' })).toMatchObject({ corruptions: 0 });
    await top.close();
    await expectCleanByQemu(path('top'));
  });
});

describe('a checkpoint', () => {
  it('is refused for a target that is another one, or was made anew', async () => {
    await makeChain();
    const work = { job: 'merge', target: path('target'), targetFormat: 'raw' } as const;
    await writeFile(path('target'), '');
    await truncate(path('target'), size);
    const { last } = await runAndKill(work, null, 6, 0);
    if (last === null) throw new Error('no checkpoint');
    await copyFile(path('target'), path('kept'));
    const chain = await openChain(layers.map(path));
    const resume = (resumeFrom: Checkpoint): Promise<unknown> =>
      convert(chain, path('target'), { targetFormat: 'raw', keepTarget: true, resumeFrom });
    const conflict = { code: 'ERR_QCOW2_CONFLICT', feature: 'checkpoint' };
    await writeFile(path('target'), '');
    await truncate(path('target'), size);
    await expect(resume(last)).rejects.toMatchObject(conflict);
    await writeFile(path('target'), pattern(9, size));
    await expect(resume(last)).rejects.toMatchObject(conflict);
    const before = await readFile(path('target'));
    await expect(resume({ ...last, target: 'x:y' })).rejects.toThrow(TypeError);
    expect((await readFile(path('target'))).equals(before)).toBe(true);
    // A copy of it is as good.
    await copyFile(path('kept'), path('target'));
    await resume(last);
    await chain.close();
    expect((await qemuCompare(path('top'), path('target'), { b: 'raw' })).same).toBe(true);
  });

  it('of a commit is refused when the backing file was made anew', async () => {
    await makeChain();
    const work = { job: 'commit', target: path('top'), targetFormat: 'qcow2' } as const;
    const { last } = await runAndKill(work, null, 6, 0);
    if (last === null) throw new Error('no checkpoint');
    await (await create(path('middle'), size)).close();
    const top = await open(path('top'), { mode: 'r+', resolve: 'any' });
    await expect(top.commit({ resumeFrom: last })).rejects.toMatchObject({ feature: 'checkpoint' });
    await top.close();
  });
});
