// Streams and block lists beside @xen-orchestra/qcow2, in one process and in turn: median and best, blocked time, memory.
// node bench/streams.mjs [--dir DIR] [--mib SIZE] [--map-gib SIZE] [--rounds N]
import { spawnSync } from 'node:child_process';
import { createReadStream, existsSync, mkdirSync } from 'node:fs';
import { open as openFile, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import * as theirs from '@xen-orchestra/qcow2';
import { open, readQcow2Stream, storedBlocks, toQcow2Stream } from '../dist/index.js';
import { mixedRaw } from './raw-disk.mjs';

/**
 * Measures everything in rounds and gives a row for each operation and package.
 * @param options.directory where images are kept; options.mib of the disk that is streamed, half of it written;
 * options.mapGib of the disk whose blocks are listed, all of it mapped
 */
export async function measureStreams({ directory, mib, mapGib, rounds }) {
  mkdirSync(directory, { recursive: true });
  const disk = prepareDisk(directory, mib);
  const map = prepareMap(directory, mapGib);
  const rows = [];
  for (const [operation, ways] of Object.entries(operations(disk, map))) {
    const runs = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
    const answers = new Set();
    for (let round = 0; round < rounds; round += 1) {
      for (const [name, way] of Object.entries(ways)) {
        const { answer, ...figures } = await measured(way);
        answers.add(answer);
        runs[name].push(figures);
      }
    }
    if (answers.size !== 1) throw new Error(`${operation}: the answers differ: ${[...answers].join(', ')}`);
    for (const [name, figures] of Object.entries(runs)) rows.push({ operation, name, ...summary(figures) });
  }
  return rows;
}

/** Each way gives what both must agree on. */
function operations(disk, map) {
  return {
    'stream out': {
      ours: async () => {
        const image = await open(disk);
        const stream = toQcow2Stream(image);
        const stored = (await storedBlocks(image, 65536)).count();
        await consume(stream);
        await image.close();
        return stored;
      },
      theirs: async () => {
        const image = new theirs.QCowAccessor(files(), disk);
        await image.init();
        const stored = image.getBlockIndexesCount();
        await consume(theirs.toQcow2Stream(image));
        return stored;
      },
    },
    'stream in': {
      ours: async () => {
        const reader = await readQcow2Stream(createReadStream(disk, { highWaterMark: 2 ** 20 }));
        let bytes = 0;
        for await (const { data } of reader.pieces()) bytes += data?.length ?? 0;
        await reader.close();
        return bytes;
      },
      theirs: async () => {
        const image = new theirs.QcowStream(createReadStream(disk, { highWaterMark: 2 ** 20 }));
        await image.init();
        let bytes = 0;
        for await (const { data } of image.diskBlocks()) bytes += data.length;
        return bytes;
      },
    },
    'block list': {
      ours: async () => {
        const image = await open(map);
        const blocks = await storedBlocks(image, 65536);
        await image.close();
        return blocks.count();
      },
      theirs: async () => {
        const image = new theirs.QCowAccessor(files(), map);
        await image.init();
        const { length } = image.getBlockIndexes();
        await image.close();
        return length;
      },
    },
  };
}

/** Files as their package wants them. */
function files() {
  const handles = [];
  return {
    isEncrypted: false,
    openFile: async (path) => handles.push(await openFile(path)) - 1,
    closeFile: (index) => handles[index].close(),
    getSize: async (path) => (await stat(path)).size,
    read: (index, buffer, position) => handles[index].read(buffer, 0, buffer.length, position),
  };
}

async function consume(stream) {
  for await (const chunk of stream) if (chunk.length === 0) throw new Error('an empty chunk');
}

async function measured(way) {
  globalThis.gc?.();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  let most = 0;
  const before = process.memoryUsage().rss;
  const look = setInterval(() => (most = Math.max(most, process.memoryUsage().rss)), 10);
  delay.enable();
  const start = performance.now();
  const answer = await way();
  const seconds = (performance.now() - start) / 1000;
  // A loop that was blocked to the end shows only now.
  await new Promise((resolve) => setTimeout(resolve, 20));
  delay.disable();
  clearInterval(look);
  most = Math.max(most, process.memoryUsage().rss);
  return { answer, seconds, blocked: delay.max / 1e6, mib: Math.max(0, most - before) / 2 ** 20 };
}

function summary(figures) {
  const seconds = figures.map((one) => one.seconds).sort((a, b) => a - b);
  return {
    median: seconds[Math.floor(seconds.length / 2)],
    best: seconds[0],
    blocked: Math.max(...figures.map((one) => one.blocked)),
    mib: Math.max(...figures.map((one) => one.mib)),
  };
}

function prepareDisk(directory, mib) {
  const path = join(directory, `streams-${mib}.qcow2`);
  if (existsSync(path)) return path;
  const raw = join(directory, 'streams.raw');
  mixedRaw(raw, mib * 2 ** 20, mib * 2 ** 19);
  qemuImg(['convert', '-m', '1', '-f', 'raw', '-O', 'qcow2', raw, path]);
  return path;
}

function prepareMap(directory, gib) {
  const path = join(directory, `map-${gib}.qcow2`);
  if (!existsSync(path))
    qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', path, `${gib}G`]);
  return path;
}

function qemuImg(args) {
  const { status, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`qemu-img ${args.join(' ')}: ${stderr}`);
}

async function main() {
  const { values } = parseArgs({
    options: {
      dir: { type: 'string', default: join(tmpdir(), 'qcow2-bench') },
      mib: { type: 'string', default: '2048' },
      'map-gib': { type: 'string', default: '256' },
      rounds: { type: 'string', default: '5' },
    },
  });
  const rows = await measureStreams({
    directory: values.dir,
    mib: Number(values.mib),
    mapGib: Number(values['map-gib']),
    rounds: Number(values.rounds),
  });
  for (const { operation, name, median, best, blocked, mib } of rows) {
    console.log(
      `${operation.padEnd(12)} ${name.padEnd(8)} median ${median.toFixed(2)} s  best ${best.toFixed(2)} s  ` +
        `event loop blocked ${blocked.toFixed(0)} ms at most  memory + ${mib.toFixed(0)} MiB`,
    );
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
