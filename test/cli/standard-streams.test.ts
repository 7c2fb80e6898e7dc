/** `convert FILE -` and `convert - FILE`, through real pipes, beside qemu-img. */
import { execFile, spawn } from 'node:child_process';
import { createReadStream, createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuCompare, qemuImg, qemuInfo } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';
import { mainScript } from './run.js';

const path = useTempDir();
const MiB = 2 ** 20;

/** Runs the program with files for standard input and output; gives exit code and what it said. */
async function convert(
  args: readonly string[],
  { input, output }: { input?: string; output?: string } = {},
): Promise<{ code: number | null; said: string }> {
  const child = spawn(process.execPath, [mainScript, 'convert', ...args]);
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const exit = new Promise<number | null>((resolve) => child.once('close', resolve));
  const feeding = input === undefined ? child.stdin.end() : pipeline(createReadStream(input), child.stdin);
  await Promise.allSettled([
    feeding,
    output === undefined ? child.stdout.resume() : pipeline(child.stdout, createWriteStream(output)),
  ]);
  return { code: await exit, said };
}

describe('standard streams', () => {
  it.each([
    [],
    ['-c'],
    ['-o', 'cluster_size=4k,extended_l2=off'],
    ['-c', '-o', 'compression_type=zstd'],
    ['-S', '0'],
  ])('raw to qcow2 on standard output, and back: %j', async (...options: string[]) => {
    const model = mixedDisk(2, 5 * MiB + 512);
    await model.saveAs(path('raw'));
    const out = await convert(['-f', 'raw', '-O', 'qcow2', ...options, path('raw'), '-'], {
      output: path('piped'),
    });
    expect(out).toEqual({ code: 0, said: '' });
    await expectCleanByQemu(path('piped'));
    expect((await qemuCompare(path('raw'), path('piped'), { a: 'raw' })).same).toBe(true);
    const back = await convert(['-O', 'raw', '-', path('back')], { input: path('piped') });
    expect(back).toEqual({ code: 0, said: '' });
    expect((await qemuCompare(path('raw'), path('back'), { a: 'raw', b: 'raw' })).same).toBe(true);
  });

  it('only what differs from a backing file, over a restored one', async () => {
    await mixedDisk(3, 4 * MiB).saveAs(path('old'));
    const model = mixedDisk(3, 4 * MiB);
    model.write(Buffer.alloc(100_000, 'new'), MiB);
    await model.saveAs(path('new'));
    const args = ['-f', 'raw', '-O', 'qcow2', '-B', path('old'), '-F', 'raw', path('new'), '-'];
    expect((await convert(args, { output: path('piped') })).code).toBe(0);
    expect((await qemuInfo(path('piped')))['backing-filename']).toBe(path('old'));
    expect((await qemuCompare(path('new'), path('piped'), { a: 'raw' })).same).toBe(true);
    expect(await convert(['-n', '-O', 'raw', '-', path('old')], { input: path('piped') })).toEqual({
      code: 0,
      said: '',
    });
    expect((await qemuCompare(path('new'), path('old'), { a: 'raw', b: 'raw' })).same).toBe(true);
  });

  it('a raw disk on standard output', async () => {
    const model = mixedDisk(4, 3 * MiB);
    await model.saveAs(path('raw'));
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', path('raw'), path('image')]);
    expect((await convert(['-O', 'raw', path('image'), '-'], { output: path('piped') })).code).toBe(0);
    expect((await qemuCompare(path('raw'), path('piped'), { a: 'raw', b: 'raw' })).same).toBe(true);
  });

  it('what was cut off or is no image leaves no file, and a reader that goes away ends it', async () => {
    await mixedDisk(5, 8 * MiB).saveAs(path('raw'));
    await convert(['-f', 'raw', '-O', 'qcow2', path('raw'), '-'], { output: path('piped') });
    await promisify(execFile)('truncate', ['-s', '1M', path('piped')]);
    await writeFile(path('text'), 'no image at all');
    for (const input of ['piped', 'text']) {
      const { code, said } = await convert(['-O', 'raw', '-', path('back')], { input: path(input) });
      expect(code).toBe(1);
      expect(said).toMatch(/^qcow2: /);
    }
    await expect(promisify(execFile)('ls', [path('back')])).rejects.toThrow();
    const head = await promisify(execFile)('bash', [
      '-c',
      'set -o pipefail; "$0" "$1" convert -f raw -O qcow2 "$2" - | head -c 1000 > /dev/null; echo "${PIPESTATUS[0]}"',
      process.execPath,
      mainScript,
      path('raw'),
    ]);
    expect(head.stdout.trim()).toBe('141');
  });

  it.each([
    [['-n', '-O', 'qcow2', 'x', '-'], '-n'],
    [['-p', '-O', 'qcow2', 'x', '-'], '-p'],
    [['-O', 'qcow2', '-', '-'], 'must be a file'],
    [['-f', 'raw', '-O', 'qcow2', '-', 'x'], 'qcow2 image'],
  ])('refuses %j', async (args, word) => {
    const { code, said } = await convert(args);
    expect(code).toBe(1);
    expect(said).toContain(word);
  });
});
