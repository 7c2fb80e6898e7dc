/**
 * Memory stays what it is, however long an image is in use. Needs the built package (dist); `QCOW2_OPERATIONS=1000000` does so
 * many operations.
 */
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { run } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const operations = Number(process.env['QCOW2_OPERATIONS'] ?? 20_000);
const script = fileURLToPath(new URL('operate.mjs', import.meta.url));
const inDirectory = useTempDir();
const mib = 2 ** 20;

interface Held {
  readonly rss: number;
  readonly heapUsed: number;
  readonly external: number;
}

it(`is flat over ${operations} operations`, { timeout: 3_600_000 }, async () => {
  const node = ['--expose-gc', script, inDirectory('image.qcow2'), String(operations)];
  const { stdout } = await run(process.execPath, node);
  const held = JSON.parse(stdout) as Held[];
  // What is loaded late and caches that fill up are there after three tenths.
  const [early, last] = [held[2], held.at(-1)];
  if (early === undefined || last === undefined) throw new Error(`too few samples: ${stdout}`);
  const grown = (what: keyof Held): number => last[what] - early[what];
  console.log(`memory after 30 % and 100 % of ${operations} operations: ${JSON.stringify([early, last])}`);
  expect(grown('heapUsed')).toBeLessThan(4 * mib);
  expect(grown('external')).toBeLessThan(4 * mib);
  expect(grown('rss')).toBeLessThan(24 * mib);
});
