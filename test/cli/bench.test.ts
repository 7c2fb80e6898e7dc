/** The benchmark harness works: images, rounds, checks of results, JSON and page. How fast anything is does not matter here. */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { withTempDir } from '../support/temp-dir.js';

const bench = fileURLToPath(new URL('../../bench/main.mjs', import.meta.url));

const tabler = fileURLToPath(new URL('../../bench/table.mjs', import.meta.url));

interface Results {
  operations: { name: string; runs: Record<string, { seconds: number }[]>; ratio: { median: number } }[];
}

it('measures in turn, checks the results, and writes JSON and a page', { timeout: 120_000 }, async () => {
  await withTempDir(async (path) => {
    const only = ['convert raw -> qcow2', 'convert qcow2 -> raw', 'check, broken', 'create', 'map'];
    const { stdout } = await promisify(execFile)(process.execPath, [
      bench,
      '--quick',
      ...['--dir', path('.'), '--json', path('results.json'), '--page', path('results.html')],
      ...only.flatMap((name) => ['--only', name]),
    ]);
    const { operations } = JSON.parse(await readFile(path('results.json'), 'utf8')) as Results;
    const page = await readFile(path('results.html'), 'utf8');
    const { stdout: table } = await promisify(execFile)(process.execPath, [tabler, path('results.json')]);
    for (const name of ['convert raw -> qcow2', 'check, broken', 'map as JSON']) {
      const found = operations.find((operation) => operation.name === name);
      expect(found?.ratio.median).toBeGreaterThan(0);
      expect(Object.keys(found?.runs ?? {})).toEqual(expect.arrayContaining(['ours', 'qemu-img']));
      expect(stdout).toContain(name);
      expect(page).toContain(name.replace('>', '&#62;'));
      expect(table).toMatch(new RegExp(`^\\| ${name} +\\| (disk|tmpfs), 0.0039`, 'm'));
    }
    // Its result was looked at: a peer that is wrong is left out.
    const peers = operations.find(({ name }) => name === 'convert qcow2 -> raw')?.runs;
    expect(peers).toHaveProperty('@xen-orchestra/qcow2 *');
    expect(peers).toHaveProperty('qemu-img, caches *');
  });
});

it('keeps the table of the guide as the results in the repository make it', async () => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const folder = join(root, 'bench/results');
  const results = (await readdir(folder)).filter((name) => name.endsWith('.json')).sort();
  const { stdout } = await promisify(execFile)(process.execPath, [
    tabler,
    ...results.map((name) => join(folder, name)),
  ]);
  expect(stdout).toContain('| convert raw -> qcow2 ');
  expect(await readFile(join(root, 'docs/guides/performance.md'), 'utf8')).toContain(stdout.trim());
});
