/** What `NODE_DEBUG=qcow2` prints, of a process of its own: what an operator looks for in it is there, and nothing without it. */
import { execFile } from 'node:child_process';
import { mkdtemp, open as openFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';

const execute = promisify(execFile);
const root = new URL('../..', import.meta.url);
let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'qcow2-messages-'));
});
afterAll(async () => {
  await rm(directory, { recursive: true });
});

/** Runs `code`, in which the image is `disk`, on one that QEMU made. */
async function messagesOf(code: string, debug = 'qcow2'): Promise<string> {
  const script =
    `import { open } from '${new URL('dist/index.js', root).href}';` +
    `const disk = await open('disk.qcow2', { mode: 'r+' }); ${code}; await disk.close();`;
  const { stderr } = await execute(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: directory,
    env: { ...process.env, NODE_DEBUG: debug },
  });
  return stderr;
}

it('tells of commits and of tables that move', async () => {
  const file = join(directory, 'disk.qcow2');
  // Clusters of 512 bytes: one cluster of refcount table describes 8 MiB.
  await execute('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', file, '16M']);
  const text = await messagesOf(
    'await disk.write(Buffer.alloc(10 * 2 ** 20, 1), 0); await disk.flush(); await disk.resize(64 * 2 ** 20)',
  );
  expect(text).toMatch(/opened \S*\/disk\.qcow2 for writing/);
  expect(text).toMatch(/committed \S*\/disk\.qcow2 in [\d.]+ ms: data, L2 tables [1-9]\d* bytes/);
  expect(text).toMatch(/disk\.qcow2: the refcount table moved to offset \d+, for \d{5} clusters/);
  expect(text).toMatch(/disk\.qcow2: the L1 table moved to offset \d+, for 2048 entries/);
  expect(text).toMatch(/closed \S*\/disk\.qcow2/);
  if (process.platform === 'linux') expect(text).toMatch(/locked \S*\/disk\.qcow2 for writing/);
  await execute('qemu-img', ['check', '-q', file]);
  expect(await messagesOf('await disk.flush()', '')).toBe('');
});

it('tells that an image was not closed, and what was put right', async () => {
  const file = join(directory, 'disk.qcow2');
  await execute('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', file, '1M']);
  const handle = await openFile(file, 'r+');
  // The DIRTY bit of incompatible_features.
  await handle.write(Uint8Array.of(1), 0, 1, 79);
  await handle.close();
  const text = await messagesOf('');
  expect(text).toMatch(/disk\.qcow2 was not closed properly/);
  expect(text).toMatch(/disk\.qcow2: repaired 0 corruptions and 0 leaks; 0 and 0 are left/);
});
