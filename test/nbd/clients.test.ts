/** The NBD server under the clients people use: libnbd's and QEMU's. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open, openDisk, openTemporaryOverlay } from '../../lib/index.js';
import { openNbd, serveNbd } from '../../lib/nbd/index.js';
import { makeCertificates } from '../support/certificates.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuCompare, qemuContent, qemuImg, qemuIo, run } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { qemuNbd } from '../support/qemu-nbd.js';
import { useTempDir } from '../support/temp-dir.js';

const mib = 1024 * 1024;
const path = useTempDir();

/** An image made by QEMU from a disk with a bit of everything. */
async function makeImage(name: string, size: number): Promise<Buffer> {
  const content = mixedDisk(7, size);
  const disk = await create(path(name), size);
  await disk.write(content.read(0, size), 0);
  await disk.close();
  return content.read(0, size);
}

describe('libnbd', () => {
  it('sees what the server can do', async () => {
    await makeImage('disk.qcow2', 2 * mib);
    await using disk = await open(path('disk.qcow2'), { mode: 'r+' });
    const exports = [
      { name: 'one', disk, readOnly: false, description: 'for writing' },
      { name: 'tvö', disk },
    ];
    await using server = await serveNbd(exports, { socket: path('socket') });
    const one = JSON.parse((await run('nbdinfo', ['--json', server.uri()])).stdout) as Record<
      string,
      unknown
    >;
    expect(one).toMatchObject({ protocol: 'newstyle-fixed', structured: true, TLS: false });
    expect((one.exports as unknown[])[0]).toMatchObject({
      'export-name': 'one',
      'export-size': 2 * mib,
      description: 'for writing',
      contexts: ['base:allocation', 'qemu:allocation-depth'],
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 65536,
      block_size_maximum: 32 * mib,
    });
    const list = JSON.parse((await run('nbdinfo', ['--json', '--list', server.uri('')])).stdout) as {
      exports: Record<string, unknown>[];
    };
    expect(list.exports.map((each) => each['export-name'])).toEqual(['one', 'tvö']);
    expect((await run('nbdinfo', ['--is', 'read-only', server.uri('tvö')])).exit).toBe(0);
    expect((await run('nbdinfo', [server.uri('three')], { expectExit: null })).exit).toBe(1);
  });

  it('maps like qemu-nbd, the dirty bitmap too', async () => {
    await makeImage('disk.qcow2', 16 * mib);
    await qemuImg(['bitmap', '--add', '-f', 'qcow2', path('disk.qcow2'), 'b']);
    await qemuIo(path('disk.qcow2'), ['write -P 1 3M 70k', 'write -z 8M 1M']);
    const maps = async (uri: string): Promise<string[]> =>
      Promise.all(
        ['base:allocation', 'qemu:dirty-bitmap:b'].map(
          async (context) => (await run('nbdinfo', ['--json', `--map=${context}`, uri])).stdout,
        ),
      );
    await using theirs = await qemuNbd(path('theirs'), ['-r', '-f', 'qcow2', '-B', 'b', path('disk.qcow2')]);
    const expected = await maps(theirs.uri);
    await using disk = await open(path('disk.qcow2'), { lock: false });
    await using server = await serveNbd(disk, { socket: path('ours'), bitmaps: ['b'] });
    expect(merged(await maps(server.uri()))).toEqual(merged(expected));
  });

  it.each([{}, { connections: '4' }])(
    'copies out all and in all, over TCP too %j',
    async ({ connections }) => {
      const content = await makeImage('disk.qcow2', 40 * mib + 512);
      const flags = connections === undefined ? [] : ['-C', connections, '--request-size=65536'];
      {
        await using disk = await open(path('disk.qcow2'));
        await using server = await serveNbd(disk, { port: 0 });
        await run('nbdcopy', [...flags, server.uri(), path('out.raw')]);
      }
      expect((await readFile(path('out.raw'))).equals(content)).toBe(true);
      {
        await using copy = await create(path('copy.qcow2'), content.length);
        await using server = await serveNbd(copy, { port: 0, readOnly: false });
        await run('nbdcopy', ['--flush', ...flags, path('out.raw'), server.uri()]);
      }
      await expectCleanByQemu(path('copy.qcow2'));
      expect((await qemuContent(path('copy.qcow2'))).equals(content)).toBe(true);
    },
  );
});

/** Maps as JSON, with neighbours of one type joined. */
function merged(maps: readonly string[]): unknown[] {
  interface Run {
    offset: number;
    length: number;
    type: number;
  }
  return maps.map((map) => {
    const runs: Run[] = [];
    for (const each of JSON.parse(map) as Run[]) {
      const last = runs.at(-1);
      if (last?.type === each.type) last.length += each.length;
      else runs.push({ offset: each.offset, length: each.length, type: each.type });
    }
    return runs;
  });
}

describe('QEMU', () => {
  it('reads, writes, zeroes, discards and flushes', async () => {
    const content = await makeImage('disk.qcow2', 8 * mib);
    {
      await using disk = await open(path('disk.qcow2'), { mode: 'r+' });
      await using server = await serveNbd(disk, { socket: path('socket'), readOnly: false });
      expect((await qemuContent(server.uri(), 'raw')).equals(content)).toBe(true);
      await qemuIo(
        server.uri(),
        [
          'write -P 1 1M 1M',
          'write -f -P 2 3000 5000',
          'write -z 4M 1M',
          'discard 6M 1M',
          'flush',
          'read -P 1 1M 1M',
        ],
        { format: 'raw' },
      );
    }
    await qemuIo(path('disk.qcow2'), [
      'read -P 1 1M 1M',
      'read -P 2 3000 5000',
      'read -P 0 4M 1M',
      'read -P 0 6M 1M',
    ]);
    await expectCleanByQemu(path('disk.qcow2'));
  });

  it('converts from and to the server, and compares over it', async () => {
    await makeImage('disk.qcow2', 8 * mib);
    await using disk = await open(path('disk.qcow2'));
    await using server = await serveNbd(disk, { socket: path('socket') });
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', server.uri(), path('copy.qcow2')]);
    expect(await qemuCompare(path('disk.qcow2'), path('copy.qcow2'))).toMatchObject({ same: true });
    expect(await qemuCompare(server.uri(), path('copy.qcow2'), { a: 'raw' })).toMatchObject({ same: true });
    await using target = await create(path('target.qcow2'), 8 * mib);
    await using second = await serveNbd(target, { socket: path('target'), readOnly: false });
    await qemuImg(['convert', '-n', '-f', 'qcow2', '-O', 'raw', path('copy.qcow2'), second.uri()]);
    expect(await qemuCompare(server.uri(), second.uri(), { a: 'raw', b: 'raw' })).toMatchObject({
      same: true,
    });
  });

  it('runs on a raw disk, which keeps its holes', async () => {
    await qemuImg(['create', '-q', '-f', 'raw', path('disk.raw'), '64M']);
    {
      const { disk } = await openDisk(path('disk.raw'), { format: 'raw', mode: 'r+' });
      await using server = await serveNbd(disk, { socket: path('socket'), readOnly: false });
      await qemuIo(server.uri(), ['write -P 3 0 4M', 'discard 1M 1M', 'write -z -u 2M 1M'], {
        format: 'raw',
      });
      const { stdout } = await run('nbdinfo', ['--map', '--totals', server.uri()]);
      expect(stdout).toMatch(/^ *2097152 .* data$/m);
      await disk.close();
    }
    await qemuIo(path('disk.raw'), ['read -P 3 0 1M', 'read -P 0 1M 2M', 'read -P 3 3M 1M'], {
      format: 'raw',
    });
  });

  it('writes to a temporary overlay and leaves the image alone', async () => {
    const content = await makeImage('disk.qcow2', 8 * mib);
    const before = readFileSync(path('disk.qcow2'));
    await using overlay = await openTemporaryOverlay(await open(path('disk.qcow2')), { directory: path() });
    await using server = await serveNbd(overlay, { socket: path('socket'), readOnly: false });
    const changed = Buffer.from(content);
    changed
      .fill(1, mib, 2 * mib)
      .fill(0, 3 * mib, 4 * mib)
      .fill(5, 5 * mib + 1000, 5 * mib + 3000);
    await qemuIo(server.uri(), ['write -P 1 1M 1M', 'write -z 3M 1M', 'write -P 5 5243880 2000', 'flush'], {
      format: 'raw',
    });
    expect((await qemuContent(server.uri(), 'raw')).equals(changed)).toBe(true);
    expect(readFileSync(path('disk.qcow2')).equals(before)).toBe(true);
  });

  it('is told ENOSPC when the overlay is full, and what is there stays readable', async () => {
    const base = await create(path('disk.qcow2'), 64 * mib);
    await using overlay = await openTemporaryOverlay(base, { memory: true, maxBytes: 2 * mib });
    await using server = await serveNbd(overlay, { socket: path('socket'), readOnly: false });
    await qemuIo(server.uri(), ['write -P 1 0 1M'], { format: 'raw' });
    const full = await qemuIo(server.uri(), ['write -P 2 8M 4M'], { format: 'raw', expectExit: null });
    expect(full.stdout + full.stderr).toContain('No space left on device');
    await qemuIo(server.uri(), ['read -P 1 0 1M'], { format: 'raw' });
  });
});

describe('TLS', () => {
  it('serves those who have a certificate, and nobody in the clear', async () => {
    const certificates = makeCertificates(path('pki'));
    const other = makeCertificates(path('other-pki'));
    const file = (name: string): Buffer => readFileSync(`${certificates}/${name}.pem`);
    const content = await makeImage('disk.qcow2', 4 * mib);
    await using disk = await open(path('disk.qcow2'));
    await using server = await serveNbd(disk, {
      port: 0,
      tls: {
        cert: file('server-cert'),
        key: file('server-key'),
        ca: file('ca-cert'),
        requestCert: true,
        rejectUnauthorized: true,
      },
    });
    const uri = server.uri().replace('127.0.0.1', 'localhost');
    const withKeys = (keys: string): string => `${uri}?tls-certificates=${keys}`;
    await run('nbdcopy', [withKeys(certificates), path('out.raw')]);
    expect((await readFile(path('out.raw'))).equals(content)).toBe(true);
    const refused = async (target: string): Promise<number> =>
      (await run('nbdinfo', [target], { expectExit: null })).exit;
    expect(await refused(withKeys(other))).toBe(1);
    expect(await refused(uri.replace('nbds:', 'nbd:'))).toBe(1);
    const { port } = server.address as { port: number };
    const image = ['driver=nbd', 'host=localhost', `port=${port}`, 'tls-creds=t'].join(',');
    const credentials = `tls-creds-x509,id=t,endpoint=client,dir=${certificates}`;
    const { stdout } = await qemuImg(['info', '--object', credentials, '--image-opts', image]);
    expect(stdout).toContain(`(${4 * mib} bytes)`);
    expect(await run('nbdinfo', [withKeys(certificates)])).toMatchObject({ exit: 0 });

    const mine = { ca: file('ca-cert'), cert: file('client-cert'), key: file('client-key') };
    await (await openNbd(uri, { tls: mine })).close();
    await expect(openNbd(uri, { tls: { ca: mine.ca } })).rejects.toThrow(
      /certificate required.*tls\.cert and tls\.key/,
    );
    const theirs = (name: string): Buffer => readFileSync(`${other}/${name}.pem`);
    const stranger = { ...mine, cert: theirs('client-cert'), key: theirs('client-key') };
    await expect(openNbd(uri, { tls: stranger })).rejects.toThrow(/tls\.cert and tls\.key/);
  });

  it('needs no certificate from clients, who check that of the server', async () => {
    const certificates = makeCertificates(path('pki'));
    const other = makeCertificates(path('other-pki'));
    const content = await makeImage('disk.qcow2', 2 * mib);
    // All that a client needs, in a directory of its own.
    for (const [from, to] of [
      [certificates, 'trusting'],
      [other, 'mistrusting'],
    ] as const) {
      await mkdir(path(to));
      await copyFile(`${from}/ca-cert.pem`, path(`${to}/ca-cert.pem`));
    }
    await using disk = await open(path('disk.qcow2'));
    const [cert, key] = ['server-cert', 'server-key'].map((name) =>
      readFileSync(`${certificates}/${name}.pem`),
    );
    await using server = await serveNbd(disk, { port: 0, tls: { cert, key } });
    const uri = server.uri().replace('127.0.0.1', 'localhost');
    await run('nbdcopy', [`${uri}?tls-certificates=${path('trusting')}`, path('out.raw')]);
    expect((await readFile(path('out.raw'))).equals(content)).toBe(true);
    const refused = await run('nbdinfo', [`${uri}?tls-certificates=${path('mistrusting')}`], {
      expectExit: null,
    });
    expect(refused).toMatchObject({ exit: 1 });
    await (await openNbd(uri, { tls: { ca: readFileSync(path('trusting/ca-cert.pem')) } })).close();
    const wrong = openNbd(uri, { tls: { ca: readFileSync(path('mistrusting/ca-cert.pem')) } });
    await expect(wrong).rejects.toThrow(/the certificate of the server is not trusted .*tls\.ca/);
    await expect(wrong).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
    const named = { ca: readFileSync(path('trusting/ca-cert.pem')), servername: 'elsewhere.example' };
    await expect(openNbd(uri, { tls: named })).rejects.toThrow(/for another name/);
  });

  it('takes a key that both sides know in place of certificates', async () => {
    const content = await makeImage('disk.qcow2', 2 * mib);
    const psk = pattern(5, 32);
    await writeFile(path('keys.psk'), `alice:${psk.toString('hex')}\n`);
    await using disk = await open(path('disk.qcow2'));
    await using server = await serveNbd(disk, {
      port: 0,
      tls: {
        ciphers: 'PSK',
        maxVersion: 'TLSv1.2',
        pskCallback: (_, user) => (user === 'alice' ? psk : null),
      },
    });
    const uri = server.uri().replace('127.0.0.1', 'localhost');
    const asAlice = uri.replace('nbds://', 'nbds://alice@');
    await run('nbdcopy', [`${asAlice}?tls-psk-file=${path('keys.psk')}`, path('out.raw')]);
    expect((await readFile(path('out.raw'))).equals(content)).toBe(true);
    const as = (identity: string) => ({
      ciphers: 'PSK',
      maxVersion: 'TLSv1.2' as const,
      checkServerIdentity: () => undefined,
      pskCallback: () => ({ identity, psk }),
    });
    await (await openNbd(uri, { tls: as('alice') })).close();
    await expect(openNbd(uri, { tls: as('mallory') })).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
  });
});

async function runAndKill(milliseconds: number, [tool = '', ...args]: readonly string[]): Promise<void> {
  const child = spawn(tool, args, { stdio: 'ignore' });
  const timer = setTimeout(() => child.kill('SIGKILL'), milliseconds);
  await once(child, 'exit');
  clearTimeout(timer);
}

describe('a connection that is cut', () => {
  it('by the client leaves the server, the other clients and the image well', async () => {
    const data = pattern(3, mib);
    await writeFile(path('input'), pattern(4, 32 * mib));
    {
      await using disk = await create(path('disk.qcow2'), 64 * mib);
      await using server = await serveNbd(disk, { socket: path('socket'), readOnly: false });
      await disk.write(data, 0);
      await disk.flush();
      await Promise.all(
        Array.from({ length: 12 }, async (_, index) => {
          await runAndKill(20 * (index + 1), ['nbdcopy', path('input'), server.uri()]);
          await runAndKill(20 * (index + 1), ['nbdcopy', server.uri(), 'null:']);
        }),
      );
      await disk.write(data, 0);
      expect((await run('nbdinfo', [server.uri()])).exit).toBe(0);
    }
    await expectCleanByQemu(path('disk.qcow2'));
    expect((await qemuContent(path('disk.qcow2'))).subarray(0, mib).equals(data)).toBe(true);
  });
});
