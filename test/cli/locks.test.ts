/** Images in use by QEMU: the same commands are refused, in the same words. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeDirectory, qcow2, qemuImg, removeDirectories, tool } from './run.js';

let directory: string;
let holder: ChildProcess;

/** Has qemu-io open the image until the end of the test. */
async function hold(...flags: string[]): Promise<void> {
  holder = spawn('qemu-io', [...flags, 'used.qcow2'], { cwd: directory, stdio: ['pipe', 'pipe', 'inherit'] });
  if (holder.stdout !== null) await once(holder.stdout, 'data');
}

beforeEach(() => {
  directory = makeDirectory();
  tool('qemu-img', ['create', '-q', '-f', 'qcow2', 'used.qcow2', '1M'], directory);
  tool('qemu-img', ['create', '-q', '-f', 'qcow2', 'free.qcow2', '1M'], directory);
});

afterEach(async () => {
  holder.stdin?.end();
  if (holder.exitCode === null) await once(holder, 'exit');
  removeDirectories(directory);
});

const commands = [
  ['info', 'used.qcow2'],
  ['info', '-U', 'used.qcow2'],
  ['check', 'used.qcow2'],
  ['check', '-r', 'all', 'used.qcow2'],
  ['map', 'used.qcow2'],
  ['map', '-U', 'used.qcow2'],
  ['resize', 'used.qcow2', '2M'],
  ['create', '-f', 'qcow2', 'used.qcow2', '1M'],
  ['create', '-f', 'raw', 'used.qcow2', '1M'],
  ['create', '-f', 'qcow2', '-b', 'used.qcow2', '-F', 'qcow2', 'over.qcow2'],
  ['convert', 'used.qcow2', 'copy.raw'],
  ['convert', '-O', 'qcow2', 'free.qcow2', 'used.qcow2'],
  ['convert', '-O', 'raw', 'free.qcow2', 'used.qcow2'],
  ['convert', '-n', '-O', 'qcow2', 'free.qcow2', 'used.qcow2'],
] as const;

describe('while QEMU writes an image', () => {
  it.each(commands.map((words) => [words.join(' '), words] as const))('%s', async (_, words) => {
    await hold();
    expect(await qcow2(words, directory)).toEqual(await qemuImg(words, directory));
  });
});

describe('while QEMU reads an image', () => {
  it.each(commands.map((words) => [words.join(' '), words] as const))('%s', async (_, words) => {
    await hold('-r');
    expect(await qcow2(words, directory)).toEqual(await qemuImg(words, directory));
  });
});
