// Streams and block lists beside @xen-orchestra/qcow2, in one process and in turn.
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { pipeline } from 'node:stream/promises';
import * as theirs from '@xen-orchestra/qcow2';
import { open, readQcow2Stream, storedBlocks, toQcow2Stream } from '../dist/index.js';
import { craftQcow2 } from './crafted-qcow2.mjs';
import { filesOfNode } from './xen-orchestra-files.mjs';

const MiB = 2 ** 20;

/**
 * @param {string} disk a qcow2 image that is streamed
 * @param {string} folder for what is made of it
 * @param {{ scale: number, rounds: number }} options a disk of 1 TiB at full size has its blocks listed
 * @returns {Promise<{ name: string, unit: string, values: Record<string, number> }[]>} medians, and what a listing costs others
 */
export async function measureStreams(disk, folder, { scale, rounds }) {
  const ordered = await prepareOrdered(disk, folder);
  const map = prepareMap(folder, Math.max(1, Math.round(1024 * scale)));
  const rows = [];
  for (const [name, ways] of Object.entries(operations(disk, ordered, map))) {
    const runs = Object.fromEntries(Object.keys(ways).map((way) => [way, []]));
    const answers = new Set();
    for (let round = 0; round < rounds; round += 1) {
      for (const [who, way] of Object.entries(ways)) {
        const { answer, ...figures } = await measured(way);
        // There is nothing to hold an incremental stream against.
        if (Object.keys(ways).length > 1) answers.add(answer);
        runs[who].push(figures);
      }
    }
    if (answers.size > 1) throw new Error(`${name}: the answers differ: ${[...answers].join(', ')}`);
    const column = (what, choose) =>
      Object.fromEntries(
        Object.entries(runs).map(([who, all]) => [who, choose(all.map((one) => one[what]))]),
      );
    rows.push(
      { name, unit: 's, median', values: column('seconds', median) },
      { name: `${name}, event loop blocked`, unit: 'ms at most', values: column('blocked', most) },
      { name: `${name}, memory`, unit: 'MiB more at most', values: column('mebibytes', most) },
    );
  }
  return rows;
}

const rounded = (value) => Number(value.toPrecision(3));
const median = (values) => rounded([...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)]);
const most = (values) => rounded(Math.max(...values));

/** Each way gives what both must agree on. */
function operations(disk, ordered, map) {
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
        const image = new theirs.QCowAccessor(filesOfNode(), disk);
        await image.init();
        const stored = image.getBlockIndexesCount();
        await consume(theirs.toQcow2Stream(image));
        return stored;
      },
    },
    'stream out, one MiB in sixteen': {
      ours: async () => {
        const image = await open(disk);
        const changes = Array.from({ length: Math.floor(image.size / (16 * MiB)) }, (_, index) => ({
          start: index * 16 * MiB,
          length: MiB,
        }));
        const stream = toQcow2Stream(image, {
          changes,
          backing: { name: 'full.qcow2', format: 'qcow2', unchecked: true },
        });
        await consume(stream);
        await image.close();
        return stream.length;
      },
    },
    'stream in': {
      ours: async () => {
        const reader = await readQcow2Stream(createReadStream(ordered, { highWaterMark: 2 ** 20 }));
        let bytes = 0;
        for await (const { data } of reader.pieces()) bytes += data?.length ?? 0;
        await reader.close();
        return bytes;
      },
      theirs: async () => {
        const image = new theirs.QcowStream(createReadStream(ordered, { highWaterMark: 2 ** 20 }));
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
        const image = new theirs.QCowAccessor(filesOfNode(), map);
        await image.init();
        const { length } = image.getBlockIndexes();
        await image.close();
        return length;
      },
    },
  };
}

async function consume(stream) {
  for await (const chunk of stream) if (chunk.length === 0) throw new Error('an empty chunk');
}

async function measured(way) {
  globalThis.gc?.();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  let highest = 0;
  const before = process.memoryUsage.rss();
  const look = setInterval(() => (highest = Math.max(highest, process.memoryUsage.rss())), 10);
  delay.enable();
  const start = performance.now();
  const answer = await way();
  const seconds = (performance.now() - start) / 1000;
  // A loop that was blocked to the end shows only now.
  await new Promise((resolve) => setTimeout(resolve, 20));
  delay.disable();
  clearInterval(look);
  highest = Math.max(highest, process.memoryUsage.rss());
  return { answer, seconds, blocked: delay.max / 1e6, mebibytes: Math.max(0, highest - before) / MiB };
}

/** Their reader takes streams whose tables come first and whose data is in order; so this package writes them. */
async function prepareOrdered(disk, folder) {
  const path = join(folder, 'ordered-stream.qcow2');
  if (!existsSync(path)) await pipeline(toQcow2Stream(disk), createWriteStream(path));
  return path;
}

/** All of it mapped: what every block of such a disk costs. */
function prepareMap(folder, gib) {
  const path = join(folder, `map-${gib}.qcow2`);
  if (!existsSync(path)) craftQcow2(path, { size: gib * 2 ** 30, clusterSize: 65536 });
  return path;
}
