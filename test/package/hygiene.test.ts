/** What tools and a type-checked user say of the packed package. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { install, pack, packDependencies, root } from '../support/package.js';

const execute = promisify(execFile);
let directory: string;
let tarball: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'qcow2-hygiene-'));
  ({ tarball } = await pack(root, directory));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

it('runs nobody else’s code in its workflows but at a commit that was looked at', async () => {
  const folder = join(root, '.github/workflows');
  for (const name of await readdir(folder)) {
    const uses = (await readFile(join(folder, name), 'utf8')).match(/uses: (?!\.\/).*/g) ?? [];
    expect(uses.filter((line) => !/@[0-9a-f]{40} # v[\d.]+$/.test(line))).toEqual([]);
  }
});

it('publint has nothing to say', async () => {
  const packageRoot = join(directory, 'unpacked');
  await execute('mkdir', ['-p', packageRoot]);
  await execute('tar', ['-xf', tarball, '-C', packageRoot, '--strip-components=1']);
  const { messages, pkg } = await publint({ pkgDir: packageRoot, pack: false, strict: true });
  expect(messages.map((message) => formatMessage(message, pkg, { color: false }))).toEqual([]);
});

it('the types are found wherever the package can be imported', async () => {
  const attw = join(root, 'node_modules/.bin/attw');
  // It ends with an error when there is a problem.
  const { stdout } = await execute(attw, [tarball, '--profile', 'esm-only', '--format', 'ascii']);
  expect(stdout).toContain('node16 (from ESM)');
}, 120_000);

it('a project that uses the package type-checks against the tarball', async () => {
  const project = join(directory, 'project');
  await install(project, [tarball, ...(await packDependencies(directory))]);
  await symlink(join(root, 'node_modules/@types'), join(project, 'node_modules/@types'));
  await symlink(join(root, 'node_modules/undici-types'), join(project, 'node_modules/undici-types'));
  await writeFile(join(project, 'user.ts'), user);
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const flags = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022'];
  // With the package's own declarations checked, which a project of a user may do.
  const lib = ['--lib', 'es2023,esnext.disposable', '--skipLibCheck', 'false', '--types', 'node'];
  const { stdout } = await execute(process.execPath, [tsc, ...flags, ...lib, 'user.ts'], {
    cwd: project,
  }).catch((error: unknown) => error as { stdout: string });
  expect(stdout).toBe('');
}, 300_000);

/** What a user would write; a line marked "expect-error" must not type-check. */
const user = `
import { convert, create, open, Qcow2Error, type Disk, type Extent, type Qcow2 } from 'qcow2';

export async function use(path: string): Promise<number> {
  await using disk: Qcow2 = await create(path, 10n * 2n ** 30n, { clusterSize: 65536 });
  await disk.write(new Uint8Array(512), 0);
  const { corruptions, leaks }: { corruptions: number; leaks: number } = await disk.check();
  const found: Extent[] = [];
  for await (const extent of disk.extents({ start: 0, length: 65536 })) found.push(extent);
  const copy: Disk = await open(path, { resolve: (reference) => reference.name });
  await copy.read(Buffer.alloc(512), 0, { signal: AbortSignal.timeout(1000) });
  await copy.close();
  await convert(path, 'disk.raw', { targetFormat: 'raw', onProgress: ({ done, total }) => console.log(done / total) });
  // @ts-expect-error there is no such option
  await open(path, { wrong: true });
  // @ts-expect-error a position is a number or a bigint
  await disk.write(new Uint8Array(512), '0');
  return corruptions + leaks + found.length;
}

export function explain(error: unknown): string {
  if (!(error instanceof Qcow2Error)) throw error;
  return error.code === 'ERR_QCOW2_REFERENCE_DENIED' ? 'a reference' : \`\${error.code} at \${String(error.offset)}\`;
}
`;
