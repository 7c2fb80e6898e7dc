/** Runs the same command line in this package's program and in the real qemu-img, on equal files. */
import { execFile, execFileSync } from 'node:child_process';
import { constants, copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Sink } from '../../lib/cli/output.js';
import { runProgram } from '../../lib/cli/program.js';

export const mainScript = fileURLToPath(new URL('../../dist/cli/main.cjs', import.meta.url));

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

const environment = { ...process.env, TZ: 'UTC', LC_ALL: 'C.UTF-8' };
process.env.TZ = 'UTC';

function run(
  program: string,
  args: readonly string[],
  cwd: string,
  more: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = execFile(
      program,
      args,
      { cwd, encoding: 'utf8', env: { ...environment, ...more } },
      (_, stdout, stderr) => {
        resolve({ code: child.exitCode, stdout, stderr });
      },
    );
  });
}

export async function qemuImg(args: readonly string[], cwd: string): Promise<Outcome> {
  return normalised(await run('qemu-img', args, cwd));
}

/** The program as a process of its own, for what only a process shows. @param more variables of its environment */
export async function qcow2Process(
  args: readonly string[],
  cwd: string,
  more: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  return normalised(await run(process.execPath, [mainScript, ...args], cwd, more));
}

class Collected implements Sink {
  readonly isTerminal = false;
  text = '';

  write(bytes: Uint8Array): void {
    this.text += Buffer.from(bytes).toString();
  }
}

/** The working directory is the process's: one command line at a time. */
let lastRun: Promise<unknown> = Promise.resolve();

/** The program within this process, which takes milliseconds. */
export function qcow2(args: readonly string[], cwd: string): Promise<Outcome> {
  const result = lastRun.then(async () => {
    const home = process.cwd();
    process.chdir(cwd);
    try {
      const stdout = new Collected();
      const stderr = new Collected();
      const code = await runProgram(args, { program: 'qcow2', stdout, stderr });
      return normalised({ code, stdout: stdout.text, stderr: stderr.text });
    } finally {
      process.chdir(home);
    }
  });
  lastRun = result.catch(() => undefined);
  return result;
}

/** Both programs call themselves `PROGRAM`; a hint without an end of line has one. */
function normalised({ code, stdout, stderr }: Outcome): Outcome {
  const named = stderr
    .replaceAll(/^(qemu-img|qcow2): /gm, 'PROGRAM: ')
    .replaceAll(/'(qemu-img|qcow2) --help'/g, "'PROGRAM --help'")
    .replace(/([^\n])$/, '$1\n');
  return { code, stdout, stderr: named };
}

export function makeDirectory(parent = tmpdir()): string {
  return mkdtempSync(join(parent, 'qcow2-cli-'));
}

export function removeDirectories(...directories: readonly string[]): void {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
}

/** A copy of a directory of small files. */
export function copyDirectory(from: string): string {
  const to = makeDirectory();
  copyFiles(from, to);
  return to;
}

function copyFiles(from: string, to: string): void {
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isFile()) copyFileSync(source, target, constants.COPYFILE_FICLONE);
    else {
      mkdirSync(target);
      copyFiles(source, target);
    }
  }
}

/** Runs the real tools to make fixtures; fails when one of them does. */
export function tool(program: 'qemu-img' | 'qemu-io', args: readonly string[], cwd: string): string {
  return execFileSync(program, args, { cwd, encoding: 'utf8', env: environment, stdio: 'pipe' });
}
