/**
 * Writers in processes of their own that are killed at random moments, again and again on the same images: what they
 * reported as flushed is there, and what they left is sound. Needs the built package (dist). Many more with
 * `npm run test:crash`.
 */
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { create, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { GuestHistory } from '../support/guest-history.js';
import { qemuImg } from '../support/oracle.js';
import { Random } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { withTempDir } from '../support/temp-dir.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const kills = Number(process.env.QCOW2_KILLS ?? (isLong ? 100 : 5));
const firstSeed = Number(process.env.QCOW2_SEED ?? 1);
const script = fileURLToPath(new URL('kill-writer.mjs', import.meta.url));
const size = 2 ** 21;
const mostSnapshots = 2;
const totals = { kills: 0, flushes: 0, requests: 0 };

interface Request {
  readonly what: 'write' | 'compress' | 'zero' | 'discard' | 'flush' | 'snapshot' | 'delete';
  readonly position: number;
  readonly length: number;
  readonly text: string;
  readonly name: string;
}

interface Kind {
  readonly name: string;
  readonly options: CreateOptions;
}

const kinds: readonly Kind[] = [
  { name: '512 B clusters', options: { clusterSize: 512 } },
  { name: 'lazy refcounts', options: { clusterSize: 4096, lazyRefcounts: true } },
  { name: 'extended L2', options: { clusterSize: 16384, extendedL2: true } },
  { name: 'external data file', options: { clusterSize: 4096, dataFile: { name: 'data' } } },
];

afterAll(() => {
  console.log(
    `writers killed: ${totals.kills}, amid ${totals.requests} requests; ${totals.flushes} flushes they reported were held to`,
  );
});

it.each(kinds)(
  `$name: what a killed writer had flushed is there`,
  ({ options }) => survivesKills(options),
  3_600_000,
);

async function survivesKills(options: CreateOptions): Promise<void> {
  await withTempDir(async (path) => {
    const image = path('image');
    const { dataFile } = options;
    // QEMU looks for a relative name in its own directory, so the name is an absolute one.
    const references = dataFile === undefined ? {} : { dataFile: { ...dataFile, name: path('data') } };
    await (await create(image, size, { ...options, ...references })).close();
    const snapshots = new Map<string, Buffer>();
    for (let round = 0; round < kills; round += 1) {
      const random = new Random(firstSeed * 1000 + round);
      const plan = planOf(random, options, round, [...snapshots.keys()]);
      await writeFile(path('plan'), JSON.stringify(plan));
      const start = new PlainDisk(size);
      start.write(await readDisk(image), 0);
      const lines = await runUntilKilled(image, path('plan'), random.between(0, 120));
      await judge(image, plan, lines, start, snapshots);
      await goOn(image, round);
    }
  });
}

/** Changes for one writer: some at once, each then in a part of the disk of its own. */
function planOf(random: Random, options: CreateOptions, round: number, snapshots: string[]): Request[][] {
  const { clusterSize = 65536 } = options;
  const isPlain = options.dataFile === undefined;
  const plan: Request[][] = [];
  const empty = { position: 0, length: 0, text: '', name: '' };
  for (let step = 0; step < 400; step += 1) {
    if (random.chance(0.3)) plan.push([{ ...empty, what: 'flush' }]);
    else if (isPlain && random.chance(0.03)) {
      const [oldest] = snapshots;
      const isFull = oldest !== undefined && snapshots.length >= mostSnapshots;
      const name = isFull ? oldest : `${round}.${step}`;
      plan.push([{ ...empty, what: isFull ? 'delete' : 'snapshot', name }]);
      if (isFull) snapshots.shift();
      else snapshots.push(name);
    } else {
      const share = size / 4;
      const together = Array.from({ length: random.between(1, 4) }, (_, part): Request => {
        const what = random.pick<Request['what']>([
          'write',
          'write',
          'write',
          isPlain ? 'compress' : 'write',
          'zero',
          'discard',
        ]);
        const unit = what === 'compress' ? clusterSize : 512;
        const position = random.below((share - 65536) / unit) * unit;
        const length = what === 'compress' ? clusterSize * random.between(1, 3) : 512 * random.between(1, 60);
        return {
          ...empty,
          what,
          position: part * share + position,
          length,
          text: `${round}.${step}.${part} `,
        };
      });
      plan.push(together);
    }
  }
  return plan;
}

/** What the writer said before it was killed, `delay` milliseconds after it had opened the image. */
function runUntilKilled(image: string, plan: string, delay: number): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, image, plan], { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (output === '') setTimeout(() => child.kill('SIGKILL'), delay);
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
    child.once('error', reject).once('close', (code, signal) => {
      if (code === 0 || signal === 'SIGKILL') resolve(output.split('\n').filter((line) => line !== ''));
      else reject(new Error(`the writer failed: ${errors}`));
    });
  });
}

/** Holds the image to what was reported. Snapshots that are certain from now on are noted in `snapshots`. */
async function judge(
  image: string,
  plan: readonly Request[][],
  lines: readonly string[],
  start: PlainDisk,
  snapshots: Map<string, Buffer>,
): Promise<void> {
  let tick = 0;
  const history = new GuestHistory(start, () => (tick += 1));
  const finish = new Map<number, () => void>();
  let unsure: string | undefined;
  for (const line of lines) {
    const [word, number] = line.split(' ');
    const index = Number(number);
    if (word === 'begin') {
      const [first] = plan[index] ?? [];
      const over = new Promise<void>((resolve) => finish.set(index, resolve));
      for (const request of plan[index] ?? []) void note(history, request, over);
      unsure = first?.name === '' ? undefined : first?.name;
      if (first?.what === 'snapshot') snapshots.set(first.name, history.latest());
    } else if (word === 'done') {
      finish.get(index)?.();
      // What is noted is noted when the promises have run.
      await new Promise((resolve) => setImmediate(resolve));
      const [first] = plan[index] ?? [];
      unsure = undefined;
      if (first?.what === 'delete') snapshots.delete(first.name);
      if (first?.what === 'flush') totals.flushes += 1;
      totals.requests += plan[index]?.length ?? 0;
    }
  }
  totals.kills += 1;

  const disk = await open(image, { resolve: 'same-directory' });
  const problem = await history.firstProblem((buffer, at) => disk.read(buffer, at), { from: tick, to: tick });
  const message = `killed after ${lines.at(-1) ?? 'nothing'}`;
  expect(problem, message).toBe(null);
  const found = (await disk.snapshots.list()).map(({ name }) => name);
  for (const name of [...snapshots.keys()]) {
    if (found.includes(name)) continue;
    expect(name, `${message}: a snapshot is lost`).toBe(unsure);
    snapshots.delete(name);
  }
  expect(found.sort(), message).toEqual([...snapshots.keys()].sort());
  for (const [name, content] of snapshots) {
    const view = await disk.snapshots.open(name);
    const now = Buffer.alloc(size);
    await view.read(now, 0);
    expect(now.equals(content), `${message}: snapshot ${name} has changed`).toBe(true);
    await view.close();
  }
  await disk.close();
}

async function note(history: GuestHistory, request: Request, over: Promise<void>): Promise<void> {
  const { what, position, length, text } = request;
  if (what === 'flush') await history.flushing(() => over);
  else if (what === 'write' || what === 'compress')
    await history.writing(Buffer.alloc(length, text), position, () => over);
  else if (what !== 'snapshot' && what !== 'delete')
    await history.writing(Buffer.alloc(length), position, () => over);
}

/** Opens the image for writing, as the next writer will, and lets both checks look at it. */
async function goOn(image: string, round: number): Promise<void> {
  const disk = await open(image, { mode: 'r+', resolve: 'same-directory' });
  await disk.write(Buffer.alloc(512, 'again '), 512 * round);
  await disk.flush();
  const repair = round % 5 === 4;
  const report = await disk.check(repair ? { repair: 'all' } : {});
  expect(report).toMatchObject({ checkErrors: 0, ...(repair ? { leaks: 0, corruptions: 0 } : {}) });
  const serious = report.findings.filter(
    ({ severity, kind }) => severity !== 'leak' && kind !== 'copied-flag',
  );
  expect(serious).toEqual([]);
  await disk.close();
  if (repair) await qemuImg(['check', '-f', 'qcow2', image]);
}

async function readDisk(image: string): Promise<Buffer> {
  const disk: Qcow2 = await open(image, { resolve: 'same-directory' });
  const content = Buffer.alloc(disk.size);
  await disk.read(content, 0);
  await disk.close();
  return content;
}
