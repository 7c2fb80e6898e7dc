/** Everything that is exported is documented, down to each property, and every link leads somewhere. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

it('the API reference has no gap', async () => {
  // It prints where there is one. The types are checked elsewhere.
  const flags = ['--emit', 'none', '--skipErrorChecking'];
  const run = promisify(execFile)('node_modules/.bin/typedoc', flags, { cwd: root });
  const { stdout, stderr } = await run.catch((error: unknown) => error as { stdout: string; stderr: string });
  expect(stdout + stderr).not.toMatch(/warning|error/);
}, 120_000);
