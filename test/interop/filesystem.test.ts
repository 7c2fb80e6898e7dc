/**
 * Real input: an ext4 file system made of a real directory tree goes raw -> qcow2 -> raw. The tree is what npm installed
 * here, some hundred MB; QCOW2_TEST_TREE names another one (such as /usr/share) for a longer run.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { convert, open, type ConvertOptions } from '../../lib/index.js';
import { expectCleanByQemu, qemuCompare } from '../support/oracle.js';

const MiB = 2 ** 20;
const tree = process.env.QCOW2_TEST_TREE ?? fileURLToPath(new URL('../../node_modules', import.meta.url));
const environment = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };

async function tool(name: string, ...args: string[]): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(name, args, { env: environment });
    return stdout;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error(`${name} is missing: apt-get install e2fsprogs`, { cause: error });
  }
}

let directory = '';
const at = (name: string): string => join(directory, name);

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'qcow2-fs-'));
  const kilobytes = Number((await tool('du', '-sk', tree)).split('\t')[0]);
  const size = Math.ceil((kilobytes * 1.4) / 1024) + 64;
  await tool('mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-d', tree, at('disk.raw'), `${size}M`);
}, 600_000);

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

describe('an ext4 file system of real files', () => {
  it.each<[string, Omit<ConvertOptions, 'targetFormat'>]>([
    ['plain', {}],
    ['compressed', { compress: true }],
  ])(
    'survives raw -> qcow2 -> raw byte for byte: %s',
    async (name, options) => {
      await convert(at('disk.raw'), at(name), { targetFormat: 'qcow2', durable: false, ...options });
      await expectCleanByQemu(at(name));
      expect((await qemuCompare(at('disk.raw'), at(name), { a: 'raw' })).output).toContain('identical');
      await convert(at(name), at('back.raw'), { targetFormat: 'raw', durable: false });
      await tool('cmp', at('disk.raw'), at('back.raw'));
      await tool('e2fsck', '-fn', at('back.raw'));
    },
    300_000,
  );

  it('is sound and can use the room after the image was grown', async () => {
    const disk = await open(at('plain'), { mode: 'r+' });
    const size = disk.size + 200 * MiB;
    await disk.resize(size);
    await disk.close();
    await expectCleanByQemu(at('plain'));
    expect(await convert(at('plain'), at('grown.raw'), { targetFormat: 'raw', durable: false })).toEqual({
      size,
    });
    await tool('e2fsck', '-fn', at('grown.raw'));
    await tool('resize2fs', at('grown.raw'));
    await tool('e2fsck', '-fn', at('grown.raw'));
    expect(await tool('dumpe2fs', '-h', at('grown.raw'))).toContain(
      `Block count:              ${size / 4096}`,
    );
    // And the file system that has grown goes back into an image.
    await convert(at('grown.raw'), at('grown'), { targetFormat: 'qcow2', durable: false });
    await expectCleanByQemu(at('grown'));
    expect((await qemuCompare(at('grown.raw'), at('grown'), { a: 'raw' })).output).toContain('identical');
  }, 300_000);
});
