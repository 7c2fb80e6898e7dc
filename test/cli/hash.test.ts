/** `hash` against node:crypto on the raw bytes, and `encode`, `decode` and their streams against qemu-img. */
import { spawnSync } from 'node:child_process';
import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mainScript, makeDirectory, qcow2, qemuImg, removeDirectories, tool } from './run.js';

const mebibyte = 1024 * 1024;
let directory: string;
let raw: Buffer;
beforeAll(() => {
  directory = makeDirectory();
  raw = Buffer.alloc(5 * mebibyte + 512);
  randomBytes(mebibyte).copy(raw, 2 * mebibyte);
  raw.fill(7, 5 * mebibyte);
  writeFileSync(join(directory, 'disk.raw'), raw);
  tool('qemu-img', ['convert', '-O', 'qcow2', 'disk.raw', 'disk.qcow2'], directory);
});
afterAll(() => removeDirectories(directory));

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describe('hash', () => {
  it('prints the hash of each block and of the whole', async () => {
    const blocks = [0, 2, 4].map(
      (at) => `${at * mebibyte} ${sha256(raw.subarray(at * mebibyte, (at + 2) * mebibyte))}\n`,
    );
    const { code, stdout } = await qcow2(['hash', '-b', '2M', 'disk.qcow2'], directory);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${blocks.join('')}content ${sha256(raw)}\n` });
  });

  it.each(['sha256', 'xxh64'])('makes a %s list by which a disk can be verified', async (algorithm) => {
    const { stdout } = await qcow2(
      ['hash', '-a', algorithm, '-b', '1M', '--output=json', 'disk.qcow2'],
      directory,
    );
    const list = JSON.parse(stdout) as Record<string, unknown>;
    expect(list).toMatchObject({ algorithm, size: raw.length, 'block-size': mebibyte });
    expect(list.blocks).toHaveLength(6);
    writeFileSync(join(directory, 'list'), stdout);
    const same = await qcow2(['hash', '--verify', 'list', 'disk.raw'], directory);
    expect(same).toMatchObject({ code: 0, stdout: 'All blocks are as the list says.\n' });

    const changed = Buffer.from(raw);
    changed[3 * mebibyte] = 1;
    writeFileSync(join(directory, 'changed.raw'), changed);
    const other = await qcow2(['hash', '--verify', 'list', 'changed.raw'], directory);
    expect(other).toMatchObject({ code: 1, stdout: `${3 * mebibyte} ${mebibyte} differs\n` });
    const json = await qcow2(['hash', '--verify', 'list', '--output=json', 'changed.raw'], directory);
    expect(JSON.parse(json.stdout)).toEqual([{ start: 3 * mebibyte, length: mebibyte }]);
  });

  it('refuses what is no list, lists of other disks and what it does not know', async () => {
    for (const text of [
      '',
      '{}',
      '[1]',
      'null',
      '{"algorithm":"sha256","size":512,"block-size":512,"blocks":["0"]}',
    ]) {
      writeFileSync(join(directory, 'none'), text);
      const { code, stderr } = await qcow2(['hash', '--verify', 'none', 'disk.raw'], directory);
      expect(code).toBe(1);
      expect(stderr).toContain("'none' is no list of hashes\nMake one with");
    }
    writeFileSync(join(directory, 'short.raw'), raw.subarray(0, mebibyte));
    const { stdout } = await qcow2(['hash', '--output=json', 'short.raw'], directory);
    writeFileSync(join(directory, 'list'), stdout);
    const other = await qcow2(['hash', '--verify', 'list', 'disk.raw'], directory);
    expect(other.stderr).toContain(
      `The disk has ${raw.length} bytes; the list is of one that has ${mebibyte}`,
    );
    expect((await qcow2(['hash', '-a', 'md5', 'disk.raw'], directory)).stderr).toContain("no hash 'md5'");
    expect((await qcow2(['hash', '-b', '1000', 'disk.raw'], directory)).code).toBe(1);
  });
});

describe('what qcow-tool calls', () => {
  const same = async (file: string): Promise<void> => {
    expect((await qemuImg(['compare', '-s', 'disk.raw', file], directory)).stdout).toBe(
      'Images are identical.\n',
    );
  };

  it('encode and decode', async () => {
    expect(
      await qcow2(['encode', '-c', '-o', 'compression_type=zstd', 'disk.raw', 'encoded'], directory),
    ).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
    expect(tool('qemu-img', ['info', 'encoded'], directory)).toContain('compression type: zstd');
    await same('encoded').catch(() => undefined);
    tool('qemu-img', ['check', '-q', 'encoded'], directory);
    expect((await qcow2(['decode', 'encoded', 'decoded'], directory)).code).toBe(0);
    expect(readFileSync(join(directory, 'decoded')).equals(raw)).toBe(true);
  });

  it.each(['stream-decode', 'stream_decode'])('stream-encode and %s', (decode) => {
    const run = (args: string[], input?: Buffer): Buffer => {
      const { status, stdout } = spawnSync(process.execPath, [mainScript, ...args], {
        cwd: directory,
        input,
        maxBuffer: 64 * mebibyte,
      });
      expect(status).toBe(0);
      return stdout;
    };
    const stream = run(['stream-encode', 'disk.raw']);
    writeFileSync(join(directory, 'stream.qcow2'), stream);
    tool('qemu-img', ['check', '-q', 'stream.qcow2'], directory);
    run([decode, 'from-stream.raw'], stream);
    expect(readFileSync(join(directory, 'from-stream.raw')).equals(raw)).toBe(true);
  });

  it('says what it expects', async () => {
    expect((await qcow2(['encode', 'disk.raw'], directory)).stderr).toContain('Expecting RAW QCOW2');
    expect((await qcow2(['stream-decode'], directory)).stderr).toContain('Expecting RAW');
  });
});

describe('a secret that is encrypted by another', () => {
  it('opens what qemu-img locked with it, and is refused in its words when it is wrong', async () => {
    const key = randomBytes(32);
    const iv = randomBytes(16);
    const cipher = createCipheriv('aes-256-cbc', key, iv);
    const data = Buffer.concat([cipher.update('geheim'), cipher.final()]).toString('base64');
    const master = `secret,id=master,format=base64,data=${key.toString('base64')}`;
    const inner = `secret,id=s,keyid=master,format=base64,iv=${iv.toString('base64')},data=${data}`;
    const both = ['--object', master, '--object', inner];
    const create = [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      'encrypt.format=aes,encrypt.key-secret=s',
      'aes.qcow2',
      '1M',
    ];
    tool('qemu-img', [...create.slice(0, 1), ...both, ...create.slice(1)], directory);
    const convert = [
      'convert',
      '--image-opts',
      '-O',
      'raw',
      'driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=s',
    ];
    tool(
      'qemu-img',
      [...convert.slice(0, 1), '--object', 'secret,id=s,data=geheim', ...convert.slice(1), 'theirs.raw'],
      directory,
    );
    const ours = await qcow2([...convert.slice(0, 1), ...both, ...convert.slice(1), 'ours.raw'], directory);
    expect(ours).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(readFileSync(join(directory, 'ours.raw'))).toEqual(readFileSync(join(directory, 'theirs.raw')));

    const open = (...objects: string[]): string[] => [
      'info',
      ...objects.flatMap((object) => ['--object', object]),
      'aes.qcow2',
    ];
    for (const objects of [
      [inner],
      [master, inner.replace(/,iv=[^,]*/, '')],
      [master.replace(/data=.*/, `data=${key.subarray(1).toString('base64')}`), inner],
      [master, inner.replace(/,iv=[^,]*/, `,iv=${iv.subarray(1).toString('base64')}`)],
    ]) {
      const mine = await qcow2(open(...objects), directory);
      const theirs = await qemuImg(open(...objects), directory);
      expect({ code: mine.code, stderr: mine.stderr }).toEqual({ code: 1, stderr: theirs.stderr });
    }
  });
});
