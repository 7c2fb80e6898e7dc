/** `qcow2 serve`: what a client wrote and flushed is there whatever becomes of the program. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { makeCertificates } from '../support/certificates.js';
import { expectCleanByQemu, qemuImg, qemuIo, run } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';
import { mainScript, qcow2 } from './run.js';

const path = useTempDir();
const raw = { format: 'raw' };
let child: ChildProcess | null = null;

/** Starts the program and waits for the URI that it prints. */
async function serve(...args: readonly string[]): Promise<string> {
  const started = spawn(process.execPath, [mainScript, 'serve', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  child = started;
  const [line] = (await once(started.stdout, 'data')) as [Buffer];
  return line.toString().trim();
}

async function end(signal: NodeJS.Signals): Promise<number | null> {
  const ended = child;
  child = null;
  if (ended === null) return null;
  ended.kill(signal);
  await once(ended, 'exit');
  return ended.exitCode;
}

afterEach(async () => {
  await end('SIGKILL');
});

async function makeImage(): Promise<string> {
  await qemuImg(['create', '-q', '-f', 'qcow2', path('disk.qcow2'), '64M']);
  await qemuIo(path('disk.qcow2'), ['write -P 5 1M 1M']);
  return path('disk.qcow2');
}

describe('qcow2 serve', () => {
  it('lets clients only read unless told otherwise, and ends cleanly', async () => {
    const image = await makeImage();
    const before = readFileSync(image);
    const uri = await serve('-k', path('socket'), '-x', 'disk', '-D', 'a disk', image);
    expect((await run('nbdinfo', [uri])).stdout).toContain('is_read_only: true');
    await qemuIo(uri, ['read -P 5 1M 1M'], { ...raw, flags: ['-r'] });
    expect(await end('SIGINT')).toBe(0);
    expect(existsSync(path('socket'))).toBe(false);
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('has everything in the image after %s', async (signal) => {
    const image = await makeImage();
    const uri = await serve('-w', '-p', '0', image);
    await qemuIo(uri, ['write -P 6 3M 1M'], raw);
    expect(await end(signal)).toBe(0);
    await expectCleanByQemu(image);
    await qemuIo(image, ['read -P 5 1M 1M', 'read -P 6 3M 1M']);
  });

  it('has what was flushed in the image after SIGKILL', async () => {
    const image = await makeImage();
    const uri = await serve('--writable', '-k', path('socket'), image);
    await qemuIo(uri, ['write -P 6 3M 1M', 'write -z 1M 64k', 'flush', 'write -f -P 7 8M 64k'], raw);
    const filling = spawn('qemu-io', ['-f', 'raw', '-c', 'write -P 8 16M 32M', uri], { stdio: 'ignore' });
    await new Promise((resolve) => setTimeout(resolve, 50));
    await end('SIGKILL');
    filling.kill('SIGKILL');
    const { exit } = await qemuImg(['check', '-q', image], { expectExit: null });
    expect([0, 3]).toContain(exit);
    await qemuIo(image, ['read -P 6 3M 1M', 'read -P 0 1M 64k', 'read -P 7 8M 64k']);
  });

  it('throws changes away with --snapshot', async () => {
    const image = await makeImage();
    const before = readFileSync(image);
    const uri = await serve('--snapshot', '-k', path('socket'), image);
    await qemuIo(uri, ['write -P 6 1M 1M', 'flush', 'read -P 6 1M 1M'], raw);
    expect(await end('SIGTERM')).toBe(0);
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  it('shows bitmaps, and takes TLS certificates as QEMU does', async () => {
    const image = await makeImage();
    await qemuImg(['bitmap', '--add', '-f', 'qcow2', image, 'b']);
    const pki = makeCertificates(path('pki'));
    const given = await serve('-p', '0', '-B', 'b', '--tls-certificates', pki, image);
    const uri = `${given.replace('127.0.0.1', 'localhost')}?tls-certificates=${pki}`;
    expect((await run('nbdinfo', [uri])).stdout).toContain('qemu:dirty-bitmap:b');
  });

  it.each([
    [['-p', 'x'], "Invalid port 'x'"],
    [['-e', '0'], "Invalid number of clients '0'"],
    [['-s', '-w'], '--snapshot and --writable exclude each other'],
    [['-s', '-B', 'b'], '--bitmap needs the image itself'],
    [['-B', 'none'], 'There is no bitmap "none" to serve'],
    [['--tls-certificates', '/none'], 'Could not read the certificates'],
  ])('refuses %j', async (args, message) => {
    const { code, stderr } = await qcow2(['serve', ...args, await makeImage()], path());
    expect(code).toBe(1);
    expect(stderr).toContain(message);
  });
});
