/** The benchmark harness works: images, rounds, checks of results, JSON and page. How fast anything is does not matter here. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { withTempDir } from '../support/temp-dir.js';

const bench = fileURLToPath(new URL('../../bench/main.mjs', import.meta.url));

interface Results {
  operations: { name: string; runs: Record<string, { seconds: number }[]>; ratio: { median: number } }[];
}

it('measures in turn, checks the results, and writes JSON and a page', { timeout: 120_000 }, async () => {
  await withTempDir(async (path) => {
    const only = ['convert raw -> qcow2', 'check, broken', 'create', 'map'];
    const { stdout } = await promisify(execFile)(process.execPath, [
      bench,
      '--quick',
      ...['--dir', path('.'), '--json', path('results.json'), '--page', path('results.html')],
      ...only.flatMap((name) => ['--only', name]),
    ]);
    const { operations } = JSON.parse(await readFile(path('results.json'), 'utf8')) as Results;
    const page = await readFile(path('results.html'), 'utf8');
    for (const name of ['convert raw -> qcow2', 'check, broken', 'map as JSON']) {
      const found = operations.find((operation) => operation.name === name);
      expect(found?.ratio.median).toBeGreaterThan(0);
      expect(Object.keys(found?.runs ?? {})).toEqual(expect.arrayContaining(['ours', 'qemu-img']));
      expect(stdout).toContain(name);
      expect(page).toContain(name.replace('>', '&#62;'));
    }
  });
});
