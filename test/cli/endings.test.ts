/** How the program ends when it is interrupted or nobody listens any more. */
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mainScript, makeDirectory, qcow2, removeDirectories, tool } from './run.js';

let directory: string;
beforeAll(() => {
  directory = makeDirectory();
});
afterAll(() => removeDirectories(directory));

describe('the program', () => {
  it('ends without a word when its reader goes away', async () => {
    tool(
      'qemu-img',
      ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', 'stripes.qcow2', '16M'],
      directory,
    );
    const writes = Array.from({ length: 4000 }, (_, index) => ['-c', `write ${index * 4096} 512`]);
    tool('qemu-io', [...writes.flat(), 'stripes.qcow2'], directory);

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
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('takes away its half-written output after %s', async (signal, exitCode) => {
    const target = join(directory, `target-${signal}`);
    const child = await startLongConversion(target);
    child.kill(signal);
    const [code] = (await once(child, 'exit')) as [number | null];
    expect(code).toBe(exitCode);
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
