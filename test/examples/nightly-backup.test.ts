/** The example of a nightly backup runs as it stands, and what it leaves is what it says. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { expectCleanByQemu, qemuCompare, run } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const root = fileURLToPath(new URL('../..', import.meta.url));

it('nightly-backup.mjs: full, incremental, restored, verified', async () => {
  const { stdout } = await run(process.execPath, [join(root, 'examples/nightly-backup.mjs'), path('backup')]);
  expect(stdout.trim().split('\n').at(-1)).toBe('verified');
  for (const name of ['monday.qcow2', 'tuesday.qcow2']) await expectCleanByQemu(path(`backup/${name}`));
  const { same, output } = await qemuCompare(path('backup/vm.qcow2'), path('backup/restored.raw'), {
    b: 'raw',
  });
  expect(same, output).toBe(true);
  expect((await qemuCompare(path('backup/vm.qcow2'), path('backup/tuesday.qcow2'))).same).toBe(true);
});
