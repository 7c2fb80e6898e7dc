/** Images on servers, named on the command line as qemu-img takes them. */
import { readFile } from 'node:fs/promises';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeCertificates } from '../support/certificates.js';
import { serveFile } from '../support/http-server.js';
import { qemuCompare, qemuImg, qemuIo } from '../support/oracle.js';
import { qemuNbd } from '../support/qemu-nbd.js';
import { useTempDir } from '../support/temp-dir.js';
import { qcow2, qcow2Process, qemuImg as theirs } from './run.js';

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

  const nobody = ['nbd+unix:///?socket=none', 'nbd:unix:none', 'nbd:127.0.0.1:1', 'nbd://127.0.0.1:1/x'];
  it.each([
    ...[...nobody, 'nbd:', 'nbd:foo'].map((name) => `info ${name}`),
    ...nobody.map((name) => `create -q -f qcow2 ${name} 1M`),
  ])('that is not there is named as qemu-img names it: %s', async (line) => {
    expect(await qcow2(line.split(' '), path())).toEqual(await theirs(line.split(' '), path()));
  });

  it('of HTTPS is opened when its certificate is trusted, and refused when not', async () => {
    const certificates = makeCertificates(path('tls'));
    const file = (name: string): Buffer => readFileSync(join(certificates, name));
    const image = await makeImage();
    await using server = await serveFile(readFileSync(image), {
      key: file('server-key.pem'),
      cert: file('server-cert.pem'),
    });
    const convert = ['convert', '-O', 'raw', server.url.href, 'copy.raw'];
    const refused = await qcow2Process(convert, path());
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    expect(refused.stderr).toMatch(/certificate/);
    expect(existsSync(path('copy.raw'))).toBe(false);
    const trusted = { NODE_EXTRA_CA_CERTS: join(certificates, 'ca-cert.pem') };
    expect(await qcow2Process(convert, path(), trusted)).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(await qemuCompare(path('copy.raw'), image, { a: 'raw' })).toMatchObject({ same: true });
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

  it.each([
    '-f qcow2 NAME 1M',
    '-f qcow2 NAME 100M',
    '-f raw NAME 1M',
    '-f qcow2 -o preallocation=metadata NAME 4M',
  ])('lets an image be created in an export, as by qemu-img: create %s', async (line) => {
    const results = [];
    for (const create of [qcow2, theirs]) {
      await qemuImg(['create', '-q', '-f', 'raw', path('export'), '8M']);
      await qemuIo(path('export'), ['write -P 9 0 8M'], { format: 'raw' });
      await using server = await qemuNbd(path('socket'), ['-f', 'raw', path('export')]);
      const words = ['create', ...line.replace('NAME', server.uri).split(' ')];
      const outcome = await create(words, path());
      const info = (await qemuImg(['info', '--output=json', server.uri])).stdout;
      const compared = line.includes('raw') ? readFileSync(path('export')).subarray(0, 512) : info;
      results.push({ outcome, info, compared });
    }
    expect(results[0]).toEqual(results[1]);
  });

  it('refuses a raw image larger than its export, which stays as it was', async () => {
    writeFileSync(path('export'), Buffer.alloc(65536, 7));
    await using server = await qemuNbd(path('socket'), ['-f', 'raw', path('export')]);
    const { code, stderr } = await qcow2(['create', '-q', server.uri, '128k'], path());
    expect(code).toBe(1);
    expect(stderr).toBe(`PROGRAM: ${server.uri}: Cannot grow NBD nodes\nThe export has 65536 bytes.\n`);
    expect(readFileSync(path('export'))).toEqual(Buffer.alloc(65536, 7));
  });

  it('may be named in the old way, with the name of the export behind it', async () => {
    await qemuImg(['create', '-q', '-f', 'raw', path('export'), '8M']);
    await using server = await qemuNbd(path('socket'), ['-x', 'one', '-f', 'raw', path('export')]);
    expect(server.uri).toContain('socket');
    const words = ['measure', '-O', 'qcow2', 'nbd:unix:socket:exportname=one'];
    expect(await qcow2(words, path())).toEqual(await theirs(words, path()));
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
      const format = /^file format: .*$/m.exec((await theirs(['info', ...words], path())).stdout)?.[0];
      expect(info.stdout).toContain(`${String(format)}\nvirtual size: 8 MiB`);
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
