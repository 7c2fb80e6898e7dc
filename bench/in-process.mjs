// The library inside a process: random requests beside `qemu-img bench`, the native loops, and how cost grows with size.
import { copyFileSync, existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { craftQcow2 } from './crafted-qcow2.mjs';
import { run, timed } from './process.mjs';
import { random } from './random.mjs';
import { native } from '../dist/native.js';
import { open } from '../dist/index.js';

const GiB = 2 ** 30;
const cli = fileURLToPath(new URL('../dist/cli/main.cjs', import.meta.url));

/**
 * @returns {Promise<{ name: string, unit: string, values: Record<string, number> }[]>} figures, the more the better or the
 *   less as the unit says
 */
export async function measureInProcess(image, folder, { rounds }) {
  const seconds = secondsFor(rounds);
  return [...(await requests(image('full.qcow2'), join(folder, 'work.qcow2'), seconds)), ...loops(seconds)];
}

/** A short run, of one round, shows the compiling of JavaScript more than anything else. */
const secondsFor = (rounds) => (rounds === 1 ? 0.1 : 1);

/** Random reads and writes of clusters that are there, all of them: where there is none a program has nothing to do. */
async function requests(path, work, seconds) {
  copyFileSync(path, work);
  const figures = [];
  for (const write of [false, true]) {
    for (const length of [4096, 65536]) {
      for (const depth of [1, 8, 64]) {
        figures.push({
          name: `random ${write ? 'writes' : 'reads'} of ${length / 1024} KiB, depth ${depth}`,
          unit: 'requests/s',
          values: {
            ours: Math.round(await ourRate(work, { write, length, depth, seconds })),
            ...qemuRates(work, { write, length, depth, seconds }),
          },
        });
      }
    }
  }
  rmSync(work);
  return figures;
}

async function ourRate(path, { write, length, depth, seconds }) {
  const disk = await open(path, { mode: write ? 'r+' : 'r' });
  try {
    const places = disk.size / length;
    const next = random(7);
    const end = performance.now() + seconds * 1000;
    let count = 0;
    const start = performance.now();
    const runOne = async () => {
      const buffer = Buffer.alloc(length, 1);
      while (performance.now() < end) {
        const at = Math.floor(next() * places) * length;
        await (write ? disk.write(buffer, at) : disk.read(buffer, at));
        count += 1;
      }
    };
    await Promise.all(Array.from({ length: depth }, runOne));
    return count / ((performance.now() - start) / 1000);
  } finally {
    await disk.close();
  }
}

/** `qemu-img bench` steps through the disk: with a step of more than a cluster its requests are far apart, too. */
function qemuRates(path, { write, length, depth, seconds }) {
  const rates = {};
  const count = Math.max(100, Math.round(20000 * seconds));
  for (const [name, options] of [
    ['qemu-img threads', []],
    ['qemu-img io_uring', ['-i', 'io_uring']],
    ['qemu-img native', ['-i', 'native', '-n']],
  ]) {
    const args = ['-c', count, '-d', depth, '-s', length, '-S', 17 * 65536, '-f', 'qcow2', ...options];
    try {
      const said = run('qemu-img', 'bench', ...(write ? ['-w'] : []), ...args.map(String), path);
      rates[name] = Math.round(count / Number(/completed in ([\d.]+) seconds/.exec(said)?.[1]));
    } catch {
      // This qemu-img, kernel or file system does not have it.
    }
  }
  return rates;
}

/** Native loops over memory, beside copying it. */
function loops(seconds) {
  const bytes = new Uint8Array(64 * 2 ** 20);
  const copy = new Uint8Array(bytes.length);
  const ends = new Float64Array(4096);
  const table = Buffer.alloc(65536);
  for (let i = 0; i < 8192; i += 1) {
    table.writeBigUInt64BE((1n << 63n) + BigInt((((i * 7) % 8192) + 1) * 65536), i * 8);
  }
  const runs = new Float64Array(4 * 8192);
  const counts = new native.ReferenceCounts(32768, 16, 2 ** 24);
  counts.add(0, 32768 * 65536, 1);
  const block = Buffer.alloc(65536);
  for (let i = 0; i < 32768; i += 1) block.writeUInt16BE(1, i * 2);
  const mismatches = new Float64Array(4096);
  const measured = {
    'memory copy': [bytes.length, () => copy.set(bytes)],
    'zero scan': [bytes.length, () => native.zeroRuns(bytes, 65536, ends)],
    'L2 look-ups, shuffled': [table.length, () => native.mapL2(table, 2, 16, 0, 8192, runs)],
    'refcount comparison': [block.length, () => counts.compareBlock(block, 4, 0, 0, mismatches)],
  };
  return Object.entries(measured).map(([name, [size, work]]) => {
    const end = performance.now() + seconds * 1000;
    const start = performance.now();
    let done = 0;
    do {
      work();
      done += size;
    } while (performance.now() < end);
    return {
      name,
      unit: 'GB/s',
      values: { ours: Number((done / (performance.now() - start) / 1e6).toFixed(2)) },
    };
  });
}

/**
 * Images with all of their metadata, each four times as large as the one before, up to 16 TiB at full size: whether an
 * operation costs the same whatever the size of the disk, and a job as much for each allocated TiB.
 */
export async function measureGrowth(folder, { scale, rounds }) {
  const seconds = secondsFor(rounds);
  const figures = growthFigures();
  for (let size = 16 * GiB; size <= Math.max(16 * GiB, 16384 * GiB * scale); size *= 4) {
    const path = join(folder, `grown-${size / GiB}.qcow2`);
    if (!existsSync(path)) craftQcow2(path, { size, clusterSize: 65536 });
    const label = `${size / GiB} GiB`;
    const perTiB = (milliseconds) => rounded((milliseconds * 1024 * GiB) / size);
    const { milliseconds: opening, value: disk } = await stopwatch(() => open(path, { mode: 'r+' }));
    figures.open.values[label] = rounded(opening);
    const buffer = Buffer.alloc(4096, 1);
    const next = random(8);
    const place = () => Math.floor((next() * size) / 4096) * 4096;
    figures.read.values[label] = await perRequest(() => disk.read(buffer, place()), seconds);
    figures.write.values[label] = await perRequest(() => disk.write(buffer, place()), seconds);
    figures.flush.values[label] = rounded((await stopwatch(() => disk.flush())).milliseconds);
    figures.check.values[label] = perTiB((await stopwatch(() => disk.check())).milliseconds);
    const snapshots = () => disk.snapshots.create({ name: 'one' });
    figures.snapshot.values[label] = perTiB((await stopwatch(snapshots)).milliseconds);
    // As the image was, for the next run.
    figures.deletion.values[label] = perTiB(
      (await stopwatch(() => disk.snapshots.delete('one'))).milliseconds,
    );
    await disk.close();
    const { mebibytes } = await timed([process.execPath, cli, 'check', path]);
    figures.memory.values[label] = Math.round(mebibytes ?? 0);
  }
  return Object.values(figures);
}

const growthFigures = () => ({
  open: { name: 'open', unit: 'ms', values: {} },
  read: { name: 'random 4 KiB read', unit: 'ms', values: {} },
  write: { name: 'random 4 KiB write', unit: 'ms', values: {} },
  flush: { name: 'flush after these writes', unit: 'ms', values: {} },
  check: { name: 'check, per allocated TiB', unit: 'ms', values: {} },
  snapshot: { name: 'snapshot create, per allocated TiB', unit: 'ms', values: {} },
  deletion: { name: 'snapshot delete, per allocated TiB', unit: 'ms', values: {} },
  memory: { name: 'check, peak memory of the process', unit: 'MiB', values: {} },
});

const rounded = (milliseconds) => Number(milliseconds.toFixed(2));

async function stopwatch(work) {
  const start = performance.now();
  const value = await work();
  return { milliseconds: performance.now() - start, value };
}

/** Milliseconds that one request takes when the next waits for it. */
async function perRequest(request, seconds) {
  let count = 0;
  const { milliseconds } = await stopwatch(async () => {
    for (const end = performance.now() + seconds * 1000; performance.now() < end; count += 1) await request();
  });
  return Number((milliseconds / count).toFixed(4));
}
