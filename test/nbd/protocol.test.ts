/** The NBD server, message by message, against the protocol's specification. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { create, MemoryStorage, Qcow2Error } from '../../lib/index.js';
import type { Qcow2 } from '../../lib/index.js';
import { serveNbd, type NbdServer } from '../../lib/nbd/index.js';
import { contextQuery, infoQuery, NbdWire, text, u32 } from '../support/nbd-wire.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const size = 64 * 1024 * 1024;
const data = pattern(1, 1024 * 1024);
const path = useTempDir();

let disk: Qcow2;
let server: NbdServer;
let wires: NbdWire[];

function connect(): NbdWire {
  const wire = new NbdWire(path('socket'));
  wires.push(wire);
  return wire;
}

async function connected(settings: Parameters<NbdWire['go']>[0] = {}): Promise<NbdWire> {
  const wire = connect();
  await wire.go(settings);
  return wire;
}

beforeEach(async () => {
  wires = [];
  disk = await create(new MemoryStorage(), size);
  await disk.write(data, 1024 * 1024);
  await disk.bitmaps.create({ name: 'b' });
  await disk.write(data.subarray(0, 65536), 0);
  server = await serveNbd(disk, { socket: path('socket'), readOnly: false, bitmaps: ['b'] });
});

afterEach(async () => {
  for (const wire of wires) wire.close();
  await server.close();
  await disk.close();
});

const [ack, errUnsupported, errInvalid, errUnknown, errTooBig, errPolicy] = [
  1,
  2 ** 31 + 1,
  2 ** 31 + 3,
  2 ** 31 + 6,
  2 ** 31 + 9,
  2 ** 31 + 2,
];

describe('the handshake', () => {
  it('answers options it does not know, and goes on', async () => {
    const wire = connect();
    await wire.greet();
    for (const option of [4, 9 + 3, 999, 2 ** 32 - 1]) {
      const replies = await wire.ask(option, Buffer.from('data'));
      expect(replies).toMatchObject([{ option, type: errUnsupported }]);
    }
    expect((await wire.ask(3)).map(({ type }) => type)).toEqual([2, ack]);
  });

  it('takes the old way to choose an export, with and without the zeros behind it', async () => {
    for (const [flags, length] of [
      [1, 134],
      [3, 10],
    ] as const) {
      const wire = connect();
      await wire.greet(flags);
      wire.option(1, Buffer.from(''));
      const reply = await wire.take(length);
      expect(reply.readBigUInt64BE(0)).toBe(BigInt(size));
      wire.request({ type: 0, offset: 1024 * 1024, length: 512 });
      expect((await wire.simpleReply(512)).data).toEqual(data.subarray(0, 512));
    }
  });

  it('says that an export is not there, or hangs up where it cannot say it', async () => {
    const wire = connect();
    await wire.greet();
    expect((await wire.ask(7, infoQuery('other'))).at(-1)?.type).toBe(errUnknown);
    expect((await wire.ask(6, infoQuery(''))).at(-1)?.type).toBe(ack);
    wire.option(1, Buffer.from('other'));
    await wire.hungUp();
  });

  it('refuses option data that does not add up', async () => {
    const wire = connect();
    await wire.greet();
    await wire.ask(8);
    const broken: [number, Buffer][] = [
      [3, Buffer.from('x')],
      [8, Buffer.from('x')],
      [7, Buffer.alloc(0)],
      [7, u32(100)],
      [7, Buffer.concat([u32(2 ** 32 - 1), Buffer.alloc(50)])],
      [7, Buffer.concat([text('x'.repeat(4097)), Buffer.alloc(2)])],
      [7, Buffer.concat([text('a\0b'), Buffer.alloc(2)])],
      [7, Buffer.concat([text(''), Buffer.from([0, 2, 0, 1])])],
      [7, Buffer.concat([infoQuery(''), Buffer.from('more')])],
      [10, Buffer.concat([text(''), u32(2 ** 32 - 1)])],
    ];
    for (const [option, bytes] of broken) {
      expect((await wire.ask(option, bytes)).at(-1)?.type, `option ${option}`).toBe(errInvalid);
    }
    expect((await wire.ask(5)).at(-1)?.type).toBe(errPolicy);
    expect((await wire.ask(7, infoQuery(''))).at(-1)?.type).toBe(ack);
  });

  it('skips an option that is too long', async () => {
    const wire = connect();
    await wire.greet();
    expect(await wire.ask(3, Buffer.alloc(100_000))).toMatchObject([{ type: errTooBig }]);
    expect((await wire.ask(3)).at(-1)?.type).toBe(ack);
  });

  it('lists and chooses contexts only with structured replies, and only for the export they are of', async () => {
    const wire = connect();
    await wire.greet();
    expect((await wire.ask(10, contextQuery('', ['base:allocation']))).at(-1)?.type).toBe(errInvalid);
    await wire.ask(8);
    const names = async (option: number, queries: readonly string[]): Promise<string[]> => {
      const replies = await wire.ask(option, contextQuery('', queries));
      return replies.slice(0, -1).map((reply) => reply.data.toString('utf8', 4));
    };
    const all = ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:b'];
    expect(await names(9, [])).toEqual(all);
    expect(await names(9, ['qemu:'])).toEqual(all.slice(1));
    expect(await names(9, ['base:', 'qemu:dirty-bitmap:'])).toEqual([all[0], all[2]]);
    expect(await names(9, ['x-none:'])).toEqual([]);
    expect(await names(10, [])).toEqual([]);
    expect(await names(10, ['base:'])).toEqual([]);
    expect(await names(10, ['qemu:dirty-bitmap:b', 'qemu:dirty-bitmap:c'])).toEqual([all[2]]);
  });

  it('ends with NBD_OPT_ABORT', async () => {
    const wire = connect();
    await wire.greet();
    expect(await wire.ask(2)).toMatchObject([{ type: ack }]);
    await wire.hungUp();
  });

  it('hangs up on flags it did not offer and on options without magic', async () => {
    const flags = connect();
    await flags.greet(7);
    await flags.hungUp();
    const garbage = connect();
    await garbage.greet();
    garbage.send(Buffer.alloc(16, 0x41));
    await garbage.hungUp();
    const old = connect();
    await old.greet(0);
    old.option(3);
    await old.hungUp();
  });
});

describe('a read', () => {
  it('tells holes from data, in chunks that cover the range once', async () => {
    const wire = await connected();
    wire.request({ type: 0, offset: 1024 * 1024 - 65536, length: 65536 + 4096 });
    const [hole, bytes, ...more] = await wire.chunks();
    expect(more).toEqual([]);
    expect(hole).toMatchObject({ type: 2, isLast: false });
    expect(hole?.payload.readBigUInt64BE(0)).toBe(BigInt(1024 * 1024 - 65536));
    expect(hole?.payload.readUInt32BE(8)).toBe(65536);
    expect(bytes).toMatchObject({ type: 1, isLast: true });
    expect(bytes?.payload.subarray(8)).toEqual(data.subarray(0, 4096));
  });

  it('comes in one chunk with the flag DF', async () => {
    const wire = await connected();
    wire.request({ type: 0, flags: 4, offset: 1024 * 1024 - 65536, length: 65536 + 4096 });
    const chunks = await wire.chunks();
    expect(chunks.map(({ type }) => type)).toEqual([1]);
    const expected = Buffer.concat([Buffer.alloc(65536), data.subarray(0, 4096)]);
    expect(chunks[0]?.payload.subarray(8).equals(expected)).toBe(true);
  });

  it('of many zero and data blocks comes whole', async () => {
    const mixed = Buffer.alloc(512 * 1024);
    for (let at = 0; at < mixed.length; at += 8192) data.copy(mixed, at, at, at + 4096);
    await disk.write(mixed, 8 * 1024 * 1024);
    const wire = await connected();
    wire.request({ type: 0, offset: 8 * 1024 * 1024, length: mixed.length });
    const rebuilt = Buffer.alloc(mixed.length, 0xee);
    for (const { type, payload } of await wire.chunks()) {
      const at = Number(payload.readBigUInt64BE(0)) - 8 * 1024 * 1024;
      if (type === 1) payload.copy(rebuilt, at, 8);
      else rebuilt.fill(0, at, at + payload.readUInt32BE(8));
    }
    expect(rebuilt.equals(mixed)).toBe(true);
  });

  it('of nothing, of all zeros, and of the last byte', async () => {
    const wire = await connected();
    wire.request({ type: 0, offset: 5, length: 0 });
    expect((await wire.chunks()).map(({ type }) => type)).toEqual([0]);
    wire.request({ type: 0, offset: size - 1, length: 1 });
    expect((await wire.chunks()).map(({ type }) => type)).toEqual([2]);
  });

  it('is answered out of order, with the cookie it came with', async () => {
    const wire = await connected();
    for (let index = 0; index < 100; index += 1) {
      wire.request({ type: 0, cookie: 2n ** 63n + BigInt(index), offset: 1024 * 1024 + index, length: 1 });
    }
    const seen = new Map<bigint, number>();
    for (let index = 0; index < 100; index += 1) {
      const [chunk] = await wire.chunks();
      seen.set(chunk?.cookie ?? 0n, chunk?.payload.at(-1) ?? -1);
    }
    for (let index = 0; index < 100; index += 1) {
      if (data[index] !== 0) expect(seen.get(2n ** 63n + BigInt(index))).toBe(data[index]);
    }
    expect(seen.size).toBe(100);
  });
});

describe('a request that is wrong', () => {
  it.each([
    ['an unknown command', { type: 77 }, 22],
    ['an unknown flag', { type: 0, flags: 0x8000, length: 512 }, 22],
    ['a flag of another command', { type: 3, flags: 2 }, 22],
    ['a read past the end', { type: 0, offset: size - 1, length: 2 }, 22],
    ['a read at 2^64 - 1', { type: 0, offset: 2n ** 64n - 1n, length: 2 }, 22],
    ['a read of more than 32 MiB', { type: 0, length: 33 * 1024 * 1024 }, 75],
    ['a write past the end', { type: 1, offset: size, length: 1, data: Buffer.from('x') }, 28],
    ['zeros past the end', { type: 6, offset: size - 1, length: 2 }, 28],
    ['a trim past the end', { type: 4, offset: size, length: 1 }, 22],
    ['block status without a context', { type: 7, length: 512 }, 22],
    ['fast zeros that keep their space', { type: 6, flags: 2 | 16, length: 65536 }, 95],
  ])('%s is answered with its error, and the next request works', async (_, fields, error) => {
    const wire = await connected();
    expect(await wire.errorOf(fields)).toBe(error);
    wire.request({ type: 0, offset: 1024 * 1024, length: 512 });
    expect((await wire.chunks())[0]?.payload.subarray(8)).toEqual(data.subarray(0, 512));
  });

  it('gets a simple error without structured replies', async () => {
    const wire = await connected({ structured: false });
    wire.request({ type: 0, cookie: 9n, offset: size, length: 1 });
    expect(await wire.simpleReply(1)).toMatchObject({ error: 22, cookie: 9n });
    wire.request({ type: 0, flags: 4, length: 1 });
    expect((await wire.simpleReply(1)).error).toBe(22);
  });

  it('ends the connection when it has no magic, or a payload nobody takes', async () => {
    const wire = await connected();
    wire.send(Buffer.alloc(28, 1));
    await wire.hungUp();
    const large = await connected();
    large.request({ type: 1, length: 32 * 1024 * 1024 + 1 });
    await large.hungUp();
  });
});

describe('changes', () => {
  const bytes = pattern(2, 200_000);
  const read = async (position: number, length: number): Promise<Buffer> => {
    const buffer = Buffer.alloc(length);
    await disk.read(buffer, position);
    return buffer;
  };

  it('write, zero with and without a hole, trim, cache and flush, each with FUA', async () => {
    const wire = await connected();
    const at = 16 * 1024 * 1024;
    expect(await wire.errorOf({ type: 1, flags: 1, offset: at, length: bytes.length, data: bytes })).toBe(0);
    expect((await read(at, bytes.length)).equals(bytes)).toBe(true);
    expect(await wire.errorOf({ type: 6, flags: 1 | 16, offset: at, length: 65536 })).toBe(0);
    expect(await wire.errorOf({ type: 6, flags: 2, offset: at + 2 ** 20, length: 3 * 2 ** 20 + 5 })).toBe(0);
    expect(await wire.errorOf({ type: 4, flags: 1, offset: at + 65536, length: 65536 })).toBe(0);
    expect(await wire.errorOf({ type: 5, flags: 1, offset: 0, length: size })).toBe(0);
    expect(await wire.errorOf({ type: 3, flags: 1 })).toBe(0);
    const expected = Buffer.from(bytes);
    expected.fill(0, 0, 131072);
    expect((await read(at, bytes.length)).equals(expected)).toBe(true);
    for await (const { type } of disk.extents({ start: at + 2 ** 20, length: 3 * 2 ** 20 })) {
      expect(type).toBe('data');
    }
  });

  it('are refused on an export that is read-only', async () => {
    await server.close();
    server = await serveNbd(disk, { socket: path('socket') });
    const wire = await connected();
    for (const type of [4, 6]) expect(await wire.errorOf({ type, length: 512 })).toBe(1);
    expect(await wire.errorOf({ type: 1, length: 1, data: Buffer.from('x') })).toBe(1);
    expect(await wire.errorOf({ type: 3 })).toBe(0);
    expect((await read(0, 65536)).equals(data.subarray(0, 65536))).toBe(true);
  });
});

describe('block status', () => {
  it('describes the whole range in each chosen context', async () => {
    const wire = await connected({ contexts: ['base:allocation', 'qemu:dirty-bitmap:b'] });
    wire.request({ type: 7, length: 4 * 1024 * 1024 });
    const answers = (await wire.chunks()).map(({ type, payload }) => {
      expect(type).toBe(5);
      return Array.from({ length: (payload.length - 4) / 8 }, (_, index) => [
        payload.readUInt32BE(4 + 8 * index),
        payload.readUInt32BE(8 + 8 * index),
      ]);
    });
    const mib = 1024 * 1024;
    expect(answers).toEqual([
      [
        [65536, 0],
        [mib - 65536, 3],
        [mib, 0],
        [2 * mib, 3],
      ],
      [
        [65536, 1],
        [4 * mib - 65536, 0],
      ],
    ]);
  });

  it('gives one run where one is asked for', async () => {
    const wire = await connected({ contexts: ['base:allocation'] });
    wire.request({ type: 7, flags: 8, offset: 4096, length: 4 * 1024 * 1024 });
    const [answer] = await wire.chunks();
    expect(answer?.payload.length).toBe(12);
    expect(answer?.payload.readUInt32BE(4)).toBe(65536 - 4096);
  });
});

describe('serveNbd', () => {
  it('refuses what cannot be served', async () => {
    const reading = { socket: path('other') };
    await expect(serveNbd(disk, { ...reading, bitmaps: ['none'] })).rejects.toMatchObject({
      code: 'ERR_QCOW2_NOT_FOUND',
    });
    await expect(serveNbd([], reading)).rejects.toThrow(TypeError);
    await expect(serveNbd([{ disk }, { disk }], reading)).rejects.toThrow(TypeError);
    await expect(serveNbd(disk, { ...reading, name: 'x'.repeat(5000) })).rejects.toThrow(TypeError);
    await expect(serveNbd(disk, { ...reading, port: 0 })).rejects.toThrow(TypeError);
    await expect(serveNbd(disk, { ...reading, maxRequests: 0 })).rejects.toThrow(RangeError);
    await expect(serveNbd(disk, { socket: path('socket') })).rejects.toMatchObject({ code: 'EADDRINUSE' });
  });

  it('tells the owner of the server what failed, and the client no more than the kind', async () => {
    const failed: unknown[] = [];
    const failure = new Qcow2Error('ERR_QCOW2_CORRUPT', 'damaged: /secret/path');
    const broken = { size, read: () => Promise.reject(failure) } as unknown as Qcow2;
    await using other = await serveNbd(broken, { socket: path('other'), onError: (e) => failed.push(e) });
    expect(other.uri()).toContain('other');
    const wire = new NbdWire(path('other'));
    wires.push(wire);
    await wire.go();
    wire.request({ type: 0, length: 512 });
    const [chunk] = await wire.chunks();
    expect(chunk?.payload.readUInt32BE(0)).toBe(5);
    expect(chunk?.payload.toString('utf8', 6)).toBe('the disk failed: ERR_QCOW2_CORRUPT');
    expect(failed).toEqual([failure]);
  });
});
