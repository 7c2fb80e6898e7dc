/** ^C and SIGTERM amid commands that change images: the program ends by the signal, and what it leaves is sound. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyDirectory, mainScript, makeDirectory, qemuImg, removeDirectories, tool } from './run.js';

let fixtures: string;
const copies: string[] = [];
beforeAll(() => {
  fixtures = makeDirectory();
  const img = (...args: string[]): string => tool('qemu-img', args, fixtures);
  const every = (step: number, count: number, what: string): string[] =>
    Array.from({ length: count }, (_, index) => ['-c', `${what} ${index * step}k`]).flat();
  img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', 'disk.qcow2', '64M');
  tool('qemu-io', [...every(64, 1000, 'write -q -P 3').map(withLength('8k')), 'disk.qcow2'], fixtures);
  tool('qemu-io', [...every(128, 400, 'discard').map(withLength('8k')), 'disk.qcow2'], fixtures);
  tool('qemu-io', [...every(256, 200, 'write -q -z').map(withLength('4k')), 'disk.qcow2'], fixtures);
  img('convert', '-O', 'raw', 'disk.qcow2', 'disk.raw');
  img('create', '-q', '-f', 'raw', 'zeros.raw', '64M');
  img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', '-b', 'disk.raw', '-F', 'raw', 'top.qcow2');
});
afterAll(() => removeDirectories(fixtures, ...copies));

const withLength =
  (length: string) =>
  (word: string): string =>
    word === '-c' ? word : `${word} ${length}`;

/** Calls that write into files. */
const writes = 'pwrite64,pwritev,pwritev2,fallocate,copy_file_range';

interface Ending {
  signal: string | null;
  stderr: string;
}

/** Runs the program so that a signal meets it at its second write into a file: strace sends it there. */
async function interruptWriting(line: string, signal: NodeJS.Signals, cwd: string): Promise<Ending> {
  const injected = `inject=${writes}:signal=${signal}:when=2`;
  const tracing = ['-f', '-o', '/dev/null', '-e', `trace=${writes}`, '-e', injected];
  const child = spawn('strace', [...tracing, process.execPath, mainScript, ...line.split(' ')], {
    cwd,
    stdio: ['ignore', 'ignore', 'pipe'],
    // The second write is counted for each thread.
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
  });
  let stderr = '';
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
  const [, ending] = (await once(child, 'close')) as [number | null, string | null];
  return { signal: ending, stderr };
}

function freshCopy(): string {
  const directory = copyDirectory(fixtures);
  copies.push(directory);
  return directory;
}

describe('a signal', () => {
  it.each<[line: string, signal: NodeJS.Signals, image: string]>([
    ['compact disk.qcow2', 'SIGINT', 'disk.qcow2'],
    ['compact --sort disk.qcow2', 'SIGTERM', 'disk.qcow2'],
    ['rebase -F raw -b zeros.raw top.qcow2', 'SIGINT', 'top.qcow2'],
    ['rebase -c -F raw -b zeros.raw top.qcow2', 'SIGTERM', 'top.qcow2'],
    ['snapshot -c state disk.qcow2', 'SIGINT', 'disk.qcow2'],
    ['amend -o compat=0.10 disk.qcow2', 'SIGINT', 'disk.qcow2'],
    ['amend -o refcount_bits=64 disk.qcow2', 'SIGTERM', 'disk.qcow2'],
    ['resize --preallocation=full disk.qcow2 80M', 'SIGINT', 'disk.qcow2'],
  ])('amid %s (%s) leaves the image sound and the disk as it was', async (line, signal, image) => {
    const directory = freshCopy();
    const ending = await interruptWriting(line, signal, directory);
    expect(ending).toEqual({ signal, stderr: '' });
    // Leaks are no damage.
    expect([0, 3]).toContain((await qemuImg(['check', '-q', image], directory)).code);
    const compared = await qemuImg(['compare', '-f', 'qcow2', '-F', 'raw', image, 'disk.raw'], directory);
    expect(compared).toMatchObject({ code: 0, stderr: '' });
  });

  it.each<[line: string, signal: NodeJS.Signals]>([
    ['dd bs=4k if=disk.qcow2 of=new/out', 'SIGINT'],
    ['dd -O qcow2 bs=64k if=disk.raw of=new/out', 'SIGTERM'],
    ['encode disk.raw new/out', 'SIGTERM'],
    ['decode disk.qcow2 new/out', 'SIGINT'],
  ])('amid %s (%s) leaves no half-written file', async (line, signal) => {
    const directory = freshCopy();
    mkdirSync(join(directory, 'new'));
    const ending = await interruptWriting(line, signal, directory);
    expect(ending).toEqual({ signal, stderr: '' });
    expect(existsSync(join(directory, 'new/out'))).toBe(false);
  });
});
