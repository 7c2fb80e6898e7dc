/** Runs the same command line in this package's program and in the real qemu-img, on equal files. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const mainScript = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

const environment = { ...process.env, TZ: 'UTC', LC_ALL: 'C.UTF-8' };

function run(program: string, args: readonly string[], cwd: string, input?: string): Outcome {
  const { status, stdout, stderr } = spawnSync(program, args, {
    cwd,
    encoding: 'utf8',
    env: environment,
    ...(input === undefined ? {} : { input }),
  });
  return { code: status, stdout, stderr };
}

export function qemuImg(args: readonly string[], cwd: string): Outcome {
  return normalised(run('qemu-img', args, cwd));
}

export function qcow2(args: readonly string[], cwd: string): Outcome {
  return normalised(run(process.execPath, [mainScript, ...args], cwd));
}

/** Both programs call themselves `PROGRAM`; a hint without an end of line has one. */
function normalised({ code, stdout, stderr }: Outcome): Outcome {
  const named = stderr
    .replaceAll(/^(qemu-img|qcow2): /gm, 'PROGRAM: ')
    .replaceAll(/'(qemu-img|qcow2) --help'/g, "'PROGRAM --help'")
    .replace(/([^\n])$/, '$1\n');
  return { code, stdout, stderr: named };
}

/** A directory that {@link removeDirectories} takes away. */
export function makeDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'qcow2-cli-'));
  directories.push(directory);
  return directory;
}

const directories: string[] = [];

export function removeDirectories(): void {
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
}

/** A copy of a directory in which holes stay holes. */
export function copyDirectory(from: string): string {
  const to = makeDirectory();
  execFileSync('cp', ['-a', '--sparse=always', `${from}/.`, to]);
  return to;
}

/** Runs the real tools to make fixtures; fails when one of them does. */
export function tool(program: 'qemu-img' | 'qemu-io', args: readonly string[], cwd: string): string {
  return execFileSync(program, args, { cwd, encoding: 'utf8', env: environment, stdio: 'pipe' });
}
