/** Images on servers, named on the command line as qemu-img takes them. */
import { readFile } from 'node:fs/promises';
import { writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { serveFile } from '../support/http-server.js';
import { qemuCompare, qemuImg, qemuIo } from '../support/oracle.js';
import { qemuNbd } from '../support/qemu-nbd.js';
import { useTempDir } from '../support/temp-dir.js';
import { qcow2 } from './run.js';

const path = useTempDir();

async function makeImage(): Promise<string> {
  await qemuImg(['create', '-q', '-f', 'qcow2', path('disk.qcow2'), '16M']);
  await qemuIo(path('disk.qcow2'), ['write -P 1 1M 1M', 'write -z 4M 1M']);
  return path('disk.qcow2');
}

describe('an image on a server', () => {
  it('of NBD is shown, mapped and converted as qemu-img does', async () => {
    const image = await makeImage();
    await using server = await qemuNbd(path('socket'), ['-r', '-f', 'qcow2', image]);
    for (const uri of [server.uri, `nbd:unix:${path('socket')}`]) {
      const info = await qcow2(['info', uri], path());
      expect(info).toMatchObject({ code: 0, stderr: '' });
      expect(info.stdout).toContain(
        'file format: raw\nvirtual size: 16 MiB (16777216 bytes)\ndisk size: unavailable',
      );
    }
    const map = await qcow2(['map', '--output=json', server.uri], path());
    const runs = (text: string): unknown[] =>
      (JSON.parse(text) as Record<string, unknown>[]).map(({ start, length, zero, data }) => ({
        start,
        length,
        zero,
        data,
      }));
    const theirs = (await qemuImg(['map', '--output=json', '-f', 'raw', server.uri])).stdout;
    expect(runs(map.stdout)).toEqual(runs(theirs));
    const copy = await qcow2(['convert', '-O', 'qcow2', server.uri, path('copy.qcow2')], path());
    expect(copy).toMatchObject({ code: 0, stderr: '' });
    expect(await qemuCompare(path('copy.qcow2'), image)).toMatchObject({ same: true });
  });

  it('of HTTP is opened where it is', async () => {
    const image = await makeImage();
    await using server = await serveFile(await readFile(image));
    const info = await qcow2(['info', server.url.href], path());
    expect(info.stdout).toContain('file format: qcow2\nvirtual size: 16 MiB');
    await qcow2(['convert', '-O', 'raw', server.url.href, path('copy.raw')], path());
    expect(await qemuCompare(path('copy.raw'), image, { a: 'raw' })).toMatchObject({ same: true });
    const gone = await qcow2(['info', 'http://127.0.0.1:1/none'], path());
    expect(gone.code).toBe(1);
  });

  it('leads to no file of this machine and to no other server', async () => {
    writeFileSync(path('secret'), 'x'.repeat(65536));
    for (const backing of [path('secret'), 'secret', 'nbd:unix:/tmp/none']) {
      await qemuImg([
        'create',
        '-q',
        '-u',
        '-f',
        'qcow2',
        '-F',
        'raw',
        '-b',
        backing,
        path('evil.qcow2'),
        '64k',
      ]);
      await using server = await serveFile(await readFile(path('evil.qcow2')));
      const { code, stderr } = await qcow2(
        ['convert', '-O', 'raw', server.url.href, path('out.raw')],
        path(),
      );
      expect(code).toBe(1);
      expect(stderr).toContain('was not opened');
    }
  });

  it('that is not there is named', async () => {
    const { code, stderr } = await qcow2(['info', `nbd+unix:///?socket=${path('none')}`], path());
    expect(code).toBe(1);
    expect(stderr).toContain('ENOENT');
    expect((await qcow2(['info', 'nbd:'], path())).code).toBe(1);
  });
});

describe('an NBD server', () => {
  it.each([
    ['raw', []],
    ['raw', ['-n']],
    ['qcow2', []],
  ] as const)('takes a %s image %s, as from qemu-img', async (format, options) => {
    const image = await makeImage();
    await qemuImg(['create', '-q', '-f', 'raw', path('export'), '32M']);
    await qemuIo(path('export'), ['write -P 9 0 32M'], { format: 'raw' });
    {
      await using server = await qemuNbd(path('socket'), ['-f', 'raw', path('export')]);
      const copy = await qcow2(['convert', ...options, '-O', format, image, server.uri], path());
      expect(copy).toEqual({ code: 0, stdout: '', stderr: '' });
    }
    // What is past the end of the image is not compared.
    const reads = ['read -P 0 0 1M', 'read -P 1 1M 1M', 'read -P 0 2M 14M'];
    const { stdout } = await qemuIo(path('export'), reads, { format });
    expect(stdout).not.toContain('failed');
    if (format === 'qcow2') await qemuImg(['check', '-q', '-f', 'qcow2', path('export')]);
  });

  it('is named by options, and a target too small is refused untouched', async () => {
    const image = await makeImage();
    await qemuImg(['create', '-q', '-f', 'raw', path('export'), '8M']);
    await using server = await qemuNbd(path('socket'), ['-x', 'one', '-f', 'raw', path('export')]);
    expect(server.uri).toContain('socket');
    const options = `server.type=unix,server.path=${path('socket')},export=one`;
    const json = {
      driver: 'raw',
      file: { driver: 'nbd', server: { type: 'unix', path: path('socket') }, export: 'one' },
    };
    const prefixed = options.replaceAll(/(^|,)/g, '$1file.');
    for (const words of [
      ['--image-opts', `driver=nbd,${options}`],
      ['--image-opts', `driver=raw,file.driver=nbd,${prefixed}`],
      [`json:${JSON.stringify(json)}`],
    ]) {
      const info = await qcow2(['info', ...words], path());
      expect(info).toMatchObject({ code: 0, stderr: '' });
      expect(info.stdout).toContain('file format: raw\nvirtual size: 8 MiB');
    }
    const target = `driver=raw,file.driver=nbd,${prefixed}`;
    const small = await qcow2(['convert', '-n', '--target-image-opts', image, target], path());
    expect(small).toEqual({
      code: 1,
      stdout: '',
      stderr: 'PROGRAM: output file is smaller than input file\n',
    });
    const unknown = await qcow2(['info', '--image-opts', `driver=nbd,${options},foo=1`], path());
    expect(unknown.stderr).toContain("Block protocol 'nbd' doesn't support the option 'foo'");
  });
});

describe('options that name a server of HTTP', () => {
  it('open it, also in json:', async () => {
    await using server = await serveFile(await readFile(await makeImage()));
    const url = server.url.href;
    for (const words of [
      ['--image-opts', `driver=qcow2,file.driver=http,file.url=${url}`],
      [`json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'http', url } })}`],
    ]) {
      expect((await qcow2(['info', ...words], path())).stdout).toContain(
        'file format: qcow2\nvirtual size: 16 MiB',
      );
    }
    const wrong = await qcow2(['info', '--image-opts', `driver=https,url=${url}`], path());
    expect(wrong.stderr).toContain(`https curl driver cannot handle the URL '${url}'`);
    const written = await qcow2(['convert', '-O', 'raw', path('disk.qcow2'), url], path());
    expect(written.stderr).toContain('servers are read-only here');
  });
});
