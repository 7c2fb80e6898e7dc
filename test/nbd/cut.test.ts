/** Connections that break off at any byte: real clients on our server, and our client on qemu-nbd. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open } from '../../lib/index.js';
import { openNbd, serveNbd } from '../../lib/nbd/index.js';
import { cuttingProxy } from '../support/cutting-proxy.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuContent, run } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { qemuNbd } from '../support/qemu-nbd.js';
import { useTempDir } from '../support/temp-dir.js';

const mib = 1024 * 1024;
const size = 4 * mib;
const path = useTempDir();

/** Places for a cut: in the handshake, and anywhere in what follows. */
function places(seed: number, most: number): number[] {
  const random = new Random(seed);
  return [0, 1, 18, 60, 150, 230, ...Array.from({ length: 4 }, () => random.below(most))];
}

async function makeDisk(): Promise<Buffer> {
  const content = mixedDisk(11, size).read(0, size);
  await using disk = await create(path('disk.qcow2'), size);
  await disk.write(content, 0);
  return content;
}

describe('a real client that reads over a connection which is cut', () => {
  it.each<[string, (uri: string) => string[]]>([
    ['nbdinfo', (uri) => ['nbdinfo', '--map', uri]],
    ['nbdcopy', (uri) => ['nbdcopy', '--connections=2', uri, path('out')]],
    ['qemu-img', (uri) => ['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri, path('out')]],
    ['qemu-io', (uri) => ['qemu-io', '-r', '-f', 'raw', '-c', `read 0 ${size}`, uri]],
  ])('%s fails or has all of it, and the server goes on', async (_name, command) => {
    const content = await makeDisk();
    await using disk = await open(path('disk.qcow2'));
    const failures: unknown[] = [];
    await using server = await serveNbd(disk, {
      socket: path('s'),
      onError: (error) => failures.push(error),
    });
    let complete = 0;
    for (const bytes of [...places(1, 3 * mib), Infinity]) {
      await using proxy = await cuttingProxy(path('s'), bytes);
      const [program = '', ...args] = command(`nbd://127.0.0.1:${proxy.port}`);
      const { exit } = await run(program, args, { expectExit: null });
      const isWhole = proxy.passed < bytes;
      if (!isWhole) expect(exit).not.toBe(0);
      if (exit !== 0) continue;
      complete += 1;
      if (args.at(-1) === path('out')) expect((await readFile(path('out'))).equals(content)).toBe(true);
    }
    expect(complete).toBeGreaterThan(0);
    expect(failures).toEqual([]);
    await until(() => server.connections === 0);
    expect((await qemuContent(server.uri(), 'raw')).equals(content)).toBe(true);
  });
});

describe('a real client that writes over a connection which is cut', () => {
  it.each<[string, (uri: string) => string[]]>([
    ['nbdcopy', (uri) => ['nbdcopy', '--flush', path('in'), uri]],
    ['qemu-img', (uri) => ['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', path('in'), uri]],
    [
      'qemu-io',
      (uri) => ['qemu-io', '-f', 'raw', '-c', `write -s ${path('in')} 0 ${size}`, '-c', 'flush', uri],
    ],
  ])('%s leaves each sector old or new, and the image well', async (_name, command) => {
    const before = await makeDisk();
    const after = pattern(12, size);
    await writeFile(path('in'), after);
    {
      await using disk = await open(path('disk.qcow2'), { mode: 'r+' });
      await using server = await serveNbd(disk, { socket: path('s'), readOnly: false });
      for (const bytes of places(2, size)) {
        await using proxy = await cuttingProxy(path('s'), bytes);
        const [program = '', ...args] = command(`nbd://127.0.0.1:${proxy.port}`);
        expect((await run(program, args, { expectExit: null })).exit).not.toBe(0);
      }
      await until(() => server.connections === 0);
    }
    await expectCleanByQemu(path('disk.qcow2'));
    const left = await qemuContent(path('disk.qcow2'));
    for (let at = 0; at < size; at += 512) {
      const sector = left.subarray(at, at + 512);
      const isKnown =
        sector.equals(before.subarray(at, at + 512)) || sector.equals(after.subarray(at, at + 512));
      expect(isKnown, `sector at ${at}`).toBe(true);
    }
  });
});

describe('openNbd over a connection that is cut', () => {
  it('fails with ERR_QCOW2_REMOTE or has read the right bytes', async () => {
    const content = await makeDisk();
    await using theirs = await qemuNbd(path('s'), ['-r', '-f', 'qcow2', '-e', '4', path('disk.qcow2')]);
    expect(theirs.uri).toContain('unix');
    let whole = 0;
    for (const bytes of [...places(3, size), ...places(4, size).slice(6), 16 * mib]) {
      await using proxy = await cuttingProxy(path('s'), bytes);
      const buffer = Buffer.alloc(size);
      try {
        await using disk = await openNbd(`nbd://127.0.0.1:${proxy.port}`);
        await Promise.all(
          Array.from({ length: 8 }, (_, index) => {
            const part = size / 8;
            return disk.read(buffer.subarray(index * part, (index + 1) * part), index * part);
          }),
        );
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
        continue;
      }
      expect(buffer.equals(content)).toBe(true);
      whole += 1;
    }
    expect(whole).toBeGreaterThan(0);
    await rm(path('s'), { force: true });
  });
});

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 10));
}
