/** Exports of qemu-nbd and of our own server as disks. */
import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { convert, create, open, openDisk, toQcow2Stream, type Disk } from '../../lib/index.js';
import { NbdStorage, openNbd, serveNbd } from '../../lib/nbd/index.js';
import { makeCertificates } from '../support/certificates.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuContent, qemuImg, qemuIo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { qemuNbd } from '../support/qemu-nbd.js';
import { useTempDir } from '../support/temp-dir.js';

const mib = 1024 * 1024;
const path = useTempDir();

async function makeImage(size: number): Promise<Buffer> {
  const content = mixedDisk(7, size, 0.3).read(0, size);
  await writeFile(path('disk.raw'), content);
  await qemuImg(['convert', '-O', 'qcow2', path('disk.raw'), path('disk.qcow2')]);
  return content;
}

async function contentOf(disk: Disk): Promise<Buffer> {
  const buffer = Buffer.alloc(disk.size);
  await disk.read(buffer, 0);
  return buffer;
}

async function runs(disk: Disk, query = {}): Promise<unknown[]> {
  const list = [];
  for await (const { start, length, type } of disk.extents(query)) {
    list.push([start, length, type === 'data' ? 'data' : 'zero']);
  }
  return list;
}

describe('openNbd on qemu-nbd', () => {
  it('reads everything, and the extents are those of the image', async () => {
    const content = await makeImage(24 * mib);
    await using server = await qemuNbd(path('socket'), ['-r', '-f', 'qcow2', path('disk.qcow2')]);
    await using disk = await openNbd(server.uri);
    expect(disk.size).toBe(content.length);
    expect((await contentOf(disk)).equals(content)).toBe(true);
    const odd = Buffer.alloc(70_001);
    await disk.read(odd, 12_345);
    expect(odd.equals(content.subarray(12_345, 12_345 + odd.length))).toBe(true);
    await using image = await open(path('disk.qcow2'), { lock: false });
    for (const query of [{}, { start: 5 * mib + 100, length: 3 * mib }]) {
      const merged: [number, number, string][] = [];
      for (const run of (await runs(image, query)) as [number, number, string][]) {
        const last = merged.at(-1);
        if (last?.[2] === run[2]) last[1] += run[1];
        else merged.push(run);
      }
      expect(await runs(disk, query)).toEqual(merged);
    }
    await expect(disk.write(Buffer.alloc(512), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await expect(openNbd(server.uri, { mode: 'r+' })).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
  });

  it('writes, zeroes, discards and flushes', async () => {
    const content = await makeImage(24 * mib);
    const data = pattern(3, 5 * mib + 3);
    {
      await using server = await qemuNbd(path('socket'), [
        '--discard=unmap',
        '-f',
        'qcow2',
        path('disk.qcow2'),
      ]);
      await using disk = await openNbd(server.uri, { mode: 'r+' });
      await disk.write(data, mib + 1);
      await disk.writeZeroes(10 * mib, 2 * mib + 7);
      await disk.discard(16 * mib, mib);
      await disk.flush();
    }
    data.copy(content, mib + 1);
    content.fill(0, 10 * mib, 12 * mib + 7).fill(0, 16 * mib, 17 * mib);
    expect((await qemuContent(path('disk.qcow2'))).equals(content)).toBe(true);
    await expectCleanByQemu(path('disk.qcow2'));
  });

  it('takes a full backup and then what a dirty bitmap says', async () => {
    const content = await makeImage(24 * mib);
    await qemuImg(['bitmap', '--add', '-f', 'qcow2', path('disk.qcow2'), 'b']);
    {
      await using server = await qemuNbd(path('socket'), ['-r', '-f', 'qcow2', path('disk.qcow2')]);
      await using disk = await openNbd(server.uri);
      await writeFile(path('full.qcow2'), toQcow2Stream(disk));
    }
    await qemuIo(path('disk.qcow2'), ['write -P 9 3M 100k', 'write -z 20M 1M']);
    content.fill(9, 3 * mib, 3 * mib + 102_400).fill(0, 20 * mib, 21 * mib);
    await using server = await qemuNbd(path('socket2'), ['-r', '-B', 'b', '-f', 'qcow2', path('disk.qcow2')]);
    await using disk = await openNbd(server.uri, { bitmaps: ['b'] });
    const changes = [];
    for await (const run of disk.dirtyExtents('b')) changes.push(run);
    expect(changes).toEqual([
      { start: 3 * mib, length: 131_072 },
      { start: 20 * mib, length: mib },
    ]);
    const backing = { name: 'full.qcow2', format: 'qcow2' } as const;
    await writeFile(path('incremental.qcow2'), toQcow2Stream(disk, { changes, backing }));
    await expectCleanByQemu(path('incremental.qcow2'));
    expect((await qemuContent(path('incremental.qcow2'))).equals(content)).toBe(true);
    await expect(openNbd(server.uri, { bitmaps: ['c'] })).rejects.toMatchObject({
      code: 'ERR_QCOW2_NOT_FOUND',
    });
    await expect(disk.dirtyExtents('c').next()).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
  });

  it('says that the server was killed, to all who wait and all who come', async () => {
    await makeImage(64 * mib);
    await using server = await qemuNbd(path('socket'), ['-r', '-f', 'qcow2', path('disk.qcow2')]);
    const disk = await openNbd(server.uri);
    const reads = Array.from({ length: 30 }, () => disk.read(Buffer.alloc(8 * mib), 0));
    const outcomes = Promise.allSettled(reads);
    server.kill();
    for (const outcome of await outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
    }
    await expect(disk.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
    await disk.close();
  });

  it('goes over TLS, and refuses a server that nobody vouches for', async () => {
    const content = await makeImage(4 * mib);
    const pki = makeCertificates(path('pki'));
    const credentials = `tls-creds-x509,id=t,endpoint=server,dir=${pki},verify-peer=on`;
    const args = ['-r', '--object', credentials, '--tls-creds', 't', '-f', 'qcow2', path('disk.qcow2')];
    await using server = await qemuNbd(path('socket'), args);
    const file = (name: string): Buffer => readFileSync(`${pki}/${name}.pem`);
    const keys = { cert: file('client-cert'), key: file('client-key') };
    const uri = server.uri.replace('nbd+unix', 'nbds+unix');
    await using disk = await openNbd(uri, { tls: { ...keys, ca: file('ca-cert') } });
    expect((await contentOf(disk)).equals(content)).toBe(true);
    await expect(openNbd(uri, { tls: keys })).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
    await expect(openNbd(server.uri)).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
  });
});

describe('openNbd on our server', () => {
  it('carries a whole disk there and back', async () => {
    const content = await makeImage(24 * mib);
    await using target = await create(path('target.qcow2'), content.length);
    await using server = await serveNbd(target, { port: 0, readOnly: false, name: 'ünder' });
    {
      await using disk = await openNbd(server.uri(), { mode: 'r+' });
      await disk.write(content, 0);
      await disk.writeZeroes(8 * mib, 4 * mib);
      await disk.flush();
      content.fill(0, 8 * mib, 12 * mib);
      expect((await contentOf(disk)).equals(content)).toBe(true);
    }
    await using disk = await openNbd(server.uri());
    await convert(disk, path('copy.qcow2'), { targetFormat: 'qcow2' });
    expect((await qemuContent(path('copy.qcow2'))).equals(content)).toBe(true);
  });

  it('holds a qcow2 image in an export', async () => {
    const content = await makeImage(4 * mib);
    await writeFile(path('room.raw'), await readFile(path('disk.qcow2')));
    const { disk: room } = await openDisk(path('room.raw'), { format: 'raw', mode: 'r+' });
    await room.close();
    await qemuImg(['resize', '-q', '-f', 'raw', path('room.raw'), '16M']);
    const { disk: bytes } = await openDisk(path('room.raw'), { format: 'raw', mode: 'r+' });
    await using server = await serveNbd(bytes, { socket: path('socket'), readOnly: false });
    const storage = new NbdStorage(await openNbd(server.uri(), { mode: 'r+' }));
    const image = await open(storage, { mode: 'r+' });
    await image.write(Buffer.alloc(mib, 5), mib);
    await image.close();
    await storage.close();
    content.fill(5, mib, 2 * mib);
    await server.close();
    await bytes.close();
    expect((await qemuContent(path('room.raw'))).equals(content)).toBe(true);
  });

  it('passes on what the server refuses, by its code', async () => {
    await using disk = await create(path('disk.qcow2'), mib);
    await using server = await serveNbd(disk, { socket: path('socket'), readOnly: false });
    await using client = await openNbd(server.uri(), { mode: 'r+' });
    await disk.resize(mib / 2, { shrink: true });
    await expect(client.write(Buffer.alloc(512), mib - 512)).rejects.toMatchObject({ code: 'ENOSPC' });
    await expect(client.read(Buffer.alloc(512), mib - 512)).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(openNbd(server.uri('other'))).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
  });
});

describe('openNbd on a server that means no good', () => {
  const sockets: Socket[] = [];
  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.destroy();
  });

  /** A server that answers whatever comes with these bytes. */
  async function liar(...answers: readonly Buffer[]): Promise<string> {
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on('error', () => undefined);
      const rest = [...answers];
      socket.write(rest.shift() ?? '');
      // The four bytes of the flags may come alone.
      socket.on('data', (data) => {
        if (data.length > 4) socket.write(rest.shift() ?? '');
      });
    });
    await new Promise<void>((resolve) => server.listen(path('liar'), resolve));
    server.unref();
    return `nbd+unix:///?socket=${path('liar')}`;
  }

  const greeting = Buffer.from('4e42444d4147494349484156454f50540003', 'hex');
  const reply = (option: number, type: number, data = ''): Buffer => {
    const text = `0003e889045565a9${hex32(option)}${hex32(type)}${hex32(data.length / 2)}${data}`;
    return Buffer.from(text, 'hex');
  };
  const hex32 = (value: number): string => value.toString(16).padStart(8, '0');
  const size = '0000000000100000';
  const accepted = [
    greeting,
    reply(8, 1),
    Buffer.concat([reply(10, 4, `00000001${Buffer.from('base:allocation').toString('hex')}`), reply(10, 1)]),
    Buffer.concat([reply(7, 3, `0000${size}0003`), reply(7, 1)]),
  ];
  const chunk = (type: number, payload: string, cookie = 1, flags = '0001'): Buffer =>
    Buffer.from(
      `668e33ef${flags}${type.toString(16).padStart(4, '0')}${hex32(0)}${hex32(cookie)}${hex32(payload.length / 2)}${payload}`,
      'hex',
    );

  it.each([
    ['garbage', [Buffer.from('SSH-2.0-OpenSSH_9.2p1 and more')], 'ERR_QCOW2_REMOTE'],
    [
      'the old handshake',
      [Buffer.from('4e42444d414749430000420281861253'.padEnd(304, '0'), 'hex')],
      'ERR_QCOW2_UNSUPPORTED',
    ],
    ['a reply to another option', [greeting, reply(9, 1)], 'ERR_QCOW2_REMOTE'],
    [
      'a reply without end',
      [greeting, Buffer.from('0003e889045565a90000000800000001ffffffff', 'hex')],
      'ERR_QCOW2_REMOTE',
    ],
    ['no size', [...accepted.slice(0, 3), reply(7, 1)], 'ERR_QCOW2_REMOTE'],
    [
      'impossible block sizes',
      [
        ...accepted.slice(0, 3),
        Buffer.concat([
          reply(7, 3, `0000${size}0003`),
          reply(7, 3, '0003000000030000000300000003'),
          reply(7, 1),
        ]),
      ],
      'ERR_QCOW2_REMOTE',
    ],
    [
      'an export too large',
      [...accepted.slice(0, 3), Buffer.concat([reply(7, 3, '0000ffffffffffffffff0003'), reply(7, 1)])],
      'ERR_QCOW2_UNSUPPORTED',
    ],
  ])('that answers with %s', async (_, answers, code) => {
    await expect(openNbd(await liar(...answers))).rejects.toMatchObject({ code });
  });

  it.each([
    ['no magic', Buffer.alloc(40)],
    ['another cookie', chunk(0, '', 77)],
    ['no data', chunk(0, '')],
    ['data from elsewhere', chunk(1, `0000000000000400${'00'.repeat(512)}`)],
    ['too little data', chunk(1, `0000000000000000${'00'.repeat(511)}`)],
    [
      'a hole twice',
      Buffer.concat([chunk(2, '000000000000000000000200', 1, '0000'), chunk(2, '000000000000000000000200')]),
    ],
    ['a hole too large', chunk(2, '000000000000000000000201')],
    ['a chunk too large', Buffer.from('668e33ef0001800100000000000000017fffffff', 'hex')],
    ['a chunk of no known kind', chunk(99, '00')],
    ['a simple reply', Buffer.from('674466980000000000000000000000010000', 'hex')],
  ])('that answers a read with %s', async (_, answer) => {
    const disk = await openNbd(await liar(...accepted, answer));
    const buffer = Buffer.alloc(512, 7);
    await expect(disk.read(buffer, 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
    await disk.close();
  });

  it('that says nothing any more, or never did', async () => {
    const disk = await openNbd(await liar(...accepted), { timeout: 100 });
    await expect(disk.read(Buffer.alloc(512), 0)).rejects.toThrow('no sign of life for 100 ms');
    await disk.close();
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 20);
    const uri = `nbd+unix:///?socket=${path('liar')}`;
    await expect(openNbd(uri.replace('liar', 'none'))).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
    const mute = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => mute.listen(path('mute'), resolve));
    mute.unref();
    const quiet = `nbd+unix:///?socket=${path('mute')}`;
    await expect(openNbd(quiet, { signal: controller.signal })).rejects.toThrow('enough');
    await expect(openNbd(quiet, { timeout: 50 })).rejects.toThrow('no handshake within 50 ms');
  });

  it.each(['', 'http://x/', 'nbd+unix:///name', 'nbd', 'nbds+tcp://x/'])(
    'and no other URI than NBD: %j',
    async (uri) => {
      await expect(openNbd(uri)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' });
    },
  );
});
