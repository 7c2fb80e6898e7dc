/** Clients that mean no good, or are broken: the server stays up, serves the others, and takes no more memory. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { create, MemoryStorage, type Disk, type Qcow2 } from '../../lib/index.js';
import { serveNbd, type NbdServer } from '../../lib/nbd/index.js';
import { infoQuery, NbdWire, u32 } from '../support/nbd-wire.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const mib = 1024 * 1024;
const path = useTempDir();
const data = pattern(1, 64 * 1024);

let disk: Qcow2;
let server: NbdServer;
let wires: NbdWire[];
let failures: unknown[];

async function serve(options: Parameters<typeof serveNbd>[1] = {}): Promise<void> {
  server = await serveNbd(disk, {
    socket: path('socket'),
    readOnly: false,
    onError: (error) => failures.push(error),
    ...options,
  });
}

function connect(): NbdWire {
  const wire = new NbdWire(path('socket'));
  wires.push(wire);
  return wire;
}

/** Whether a well-behaved client is served. */
async function works(): Promise<void> {
  const wire = connect();
  await wire.go();
  wire.request({ type: 0, offset: 0, length: data.length });
  expect((await wire.chunks())[0]?.payload.subarray(8).equals(data)).toBe(true);
  wire.close();
}

beforeEach(async () => {
  wires = [];
  failures = [];
  disk = await create(new MemoryStorage(), 256 * mib);
  await disk.write(data, 0);
});

afterEach(async () => {
  for (const wire of wires) wire.close();
  await server.close();
  await disk.close();
});

describe('hostile clients', () => {
  it('that send garbage at any point', async () => {
    await serve();
    const random = new Random(5);
    for (let round = 0; round < 60; round += 1) {
      const wire = connect();
      const stage = round % 3;
      if (stage === 1) await wire.greet();
      if (stage === 2) await wire.go();
      wire.send(pattern(random.next(), random.between(1, 3000)));
      wire.socket.end();
      await wire.hungUp();
    }
    await works();
    expect(failures).toEqual([]);
  });

  it('that send requests with every field at its edges', async () => {
    await serve();
    const wire = connect();
    await wire.go({ contexts: ['base:allocation'] });
    const edges = [0n, 1n, 511n, 2n ** 28n - 1n, 2n ** 28n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
    const lengths = [0, 1, 2 ** 25, 2 ** 25 + 1, 2 ** 28, 2 ** 31, 2 ** 32 - 1];
    for (const type of [0, 3, 4, 5, 6, 7, 8, 65535]) {
      for (const offset of edges) {
        for (const length of lengths) {
          // Zeroing or reading all there is takes long and is not wrong.
          if (offset + BigInt(length) <= 256 * mib && length > mib) continue;
          wire.request({ type, offset, length, flags: type === 6 ? 16 : 0, cookie: offset });
          for (const { cookie } of await wire.chunks()) expect(cookie).toBe(offset);
        }
      }
    }
    await disk.write(data, 0);
    await works();
    expect(failures).toEqual([]);
  });

  it('that announce much and send nothing are dropped after a while', async () => {
    await serve({ stallTimeout: 100, handshakeTimeout: 300 });
    const mute = connect();
    const slowGreeting = connect();
    await slowGreeting.greet();
    slowGreeting.option(7, Buffer.from('x'), 60_000);
    const slowHeader = connect();
    await slowHeader.go();
    slowHeader.send(Buffer.from([0x25, 0x60]));
    const slowPayload = connect();
    await slowPayload.go();
    slowPayload.request({ type: 1, length: 32 * mib, data: Buffer.alloc(1000) });
    await Promise.all([mute, slowGreeting, slowHeader, slowPayload].map((wire) => wire.hungUp()));
    await works();
  });

  it('that idle between requests stay', async () => {
    await serve({ stallTimeout: 50 });
    const wire = connect();
    await wire.go();
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await wire.errorOf({ type: 3 })).toBe(0);
  });

  it('that never read their replies take no more than their share, and are dropped', async () => {
    await disk.write(pattern(9, 16 * mib), mib);
    await serve({ stallTimeout: 300, maxRequestBytes: 8 * mib });
    const before = process.memoryUsage().arrayBuffers;
    let highest = 0;
    const greedy = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const wire = connect();
        await wire.go();
        wire.socket.pause();
        for (let index = 0; index < 400; index += 1) {
          wire.request({ type: 0, cookie: BigInt(index), offset: mib, length: 4 * mib });
        }
        return wire;
      }),
    );
    for (let look = 0; look < 10; look += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      highest = Math.max(highest, process.memoryUsage().arrayBuffers);
    }
    expect(highest - before).toBeLessThan(8 * 8 * mib + 64 * mib);
    while (server.connections > 0) await new Promise((resolve) => setTimeout(resolve, 20));
    for (const wire of greedy) wire.close();
    await works();
  });

  it('that come in too great a number are turned away', async () => {
    await serve({ maxConnections: 3 });
    const held = [connect(), connect(), connect()];
    for (const wire of held) await wire.greet();
    const fourth = connect();
    await fourth.hungUp();
    held[0]?.close();
    await held[0]?.hungUp();
    while (server.connections > 2) await new Promise((resolve) => setTimeout(resolve, 5));
    await works();
  });

  it('that put plain bytes behind STARTTLS are dropped', async () => {
    await serve({ tls: {} });
    const wire = connect();
    await wire.greet();
    expect((await wire.ask(3)).at(-1)?.type).toBe(2 ** 31 + 5);
    wire.send(
      Buffer.concat([Buffer.from('IHAVEOPT'), u32(5), u32(0)]),
      Buffer.concat([Buffer.from('IHAVEOPT'), u32(7), u32(infoQuery('').length), infoQuery('')]),
    );
    await wire.hungUp();
    const silent = connect();
    await silent.greet();
    silent.option(1);
    await silent.hungUp();
  });

  it('that break off at every byte of a conversation', async () => {
    await serve();
    const conversation = Buffer.concat([
      u32(3),
      Buffer.from('IHAVEOPT'),
      u32(8),
      u32(0),
      Buffer.from('IHAVEOPT'),
      u32(7),
      u32(infoQuery('').length),
      infoQuery(''),
      Buffer.from('25609513000000010000000000000001000000000010000000000004', 'hex'),
      Buffer.from('data'),
      Buffer.from('25609513000000000000000000000002000000000000000000000200', 'hex'),
    ]);
    await Promise.all(
      Array.from({ length: conversation.length }, async (_, length) => {
        if (length % 3 !== 0) return;
        const wire = connect();
        wire.send(conversation.subarray(0, length));
        if (length % 2 === 0) wire.socket.end();
        else setTimeout(() => wire.close(), 20);
        await wire.hungUp();
      }),
    );
    await works();
    expect(failures).toEqual([]);
  });
});

describe('close()', () => {
  it('answers what is under way, hangs up on idle clients, and is done twice', async () => {
    let begun: () => void = () => undefined;
    const reading = new Promise<void>((resolve) => (begun = resolve));
    const slow = {
      size: mib,
      async read(buffer: Uint8Array): Promise<void> {
        begun();
        await new Promise((resolve) => setTimeout(resolve, 100));
        buffer.set(data.subarray(0, buffer.length));
      },
    } as unknown as Disk;
    server = await serveNbd(slow, { socket: path('socket') });
    const [busy, idle, early] = [connect(), connect(), connect()];
    await busy.go();
    await idle.go();
    await early.greet();
    busy.request({ type: 0, length: data.length });
    const reply = busy.chunks();
    await reading;
    await Promise.all([reply, server.close(), server.close()]);
    expect((await reply)[0]?.payload.subarray(8).equals(data)).toBe(true);
    await Promise.all([busy, idle, early].map((wire) => wire.hungUp()));
    expect(server.connections).toBe(0);
  });

  it('does not wait for a client that does not read', async () => {
    await disk.write(pattern(9, 16 * mib), mib);
    await serve();
    const wire = connect();
    await wire.go();
    wire.socket.pause();
    for (let index = 0; index < 20; index += 1) wire.request({ type: 0, offset: mib, length: 4 * mib });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await server.close();
    expect(server.connections).toBe(0);
  });
});
