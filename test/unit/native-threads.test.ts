/** The addon in many threads, and in threads and processes that end in the middle of its work. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { Worker } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));

/** Plain JavaScript, since a worker does not get vitest's TypeScript: starts `batches` of work and awaits them. */
function program(batches: number, then: string): string {
  return `
    const native = require(${JSON.stringify(`${root}/node_modules/node-gyp-build`)})(${JSON.stringify(root)});
    const clusterSize = 65536, count = 32;
    async function batch(seed) {
      const codec = seed % 2;
      const input = Buffer.alloc(count * clusterSize, Buffer.from('some text ' + seed));
      const packed = Buffer.alloc(input.length), lengths = new Float64Array(count);
      await native.compressClusters(codec, 9, input, clusterSize, clusterSize, packed, lengths);
      let at = 0;
      const jobs = Float64Array.from(Array.from(lengths).flatMap((length, i) => [(at += length) - length, length, i * clusterSize]));
      const output = Buffer.alloc(input.length), results = new Uint8Array(count);
      const failures = await native.decompressClusters(codec, packed, jobs, output, clusterSize, results);
      return failures === 0 && output.equals(input);
    }
    const work = Array.from({ length: ${batches} }, (_, seed) => batch(seed));
    ${then}
  `;
}

const reportAll = `
  Promise.all(work).then((all) => require('node:worker_threads').parentPort.postMessage(all.every(Boolean)));
`;

const stayAlive = `
  setInterval(() => {}, 1000);
  require('node:worker_threads').parentPort.postMessage('started');
`;

function outcome(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the worker ended with ${code} before its work`)));
  });
}

describe('worker threads', () => {
  it('code clusters beside one another', async () => {
    const workers = Array.from({ length: 4 }, () => new Worker(program(12, reportAll), { eval: true }));
    expect(await Promise.all(workers.map(outcome))).toEqual([true, true, true, true]);
  });

  it('may be terminated in the middle of work, time and again', async () => {
    for (let delay = 0; delay < 8; delay += 1) {
      const worker = new Worker(program(24, stayAlive), { eval: true });
      expect(await outcome(worker)).toBe('started');
      await new Promise((resolve) => setTimeout(resolve, delay * 5));
      expect(await worker.terminate()).toBe(1);
    }
    const after = new Worker(program(2, reportAll), { eval: true });
    expect(await outcome(after)).toBe(true);
  });
});

describe('a process', () => {
  it.each([
    ['exits', 'setTimeout(() => process.exit(7), 5);', 7],
    ['throws', "setTimeout(() => { throw new Error('on purpose'); }, 5);", 1],
  ])('that %s in the middle of work ends as it wants to', async (_, then, code) => {
    const ended = run(process.execPath, ['-e', program(40, then)], { timeout: 20_000 });
    await expect(ended).rejects.toMatchObject({ code, signal: null });
  });
});
