/** Images over HTTP: only what is needed is fetched, and nothing a server does passes for the file. */
import { readFile, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { convert, open } from '../../lib/index.js';
import { HttpStorage, type HttpOptions } from '../../lib/storage/http.js';
import { makeCertificates } from '../support/certificates.js';
import { serveFile, sendRange, type FileServer } from '../support/http-server.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { qemuContent, qemuImg } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const mib = 1024 * 1024;
const path = useTempDir();
const content = pattern(1, 3 * mib + 777);
const quick = { retryDelay: 1 };

let server: FileServer;
beforeEach(async () => {
  server = await serveFile(content);
});
afterEach(async () => {
  await server[Symbol.asyncDispose]();
});

const openFile = (options: HttpOptions = {}): Promise<HttpStorage> =>
  HttpStorage.open(server.url, { ...quick, ...options });

async function read(storage: HttpStorage, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length, 0xee);
  const got = await storage.read(buffer, position);
  return buffer.subarray(0, got);
}

describe('HttpStorage', () => {
  it('reads any range, whatever is in the cache', async () => {
    const storage = await openFile({ cacheBytes: 5 * 65536, maxRequestBytes: 128 * 1024 });
    expect(await storage.size()).toBe(content.length);
    const random = new Random(3);
    await Promise.all(
      Array.from({ length: 200 }, async () => {
        const position = random.below(content.length + 1000);
        const length = random.below(2 ** random.between(0, 20));
        const got = await read(storage, position, length);
        expect(got.equals(content.subarray(position, position + length))).toBe(true);
      }),
    );
    await storage.close();
  });

  it('fetches what is near each other in one request, once, and ahead of one who reads on', async () => {
    const storage = await openFile();
    server.ranges.length = 0;
    await Promise.all([0, 1, 2, 3].map((block) => read(storage, block * 65536 + 5, 100)));
    await read(storage, 3 * 65536, 4096);
    expect(server.ranges).toHaveLength(1);
    server.ranges.length = 0;
    for (let at = mib; at < 3 * mib; at += 4096) await read(storage, at, 4096);
    expect(server.ranges.length).toBeLessThan(8);
    await storage.close();
  });

  it('splits long reads into requests that run side by side', async () => {
    const storage = await openFile({ maxRequestBytes: 256 * 1024, concurrency: 3 });
    const late = (request: IncomingMessage, response: ServerResponse): boolean => {
      setTimeout(() => sendRange(server, request, response), 50);
      return true;
    };
    server.surprises.push(late, late, late, late, late, late);
    expect((await read(storage, 0, content.length)).equals(content)).toBe(true);
    expect(server.mostAtOnce).toBe(3);
    await storage.close();
  });

  it('opens an empty file, and nothing but http: and https:', async () => {
    server.content = Buffer.alloc(0);
    const storage = await openFile();
    expect(await read(storage, 0, 100)).toHaveLength(0);
    await storage.close();
    await expect(HttpStorage.open('ftp://127.0.0.1/file')).rejects.toThrow(TypeError);
    await expect(HttpStorage.open('file:///etc/passwd')).rejects.toThrow(TypeError);
  });

  it('cannot be written to, nor read when it is closed', async () => {
    const storage = await openFile();
    await expect(storage.write()).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await expect(open(server.url, { mode: 'r+' })).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    await storage.close();
    await expect(read(storage, 0, 1)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
  });

  it('speaks TLS, with certificates checked', async () => {
    const pki = makeCertificates(path('pki'));
    const file = (name: string): Buffer => readFileSync(`${pki}/${name}.pem`);
    await using secure = await serveFile(content, { cert: file('server-cert'), key: file('server-key') });
    const storage = await HttpStorage.open(secure.url, { tls: { ca: file('ca-cert') } });
    expect((await read(storage, 5, 5000)).equals(content.subarray(5, 5005))).toBe(true);
    await storage.close();
    // Trying again would not help.
    const distrusting = HttpStorage.open(secure.url, { retries: 1000 });
    await expect(distrusting).rejects.toThrow(/the certificate of the server is not trusted .*tls\.ca/);
    await expect(distrusting).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
  });
});

describe('a qcow2 image behind a URL', () => {
  it('is read and converted like the file, and only the needed ranges are fetched', async () => {
    const disk = mixedDisk(4, 8 * mib, 0.2);
    await writeFile(path('disk.raw'), disk.read(0, 8 * mib));
    await qemuImg(['convert', '-O', 'qcow2', '-c', path('disk.raw'), path('disk.qcow2')]);
    server.content = await readFile(path('disk.qcow2'));
    const image = await open(server.url);
    await image.read(Buffer.alloc(512), 4 * mib);
    expect(server.ranges.length).toBeLessThan(8);
    await image.close();
    await convert(server.url, path('copy.qcow2'), { sourceFormat: 'qcow2', targetFormat: 'qcow2' });
    expect((await qemuContent(path('copy.qcow2'))).equals(disk.read(0, 8 * mib))).toBe(true);
  });
});

describe('a server', () => {
  const status =
    (code: number, headers: Record<string, string> = {}) =>
    (_: unknown, response: ServerResponse): boolean => {
      response.writeHead(code, headers).end('what else there is to say');
      return true;
    };

  it('that is busy or breaks off now and then is asked again', async () => {
    const storage = await openFile();
    server.surprises.push(
      status(503, { 'retry-after': '0' }),
      status(500),
      (request) => {
        request.socket.destroy();
        return true;
      },
      (_, response) => {
        const range = {
          'content-range': `bytes 0-65535/${content.length}`,
          'content-length': '65536',
          etag: '"one"',
        };
        response.writeHead(206, range).write(content.subarray(0, 1000), () => response.destroy());
        return true;
      },
    );
    expect((await read(storage, 0, 100)).equals(content.subarray(0, 100))).toBe(true);
    expect(server.ranges).toHaveLength(1 + 5);
    await storage.close();
  });

  it('that stays busy is given up on', async () => {
    const storage = await openFile({ retries: 2 });
    server.surprises.push(status(503), status(503), status(503));
    await expect(read(storage, 70_000, 100)).rejects.toMatchObject({
      code: 'ERR_QCOW2_REMOTE',
      offset: 65536,
    });
    expect(server.ranges).toHaveLength(1 + 3);
    expect((await read(storage, 70_000, 100)).equals(content.subarray(70_000, 70_100))).toBe(true);
    await storage.close();
  });

  it.each([
    ['without range support', 200, {}, 'ERR_QCOW2_UNSUPPORTED'],
    ['that does not have it', 404, {}, 'ERR_QCOW2_REMOTE'],
    ['that wants to know who asks', 401, {}, 'ERR_QCOW2_REMOTE'],
    ['that does not say which range it sends', 206, {}, 'ERR_QCOW2_REMOTE'],
    ['that sends another range', 206, { 'content-range': 'bytes 1-1/100' }, 'ERR_QCOW2_REMOTE'],
    ['that does not know the length', 206, { 'content-range': 'bytes 0-0/*' }, 'ERR_QCOW2_REMOTE'],
    ['of a file too long', 206, { 'content-range': 'bytes 0-0/9999999999999999' }, 'ERR_QCOW2_REMOTE'],
    [
      'that compresses',
      206,
      { 'content-range': 'bytes 0-0/100', 'content-encoding': 'gzip' },
      'ERR_QCOW2_REMOTE',
    ],
    ['that redirects for ever', 302, { location: '/a/file' }, 'ERR_QCOW2_REMOTE'],
    ['that redirects to a file', 302, { location: 'file:///etc/passwd' }, 'ERR_QCOW2_REMOTE'],
  ])('%s is refused at once', async (_, code, headers, expected) => {
    server.surprises.push(...Array.from({ length: 10 }, () => status(code, headers)));
    await expect(openFile()).rejects.toMatchObject({ code: expected });
    expect(server.ranges.length).toBeLessThanOrEqual(6);
  });

  it('that sends more or less than it says is not believed', async () => {
    const range = { 'content-range': `bytes 0-65535/${content.length}`, etag: '"one"' };
    for (const length of [65535, 65537, 0]) {
      const storage = await openFile({ retries: 1 });
      const wrong = (_: unknown, response: ServerResponse): boolean => {
        response.writeHead(206, range).end(Buffer.alloc(length));
        return true;
      };
      server.surprises.push(wrong, wrong);
      await expect(read(storage, 0, 10)).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
      await storage.close();
    }
  });

  it('that is slow is dropped, however little by little it sends', async () => {
    const storage = await openFile({ timeout: 100, retries: 0 });
    server.surprises.push((_, response) => {
      response.writeHead(206, { 'content-range': `bytes 0-65535/${content.length}`, etag: '"one"' });
      const timer = setInterval(() => response.write('x'), 20);
      response.once('close', () => clearInterval(timer));
      return true;
    });
    await expect(read(storage, 0, 10)).rejects.toThrow('no answer within 100 ms');
    await storage.close();
  });

  it('that says nothing, or no HTTP, is no file', async () => {
    const garbage = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end('220 mail.example ESMTP\r\n');
    });
    await new Promise<void>((resolve) => garbage.listen(0, '127.0.0.1', resolve));
    const { port } = garbage.address() as AddressInfo;
    const options = { retries: 1, retryDelay: 1 };
    const refused = expect.objectContaining({ code: 'ERR_QCOW2_REMOTE' }) as unknown;
    await expect(HttpStorage.open(`http://127.0.0.1:${port}/`, options)).rejects.toEqual(refused);
    garbage.close();
    await expect(HttpStorage.open(`http://127.0.0.1:${port}/`, options)).rejects.toEqual(refused);
  });

  it('whose file changes is found out: by its tag, its date, its length', async () => {
    const changes: (() => void)[] = [
      () => (server.etag = '"two"'),
      () =>
        server.surprises.push((request, response) => {
          // A server that does not know If-Match.
          delete request.headers['if-match'];
          sendRange({ content, etag: '"two"' }, request, response);
          return true;
        }),
      () =>
        server.surprises.push((request, response) => {
          sendRange({ content: Buffer.concat([content, content]), etag: server.etag }, request, response);
          return true;
        }),
      () => (server.content = content.subarray(0, 10)),
      () => server.surprises.push(status(200)),
    ];
    for (const change of changes) {
      server.content = content;
      server.etag = '"one"';
      const storage = await openFile();
      await read(storage, 0, 10);
      change();
      await expect(read(storage, mib, 10)).rejects.toMatchObject({ code: 'ERR_QCOW2_CHANGED' });
      await storage.close();
    }
  });

  it('that redirects is followed, and another one is not told secrets', async () => {
    await using other = await serveFile(content);
    const redirect = status(307, { location: other.url.href });
    server.surprises.push(redirect, redirect, redirect);
    const storage = await openFile({ headers: { authorization: 'Bearer secret' } });
    expect((await read(storage, 0, 10)).equals(content.subarray(0, 10))).toBe(true);
    expect(server.requests.map(({ headers }) => headers.authorization)).toEqual(['Bearer secret']);
    expect(other.requests.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
    // The place was good for a while only.
    other.surprises.push(status(403));
    expect((await read(storage, mib, 10)).equals(content.subarray(mib, mib + 10))).toBe(true);
    await storage.close();
    server.surprises.length = 0;
    server.surprises.push(redirect);
    await expect(openFile({ maxRedirects: 0 })).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
  });

  it('is left alone when the caller wants it', async () => {
    const controller = new AbortController();
    const storage = await openFile({ signal: controller.signal });
    const never = (): boolean => true;
    server.surprises.push(never, never);
    const reading = read(storage, 0, 10);
    const long = read(storage, mib, mib);
    setTimeout(() => controller.abort(new Error('enough')), 20);
    await expect(reading).rejects.toThrow('enough');
    await expect(long).rejects.toThrow('enough');
    await storage.close();
    const closing = await openFile();
    server.surprises.push(never);
    const last = expect(read(closing, 0, 10)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    await closing.close();
    await last;
  });

  it('is not named in messages with what is secret in its URL', async () => {
    const secret = new URL(`${server.url.href}?token=hidden`);
    secret.username = 'user';
    secret.password = 'hidden';
    server.surprises.push(status(404));
    const failure = await HttpStorage.open(secret).catch((error: unknown) => error);
    expect((failure as Error).message).toContain('/a/file');
    expect((failure as Error).message).not.toContain('hidden');
    expect(server.requests[0]?.headers.authorization).toBe(`Basic ${btoa('user:hidden')}`);
  });
});
