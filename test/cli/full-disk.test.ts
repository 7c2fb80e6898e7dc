/** What is left when a command cannot write all it has to: no half-written file, and no image that is damaged. */
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyDirectory, mainScript, makeDirectory, removeDirectories, tool } from './run.js';

let fixtures: string;
let directory: string;
beforeAll(() => {
  fixtures = makeDirectory();
  writeFileSync(join(fixtures, 'data.raw'), randomBytes(4 * 1024 * 1024));
  const img = (...args: string[]): string => tool('qemu-img', args, fixtures);
  img('convert', '-O', 'qcow2', 'data.raw', 'data.qcow2');
  img('create', '-q', '-f', 'qcow2', 'base.qcow2', '64M');
  img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2');
  tool('qemu-io', ['-c', 'write -P 7 0 4M', 'top.qcow2'], fixtures);
  // More of its own than fits on the disk below: what differs is copied up.
  img('create', '-q', '-f', 'qcow2', '-b', 'top.qcow2', '-F', 'qcow2', 'low.qcow2', '4M');
  // Refcounts of 64 bits take eight times the blocks.
  img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512,refcount_bits=1', 'tight.qcow2', '64M');
  tool('qemu-io', ['-c', 'write 0 1000k', 'tight.qcow2'], fixtures);
  // What compact moves goes into a hole.
  img('create', '-q', '-f', 'qcow2', 'loose.qcow2', '64M');
  tool('qemu-io', ['-d', 'unmap', '-c', 'write -P 8 0 4M', '-c', 'discard 0 2M', 'loose.qcow2'], fixtures);
  execFileSync(process.execPath, [mainScript, 'dehydrate', 'data.qcow2', 'data.dehydrated'], {
    cwd: fixtures,
  });
  directory = copyDirectory(fixtures);
});
afterAll(() => removeDirectories(fixtures, directory));

/** Runs the program where no file may get larger than 1 MiB, or so many KiB, which fails a write as a full disk does. */
function runConfined(
  args: readonly string[],
  input?: string,
  limit = 1024,
): { code: number | null; stderr: string } {
  const stdin = input === undefined ? null : openSync(join(directory, input), 'r');
  const confined = `trap "" XFSZ; ulimit -f ${limit}; exec "$@"`;
  const { status, stderr } = spawnSync(
    'bash',
    ['-c', confined, 'bash', process.execPath, mainScript, ...args],
    { cwd: directory, encoding: 'utf8', stdio: [stdin ?? 'ignore', 'ignore', 'pipe'] },
  );
  if (stdin !== null) closeSync(stdin);
  return { code: status, stderr };
}

describe('a disk without room', () => {
  it.each<[line: string, input?: string]>([
    ['convert -O qcow2 data.raw out'],
    ['convert -c -O qcow2 data.raw out'],
    ['convert -O raw data.qcow2 out'],
    ['create -q -f raw -o preallocation=full out 8M'],
    ['create -q -f qcow2 -o preallocation=full out 8M'],
    ['dd if=data.raw of=out bs=64k'],
    ['rehydrate data.dehydrated out'],
    ['encode data.raw out'],
    ['decode data.qcow2 out'],
    ['stream-decode out', 'data.qcow2'],
  ])('is told by %s, which leaves no file', (line, input) => {
    const { code, stderr } = runConfined(line.split(' '), input);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^qcow2: .*File too large\n$/) as string,
    });
    expect(existsSync(join(directory, 'out'))).toBe(false);
  });

  it('is told by dehydrate, which leaves no file', () => {
    const { code, stderr } = runConfined(['dehydrate', 'data.qcow2', 'out'], undefined, 0);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^qcow2: .*File too large\n$/);
    expect(existsSync(join(directory, 'out'))).toBe(false);
  });

  it.each([
    ['commit top.qcow2', undefined, 'top.qcow2'],
    ['write base.qcow2 0', 'data.raw', 'base.qcow2'],
    ['resize --preallocation=full base.qcow2 80M', undefined, 'base.qcow2'],
    ['snapshot -c state top.qcow2', undefined, 'top.qcow2'],
    ['rebase -b data.qcow2 -F qcow2 low.qcow2', undefined, 'low.qcow2'],
    ['amend -o refcount_bits=64 tight.qcow2', undefined, 'tight.qcow2'],
    ['compact loose.qcow2', undefined, 'loose.qcow2'],
  ])('is told by %s, which leaves no damage', (line, input, image) => {
    const { code, stderr } = runConfined(line.split(' '), input);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^qcow2: .*File too large\n$/);
    for (const file of ['base.qcow2', 'top.qcow2', 'low.qcow2', 'tight.qcow2', 'loose.qcow2']) {
      // Leaks are no damage.
      const { status } = spawnSync('qemu-img', ['check', '-q', file], { cwd: directory });
      expect([0, 3]).toContain(status);
    }
    const before = tool('qemu-img', ['compare', join(fixtures, 'top.qcow2'), 'top.qcow2'], directory);
    expect(before).toContain('identical');
    const content = tool('qemu-img', ['compare', join(fixtures, image), image], directory);
    // What a write had written before is no other's.
    if (!line.startsWith('write')) expect(content).toContain('identical');
  });

  it('is told by compact on a file system that is full, which leaves no damage', () => {
    // 256 KiB are left.
    const script =
      'mkdir full && mount -t tmpfs -o size=8m none full && cp --sparse=always loose.qcow2 full && ' +
      '{ cat /dev/zero > full/rest || truncate -s -256K full/rest; } 2> /dev/null; "$@" full/loose.qcow2; ' +
      'status=$?; cp --sparse=always full/loose.qcow2 kept.qcow2; exit $status';
    const words = ['-rm', 'bash', '-c', script, 'bash', process.execPath, mainScript, 'compact'];
    const { status, stderr } = spawnSync('unshare', words, { cwd: directory, encoding: 'utf8' });
    expect(stderr).toMatch(/^qcow2: .*No space left on device\n$/);
    expect(status).toBe(1);
    expect([0, 3]).toContain(spawnSync('qemu-img', ['check', '-q', 'kept.qcow2'], { cwd: directory }).status);
    const compared = tool('qemu-img', ['compare', join(fixtures, 'loose.qcow2'), 'kept.qcow2'], directory);
    expect(compared).toContain('identical');
  });

  it('says that an image that was there is incomplete now', () => {
    writeFileSync(join(directory, 'old.raw'), 'x'.repeat(512));
    const { code, stderr } = runConfined(['convert', '-O', 'raw', 'data.qcow2', 'old.raw']);
    expect(code).toBe(1);
    expect(stderr).toContain("qcow2: 'old.raw' is incomplete\n");
  });

  it.each([
    'info data.qcow2',
    'read data.qcow2 0 1M',
    'map data.qcow2',
    'stream-encode data.raw',
    'hash data.raw',
  ])('is told by %s, whose output goes there', (line) => {
    const full = openSync('/dev/full', 'w');
    const { status, stderr } = spawnSync(process.execPath, [mainScript, ...line.split(' ')], {
      cwd: directory,
      encoding: 'utf8',
      stdio: ['ignore', full, 'pipe'],
    });
    closeSync(full);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^qcow2: .*no space left on device/i);
  });

  it('harms nothing of what was read', () => {
    expect(readFileSync(join(directory, 'data.raw')).equals(readFileSync(join(fixtures, 'data.raw')))).toBe(
      true,
    );
  });
});
