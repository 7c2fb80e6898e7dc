/** Counting on the thread pool while its worker thread, or its objects, go away. */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Worker } from 'node:worker_threads';

const root = fileURLToPath(new URL('../..', import.meta.url));
const addon = (createRequire(import.meta.url)('node-gyp-build') as { path: (root: string) => string }).path(
  root,
);

/** Starts four batches of 32 MiB of tables on counts of their own, keeping hold of nothing but the promises. */
const program = (then: string): string => `
  const native = require(${JSON.stringify(addon)});
  const { parentPort } = require('node:worker_threads');
  const tables = 512, entries = 8192;
  function batch() {
    const buffer = Buffer.alloc(tables * 65536);
    for (let i = 0; i < tables * entries; i++) buffer.writeUInt32BE(((i * 7919) % 60000 + 1) << 16 >>> 0, i * 8 + 4);
    const counts = new native.ReferenceCounts(65536, 16, 2 ** 30);
    return counts.addL2Tables(buffer, 2, new Uint32Array(tables).fill(1), new Float64Array(0));
  }
  const work = [batch(), batch(), batch(), batch()];
  ${then}
`;

function message(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

describe('ReferenceCounts in worker threads', () => {
  it('may be let go and collected while its batch runs', async () => {
    const collect = `
      require('node:v8').setFlagsFromString('--expose-gc');
      require('node:vm').runInNewContext('gc')();
      Promise.all(work).then((all) => parentPort.postMessage(all.map((one) => one.allocated)));
    `;
    const worker = new Worker(program(collect), { eval: true });
    const entries = 512 * 8192;
    expect(await message(worker)).toEqual([entries, entries, entries, entries]);
    await worker.terminate();
  });

  it('outlives threads that are terminated in the middle of a batch', async () => {
    for (const delay of [0, 3, 10]) {
      const worker = new Worker(program("parentPort.postMessage('started');"), { eval: true });
      expect(await message(worker)).toBe('started');
      await new Promise((resolve) => setTimeout(resolve, delay));
      await worker.terminate();
    }
  });
});
