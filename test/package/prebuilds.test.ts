/**
 * Prebuilt binaries. `npm run test:package`, after `npm run prebuildify`, installs the package as it would be published
 * and runs the demo under every runtime that can be had here. In the normal tests only the addon that was compiled here
 * is looked at.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, openSync, readFileSync, closeSync } from 'node:fs';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hardeningProblems, inspect } from '../../scripts/prebuild/inspect.mjs';
import { prebuildPath, targets } from '../../scripts/prebuild/targets.mjs';
import { install, pack, packDependencies, root } from '../support/package.js';
import { bunOnMusl, everyNode, nodeOnArm64, nodeOnLinux, nodeOnWindows, type Runtime } from './runtimes.js';

const isLong = process.env.QCOW2_PACKAGE === 'long';

if (process.platform === 'linux') {
  it('the addon compiled here is hardened and exports nothing but its registration', () => {
    expect(hardeningProblems(join(root, 'build/Release/qcow2.node'))).toEqual([]);
  });
}

if (isLong) {
  const built = targets.filter((target) => existsSync(join(root, prebuildPath(target))));
  const nodes = await everyNode();

  it('all binaries that can be made on Linux are there', () => {
    const expected = targets.filter(({ host }) => host === 'linux').map(({ name }) => name);
    expect(built.map(({ name }) => name)).toEqual(expect.arrayContaining(expected));
  });

  it.each(built)('$name asks little of the system, and shows and holds no more than it should', (target) => {
    expect(inspect(target)).toEqual([]);
  });

  describe('the demo, from the published package', () => {
    let directory: string;
    let project: string;

    beforeAll(async () => {
      directory = await mkdtemp(join(tmpdir(), 'qcow2-prebuilds-'));
      project = join(directory, 'project');
      const { tarball } = await pack(root, directory);
      await install(project, [tarball, ...(await packDependencies(directory))]);
      await cp(join(root, 'scripts/demo.mjs'), join(project, 'demo.mjs'));
    }, 300_000);

    afterAll(async () => {
      await rm(directory, { recursive: true, force: true });
    });

    function demo({ command: [program, ...args], env }: Runtime): void {
      // A file, because Node cannot open Wine's pipes.
      const log = join(directory, 'log');
      const file = openSync(log, 'w');
      const { status, error } = spawnSync(program, [...args, 'demo.mjs', 'node_modules'], {
        cwd: project,
        stdio: ['ignore', file, file],
        env: { PATH: process.env.PATH, HOME: directory, PREBUILDS_ONLY: '1', ...env },
      });
      closeSync(file);
      const text = readFileSync(log, 'utf8');
      expect(error).toBeUndefined();
      expect(status, text).toBe(0);
      expect(text).toContain('the raw copy equals the original with the write, byte for byte');
      expect(text).not.toContain('NOT TRUE');
    }

    it.each(nodes)(
      'under Node %s',
      async (major) => {
        demo(await nodeOnLinux(major));
      },
      300_000,
    );
    it('under Node on arm64, emulated', async () => {
      demo(await nodeOnArm64());
    }, 600_000);
    it('under Node on Windows, emulated', async () => {
      demo(await nodeOnWindows());
    }, 600_000);
    it('under a runtime on musl', async () => {
      demo(await bunOnMusl());
    }, 300_000);
  });
}
