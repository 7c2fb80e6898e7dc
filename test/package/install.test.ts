/**
 * The packed package, installed without scripts, compiler or registry, does its work. The addon compiled here stands for
 * the prebuilt binary of this platform; prebuilds.test.ts does the same with the real ones.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { remedy } from '../../scripts/remedy.mjs';
import {
  emptyPath,
  install,
  installedAlong,
  type Packed,
  pack,
  packDependencies,
  root,
  stage,
} from '../support/package.js';

const execute = promisify(execFile);
const prebuild = `prebuilds/${process.platform}-${process.arch}/qcow2.node`;

let directory: string;
let packed: Packed;
const at = (...names: string[]): string => join(directory, ...names);

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'qcow2-package-'));
  await stage(at('staged'));
  await mkdir(join(at('staged', prebuild), '..'), { recursive: true });
  await cp(join(root, 'build/Release/qcow2.node'), at('staged', prebuild));
  packed = await pack(at('staged'), directory);
  await install(at('project'), [packed.tarball, ...(await packDependencies(directory))]);
}, 300_000);

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

/** Node with an environment that has no tools; `script` is run in the project. */
async function run(script: string, args: readonly string[] = [], cwd = at('project')) {
  return execute(process.execPath, [script, ...args], {
    cwd,
    env: { PATH: await emptyPath(at('path')), TMPDIR: directory },
  });
}

describe('the tarball', () => {
  it('holds what is needed and nothing else', () => {
    const folders = new Set(packed.files.map((path) => path.split('/').slice(0, 2).join('/')));
    const known = [
      /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|SECURITY\.md|THIRD_PARTY_NOTICES\.md|CMakeLists\.txt)$/,
      /^dist\/([\w-]+|qcow2\.1|.*\.(js|d\.ts))$/,
      /^native\/(core|os|binding)$/,
      /^scripts\/(install|compile-addon|compile-program|remedy)\.mjs$/,
      /^prebuilds\/[\w-]+$/,
    ];
    expect([...folders].filter((folder) => !known.some((pattern) => pattern.test(folder)))).toEqual([]);
    expect(
      packed.files.filter((path) => /test|fuzz|\.js\.map$|\.log$/.test(path.split('/').at(-1) ?? '')),
    ).toEqual([]);
    for (const needed of ['dist/index.js', 'dist/index.d.ts', 'dist/cli/main.cjs', 'LICENSE', prebuild])
      expect(packed.files).toContain(needed);
  });

  it('brings nothing but what it was tested with', async () => {
    const folders = await readdir(at('project/node_modules'), { recursive: true });
    const found = folders.filter((path) => /^(?:@[^/]+\/)?[^/@]+\/package\.json$/.test(path)).map(dirname);
    const expected = installedAlong().map((path) => path.slice(path.lastIndexOf('node_modules/') + 13));
    expect(found.sort()).toEqual(['qcow2', ...new Set(expected)].sort());
  });
});

describe('installed from the tarball', () => {
  it('does the main job', async () => {
    await cp(join(root, 'scripts/demo.mjs'), at('project/demo.mjs'));
    const { stdout } = await run(at('project/demo.mjs'), [at('project/node_modules')]);
    expect(stdout).toContain('the raw copy equals the original with the write, byte for byte');
    expect(stdout).not.toContain('NOT TRUE');
  });

  it('has no use for cmake-js when there is a binary', async () => {
    const lean = at('lean');
    await cp(at('project'), lean, { recursive: true });
    for (const path of installedAlong()) {
      if (!/\/(node-gyp-build|xxhash-wasm)$/.test(path))
        await rm(join(lean, path), { recursive: true, force: true });
    }
    const program = join(lean, 'node_modules/.bin/qcow2');
    await run(program, ['create', '-f', 'qcow2', 'disk.qcow2', '64M'], lean);
    // The install script keeps the binary that loads.
    const { stderr } = await run('scripts/install.mjs', [], join(lean, 'node_modules/qcow2'));
    expect(stderr).toBe('');
  });

  it('brings the command line', async () => {
    const program = at('project/node_modules/.bin/qcow2');
    await run(program, ['create', '-f', 'qcow2', 'disk.qcow2', '64M']);
    const { stdout } = await run(program, ['info', '--output=json', 'disk.qcow2']);
    expect(JSON.parse(stdout)).toMatchObject({ format: 'qcow2', 'virtual-size': 64 * 2 ** 20 });
  });

  it('starts from what was compiled when it was installed, and as well without', async () => {
    const packageRoot = at('project/node_modules/qcow2');
    const program = join(packageRoot, 'dist/cli/main.cjs');
    await run(program, ['create', '-f', 'qcow2', 'other.qcow2', '64M']);
    const before = await run(program, ['info', 'other.qcow2']);
    await run('scripts/install.mjs', [], packageRoot);
    const compiled = join(packageRoot, 'build/compiled');
    const [folder = ''] = await readdir(compiled);
    expect((await readdir(join(compiled, folder))).length).toBeGreaterThan(10);
    expect(await run(program, ['info', 'other.qcow2'])).toEqual(before);
    const ask =
      'require(process.argv[1]).loadProgram((_, { cachedDataRejected }) => console.log(cachedDataRejected))';
    const { stdout } = await execute(process.execPath, ['--eval', ask, program]);
    expect(new Set(stdout.trim().split('\n'))).toEqual(new Set(['false']));
    // As a process it changes flags of V8, which takes no code from under others.
    const spy = at('spy.cjs');
    await writeFile(
      spy,
      `const vm = require('node:vm');
      vm.Script = class extends vm.Script {
        constructor(...of) { super(...of); require('node:fs').writeSync(2, this.cachedDataRejected + '\\n'); }
      };`,
    );
    const command = ['--require', spy, program, 'map', at('project/other.qcow2')];
    const { stderr } = await execute(process.execPath, command);
    expect(new Set(stderr.trim().split('\n'))).toEqual(new Set(['false']));
    // What another version of V8 would find.
    for (const name of await readdir(join(compiled, folder)))
      await writeFile(join(compiled, folder, name), 'something else');
    expect(await run(program, ['info', 'other.qcow2'])).toEqual(before);
    await rm(compiled, { recursive: true });
    expect(await run(program, ['info', 'other.qcow2'])).toEqual(before);
  });

  it('says what to do where there is no binary for the platform', async () => {
    const project = at('other');
    await cp(at('project'), project, { recursive: true });
    await rm(join(project, 'node_modules/qcow2/prebuilds'), { recursive: true });
    const failed = await execute(
      process.execPath,
      [
        '--input-type=module',
        '--eval',
        "import('qcow2').catch(({ code, message }) => console.log(code, message))",
      ],
      { cwd: project },
    );
    expect(failed.stdout).toContain('ERR_QCOW2_NATIVE');
    expect(failed.stdout).toContain(`${process.platform}-${process.arch}`);
    expect(failed.stdout).toContain('npm rebuild qcow2 --build-from-source');
    const program = join(project, 'node_modules/qcow2/dist/cli/main.cjs');
    for (const words of [
      ['info', 'disk.qcow2'],
      ['create', '-f', 'qcow2', 'disk.qcow2', '1M'],
      ['map', 'x'],
    ]) {
      const told = (await run(program, words, project).catch((reason: unknown) => reason)) as {
        code: number;
        stderr: string;
      };
      expect(told.code).toBe(1);
      expect(told.stderr).toMatch(/^qcow2: The native addon .*npm rebuild qcow2 --build-from-source.*\n$/);
    }
    for (const words of [['--help'], ['--version'], ['man']])
      expect((await run(program, words, project)).stderr).toBe('');
  });

  it('names what a compilation lacks, and the command that gets it', async () => {
    const packageRoot = at('other/node_modules/qcow2');
    const error = (await run('scripts/install.mjs', [], packageRoot).catch((reason: unknown) => reason)) as {
      code: number;
      stderr: string;
    };
    expect(error.code).toBe(1);
    expect(error.stderr).toContain('cmake is not installed');
    expect(error.stderr).toContain('there is no C++ compiler');
    expect(error.stderr).toMatch(/(apt-get install|dnf install|apk add|brew install|zypper|pacman) .*cmake/);
    expect(error.stderr).toContain('npm rebuild qcow2');
  });

  it.each([
    ['debian', 'ID=debian\n', 'apt-get install'],
    ['ubuntu', 'NAME="Ubuntu"\nID_LIKE=debian\nID=ubuntu\n', 'apt-get install'],
    ['rocky', 'ID="rocky"\nID_LIKE="rhel centos fedora"\n', 'dnf install'],
    ['fedora', 'ID=fedora\n', 'dnf install'],
    ['opensuse', 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', 'zypper install'],
    ['alpine', 'ID=alpine\n', 'apk add'],
    ['manjaro', 'ID=manjaro\nID_LIKE=arch\n', 'pacman -S'],
  ])('knows the commands of %s', (_, osRelease, command) => {
    expect(remedy('linux', osRelease)).toMatch(new RegExp(`^${command} .*cmake.*(lib)?zstd`));
  });

  it('names what there is to choose from on a Linux it does not know, and the ways of other systems', () => {
    expect(remedy('linux', 'ID=constructor\n').split('\n')).toHaveLength(6);
    expect(remedy('linux', '')).toMatch(/debian: apt-get install/);
    expect(remedy('darwin', '')).toMatch(/xcode-select --install/);
    expect(remedy('win32', '')).toMatch(/Visual Studio Build Tools/);
    expect(remedy('freebsd', '')).toMatch(/package manager/);
  });

  it.each([
    ['cmake is not installed', 'g++', undefined],
    ['cmake is 3.10.2; 3.19 or newer is needed', 'g++', 'cmake version 3.10.2'],
    ['there is no C++ compiler', undefined, 'cmake version 3.25.1'],
  ])('says that %s', async (complaint, compiler, cmake) => {
    const tools = await mkdtemp(at('tools-'));
    for (const name of await readdir(await emptyPath(at('path'))))
      await symlink(at('path', name), join(tools, name));
    if (compiler !== undefined) await script(join(tools, compiler), 'echo g++ 12.2.0');
    if (cmake !== undefined) await script(join(tools, 'cmake'), `test "$1" = --version && echo ${cmake}`);
    const error = (await execute(process.execPath, ['scripts/install.mjs'], {
      cwd: at('other/node_modules/qcow2'),
      env: { PATH: tools, TMPDIR: directory },
    }).catch((reason: unknown) => reason)) as { code: number; stderr: string };
    expect(error.code).toBe(1);
    expect(error.stderr).toContain(complaint);
    if (compiler !== undefined) expect(error.stderr).not.toContain('there is no C++ compiler');
  });
});

async function script(path: string, line: string): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${line}\n`, { mode: 0o755 });
}

if (process.env.QCOW2_PACKAGE === 'long') {
  it('compiles where there is no binary, and does the main job with what it compiled', async () => {
    const project = at('compiled');
    await stage(at('sources'));
    const { tarball } = await pack(at('sources'), at('sources'));
    await install(project, [tarball, ...(await packDependencies(at('sources')))]);
    const packageRoot = join(project, 'node_modules/qcow2');
    expect(await readdir(packageRoot)).not.toContain('prebuilds');
    // As npm runs it, with the machine's compiler and cmake, and no network.
    const { stderr } = await execute('npm', ['rebuild', '--offline', '--foreground-scripts', 'qcow2'], {
      cwd: project,
    });
    expect(stderr).toContain('compiling the native addon');
    expect(await readdir(join(packageRoot, 'build/Release'))).toContain('qcow2.node');
    await cp(join(root, 'scripts/demo.mjs'), join(project, 'demo.mjs'));
    const { stdout } = await run(join(project, 'demo.mjs'), [join(project, 'node_modules')], project);
    expect(stdout).toContain('the raw copy equals the original with the write, byte for byte');
  }, 600_000);
}
