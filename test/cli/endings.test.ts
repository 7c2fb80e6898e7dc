/** How the program ends when it is interrupted or nobody listens any more. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { create } from '../../lib/index.js';
import { mainScript, makeDirectory, qcow2, removeDirectories, tool } from './run.js';

let directory: string;
beforeAll(() => {
  directory = makeDirectory();
});
afterAll(() => removeDirectories(directory));

describe('the program', () => {
  it('ends without a word when its reader goes away', async () => {
    // More than a pipe holds: the program has to notice while it prints.
    const stripes = await create(join(directory, 'stripes.qcow2'), 16 * 2 ** 20, { clusterSize: 512 });
    for (let at = 0; at < stripes.size; at += 4096) await stripes.write(Buffer.alloc(512, 1), at);
    await stripes.close();

    const args = [mainScript, 'map', '--output=json', join(directory, 'stripes.qcow2')];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let complaints = '';
    child.stderr.on('data', (data: Buffer) => (complaints += data.toString()));
    await once(child.stdout, 'data');
    child.stdout.destroy();
    const [code] = (await once(child, 'close')) as [number | null];
    expect(complaints).toBe('');
    expect(code).toBe(141);
  });

  it.each([
    'rebase -p -b lower.qcow2 -F qcow2 upper.qcow2',
    'amend -p -o refcount_bits=8 upper.qcow2',
    'compact -p upper.qcow2',
    'compact --output=json upper.qcow2',
    'dehydrate upper.qcow2 -',
  ])('leaves a valid image when nobody reads what is printed by %s', async (line) => {
    for (const [name, pattern] of [
      ['lower', 1],
      ['other', 2],
    ] as const) {
      const image = await create(join(directory, `${name}.qcow2`), 2 ** 22);
      await image.write(Buffer.alloc(2 ** 21, pattern), 0);
      await image.close();
    }
    const upper = ['-b', 'other.qcow2', '-F', 'qcow2', 'upper.qcow2'];
    tool('qemu-img', ['create', '-q', '-f', 'qcow2', ...upper], directory);
    tool('qemu-io', ['-c', 'write -P 7 1M 1M', '-c', 'discard 1M 256k', 'upper.qcow2'], directory);
    tool('qemu-img', ['convert', '-O', 'raw', 'upper.qcow2', 'upper.raw'], directory);
    const args = [mainScript, ...line.split(' ')];
    const child = spawn(process.execPath, args, { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    let complaints = '';
    child.stderr.on('data', (data: Buffer) => (complaints += data.toString()));
    const [code] = (await once(child, 'close')) as [number | null];
    expect({ code, complaints }).toEqual({ code: 141, complaints: '' });
    expect(tool('qemu-img', ['compare', 'upper.qcow2', 'upper.raw'], directory)).toContain('identical');
    tool('qemu-img', ['check', '-q', 'upper.qcow2'], directory);
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('takes away its half-written output after %s', async (signal) => {
    const target = join(directory, `target-${signal}`);
    const child = await startLongConversion(target);
    child.kill(signal);
    const [, ending] = (await once(child, 'exit')) as [number | null, string | null];
    expect(ending).toBe(signal);
    expect(existsSync(target)).toBe(false);
  });

  it('leaves a file alone that it could not write to', async () => {
    writeFileSync(join(directory, 'kept'), 'x'.repeat(512));
    const { code } = await qcow2(['convert', '-O', 'qcow2', 'missing', 'kept'], directory);
    expect(code).toBe(1);
    expect(existsSync(join(directory, 'kept'))).toBe(true);
  });

  it.each(['qcow2', 'qemu-img'])('calls itself %s when that is its name', (name) => {
    const link = join(directory, name);
    symlinkSync(mainScript, link);
    const { stderr } = spawnSync(process.execPath, [link, 'info'], { encoding: 'utf8' });
    expect(stderr).toBe(
      `${name}: Expecting one image file name\nTry '${name} --help' for more information\n`,
    );
    const { stdout } = spawnSync(process.execPath, [link, '--version'], { encoding: 'utf8' });
    expect(stdout).toMatch(name === 'qcow2' ? /^qcow2 \d+\.\d+\.\d+\n$/ : /^qemu-img version \d+\.\d+\.\d+ /);
  });
});

/** Starts to compress something large, and resolves once the output is there. */
async function startLongConversion(target: string): Promise<ReturnType<typeof spawn>> {
  const source = join(directory, 'source.raw');
  if (!existsSync(source)) writeFileSync(source, randomBytes(96 * 1024 * 1024));
  const args = [mainScript, 'convert', '-c', '-O', 'qcow2', source, target];
  const child = spawn(process.execPath, args, { stdio: 'ignore' });
  while (!existsSync(target)) await sleep(5);
  return child;
}

describe('^C', () => {
  const img = (...args: string[]): string => tool('qemu-img', args, directory);
  const start = (line: string): ReturnType<typeof spawn> =>
    spawn(process.execPath, [mainScript, ...line.split(' ')], {
      cwd: directory,
      stdio: ['pipe', 'ignore', 'pipe'],
    });
  const interrupted = async (
    child: ReturnType<typeof spawn>,
  ): Promise<{ ending: string | null; stderr: string }> => {
    let stderr = '';
    child.stderr?.on('data', (data: Buffer) => (stderr += data.toString()));
    child.kill('SIGINT');
    const [, ending] = (await once(child, 'exit')) as [number | null, string | null];
    return { ending, stderr };
  };

  it.each([
    ['create -q -f raw -o preallocation=full out 512G', ''],
    ['stream-decode out', 'header'],
  ])('takes away what %s has written', async (line, input) => {
    if (!existsSync(join(directory, 'sparse.raw'))) truncateSync(newFile('sparse.raw'), 2 ** 40);
    const child = start(line);
    if (input !== '') {
      img('create', '-q', '-f', 'qcow2', 'piped.qcow2', '64M');
      child.stdin?.write(readFileSync(join(directory, 'piped.qcow2')).subarray(0, 65536));
      await sleep(1500);
    } else {
      while (!existsSync(join(directory, 'out')) && child.exitCode === null) await sleep(5);
    }
    expect(await interrupted(child)).toEqual({ ending: 'SIGINT', stderr: '' });
    expect(existsSync(join(directory, 'out'))).toBe(false);
  });

  it('ends a rehydrate that waits for a pipe', async () => {
    const pipe = join(directory, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const child = start('rehydrate pipe out');
    // Waits for the program to open it.
    const handle = await open(pipe, 'w');
    expect(await interrupted(child)).toEqual({ ending: 'SIGINT', stderr: '' });
    await handle.close();
    expect(existsSync(join(directory, 'out'))).toBe(false);
  });

  it('leaves both images of a commit valid, and the content as it was', async () => {
    img('create', '-q', '-f', 'qcow2', 'below.qcow2', '64M');
    img('create', '-q', '-f', 'qcow2', '-b', 'below.qcow2', '-F', 'qcow2', 'above.qcow2');
    tool('qemu-io', ['-c', 'write -P 5 0 16M', 'above.qcow2'], directory);
    img('convert', '-O', 'qcow2', 'above.qcow2', 'expected.qcow2');
    const before = statSync(join(directory, 'below.qcow2')).size;
    const child = start('commit -r 2M above.qcow2');
    while (statSync(join(directory, 'below.qcow2')).size === before && child.exitCode === null)
      await sleep(5);
    expect(await interrupted(child)).toEqual({ ending: 'SIGINT', stderr: '' });
    img('check', '-q', 'below.qcow2');
    img('check', '-q', 'above.qcow2');
    expect(img('compare', 'above.qcow2', 'expected.qcow2')).toContain('identical');
  });

  it('says of a target that was there that it is incomplete', async () => {
    const old = join(directory, 'old.raw');
    writeFileSync(old, 'old');
    writeFileSync(join(directory, 'random.raw'), randomBytes(8 * 1024 * 1024));
    const child = start('convert -r 1M -O raw random.raw old.raw');
    while (statSync(old).size <= 3 && child.exitCode === null) await sleep(5);
    expect(await interrupted(child)).toEqual({
      ending: 'SIGINT',
      stderr: "qcow2: 'old.raw' is incomplete\n",
    });
  });

  it.each(['hash', 'sha'])('ends %s', async (command) => {
    if (!existsSync(join(directory, 'sparse.raw'))) truncateSync(newFile('sparse.raw'), 2 ** 40);
    const child = start(`${command} sparse.raw`);
    await sleep(1500);
    expect((await interrupted(child)).ending).toBe('SIGINT');
  });

  it('ends a write that waits for its input, which leaves a valid image', async () => {
    img('create', '-q', '-f', 'qcow2', 'written.qcow2', '64M');
    const child = start('write written.qcow2 0');
    // On a busy machine it may end before it has taken all of that.
    child.stdin?.on('error', () => undefined);
    child.stdin?.write(Buffer.alloc(1024 * 1024, 1));
    await sleep(1500);
    expect((await interrupted(child)).ending).toBe('SIGINT');
    img('check', '-q', 'written.qcow2');
  });
});

describe('--rate-limit', () => {
  it('holds a copy back while others are made', async () => {
    writeFileSync(join(directory, 'three.raw'), randomBytes(3 * 1024 * 1024));
    const convert = ['convert', '-O', 'raw', 'three.raw'];
    const args = [mainScript, ...convert, 'slow.raw', '-r', '1'];
    const slow = spawn(process.execPath, args, { cwd: directory, stdio: 'ignore' });
    const ended = once(slow, 'exit');
    while (!existsSync(join(directory, 'slow.raw')) && slow.exitCode === null) await sleep(5);
    for (const target of ['first.raw', 'second.raw']) {
      expect((await qcow2([...convert, target, '-r', '100G'], directory)).code).toBe(0);
      expect(tool('qemu-img', ['compare', 'three.raw', target], directory)).toContain('identical');
    }
    // At one byte a second it takes a month.
    expect(slow.exitCode).toBeNull();
    slow.kill();
    await ended;
    expect(existsSync(join(directory, 'slow.raw'))).toBe(false);
  });
});

function newFile(name: string): string {
  const path = join(directory, name);
  writeFileSync(path, '');
  return path;
}
