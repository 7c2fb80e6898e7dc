/**
 * The addon's planned copies, comparisons, counts and small writes under stress: in many threads, in threads and processes that end in the
 * middle, with everything let go and collected meanwhile, and with buffers that go away.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Codec, native } from '../../lib/native.js';
import { mixedDisk } from '../support/mixed-disk.js';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'qcow2-stress-'));
  const disk = mixedDisk(1, 2 ** 21);
  writeFileSync(join(directory, 'in'), disk.read(0, disk.size));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/**
 * Plain JavaScript for threads and processes: `work(n)` starts all kinds of work, each n times, on buffers that nothing else
 * refers to, and resolves to whether all came out right.
 */
const program = (then: string): string => `
  const native = require(${JSON.stringify(join(root, 'node_modules/node-gyp-build'))})(${JSON.stringify(root)});
  const fs = require('node:fs');
  const content = fs.readFileSync(${JSON.stringify(join(directory, 'in'))});
  const unit = 65536, count = content.length / unit, threads = 3;
  const starts = Array.from({ length: count }, (_, i) => i * unit);
  const collect = () => { require('node:v8').setFlagsFromString('--expose-gc'); require('node:vm').runInNewContext('gc')(); };
  const piece = (file, at) => [file, at, unit, 0, unit, 0, 0, 0];

  async function copy(compression) {
    const name = ${JSON.stringify(join(directory, 'out'))} + process.pid + '.' + Math.random();
    const [from, to] = [fs.openSync(${JSON.stringify(join(directory, 'in'))}), fs.openSync(name, 'w+')];
    try {
      const area = compression.length === 0 ? new Float64Array(0) : new Float64Array(4);
      const places = compression.length === 0 ? [] : [0, 2 * content.length + 64 * 4096];
      const results = await Promise.all(native.transfer(to, Float64Array.of(from),
        Float64Array.from(starts.flatMap((at) => [at, unit, 1])), Float64Array.from(starts.flatMap((at) => piece(0, at))),
        Float64Array.from(places), 4096, new Uint8Array((threads + 2) * unit * 2), new Float64Array(3 * 4096), threads,
        Float64Array.from(compression), area, 1, new Uint8Array(0), compression.length > 0));
      if (results.includes(-1)) return false;
      if (compression.length > 0) return Math.max(...results) > 0;
      const got = fs.readFileSync(name);
      return got.equals(content.subarray(0, got.length)) && content.subarray(got.length).every((byte) => byte === 0);
    } finally {
      fs.closeSync(from); fs.closeSync(to); fs.unlinkSync(name);
    }
  }

  async function compare() {
    const fd = fs.openSync(${JSON.stringify(join(directory, 'in'))});
    try {
      const differs = new Uint8Array(count).fill(7);
      await Promise.all(native.comparePieces(Float64Array.of(fd), Float64Array.from(starts.flatMap(() => [unit, 1, 1])),
        Float64Array.from(starts.flatMap((at, i) => [...piece(0, at), ...piece(0, i === 5 ? 0 : at)])),
        new Uint8Array(threads * 2 * unit), differs, threads));
      return differs.every((byte, i) => byte === (i === 5 ? 1 : 0));
    } finally {
      fs.closeSync(fd);
    }
  }

  async function flags() {
    const tables = 64, buffer = Buffer.alloc(tables * 65536);
    for (let at = 0; at < buffer.length; at += 8) buffer.writeUInt32BE(65536 * (1 + at / 8 % 60000), at + 4);
    const counts = new native.ReferenceCounts(65536, 16, 2 ** 28);
    for (let cluster = 0; cluster < 65536; cluster++) counts.add(cluster * 65536, 1, 1);
    const changed = new Float64Array(2 * tables);
    return (await counts.correctCopied(buffer, 2, new Uint32Array(tables).fill(1), true, changed)) > 0;
  }

  async function small() {
    const name = ${JSON.stringify(join(directory, 'small'))} + process.pid + '.' + Math.random();
    const fd = fs.openSync(name, 'w+');
    try {
      const writes = [];
      for (let at = 0, length = 1; at < content.length; at += length, length = (length * 7) % 65537) {
        writes.push(native.writeSmall(fd, content.slice(at, at + length), at));
      }
      return (await Promise.all(writes)).every(Boolean) && fs.readFileSync(name).equals(content);
    } finally {
      fs.closeSync(fd); fs.unlinkSync(name);
    }
  }

  const all = (n) => Array.from({ length: n }, () => [copy([]), copy([0, 1, 3, 64]), compare(), flags(), small()]).flat();
  const work = (n) => Promise.all(all(n)).then((results) => results.every(Boolean));
  ${then}
`;

const post = "require('node:worker_threads').parentPort.postMessage";

function outcome(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve).once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the worker ended with ${code} before its work`)));
  });
}

describe('planned copies, comparisons, counts and small writes', () => {
  it('come out right in several threads at once', async () => {
    const workers = Array.from(
      { length: 3 },
      () => new Worker(program(`work(3).then((x) => ${post}(x));`), { eval: true }),
    );
    expect(await Promise.all(workers.map(outcome))).toEqual([true, true, true]);
  });

  it('come out right while the garbage of their calls is collected', async () => {
    const then = `
      const promise = work(3);
      const timer = setInterval(collect, 1);
      collect();
      promise.then((x) => { clearInterval(timer); ${post}(x); });`;
    expect(await outcome(new Worker(program(then), { eval: true }))).toBe(true);
  });

  it('outlive threads that are terminated in the middle', async () => {
    for (const delay of [0, 1, 3, 8, 20]) {
      const worker = new Worker(program(`void work(6); setInterval(() => {}, 1000); ${post}('started');`), {
        eval: true,
      });
      expect(await outcome(worker)).toBe('started');
      await new Promise((resolve) => setTimeout(resolve, delay));
      expect(await worker.terminate()).toBe(1);
    }
  });

  it.each([
    ['exits', 'setTimeout(() => process.exit(7), 2);', 7],
    ['throws', "setTimeout(() => { throw new Error('on purpose'); }, 2);", 1],
  ])('let a process that %s in the middle end as it wants to', async (_, then, code) => {
    const ended = run(process.execPath, ['-e', program(`void work(6); ${then}`)], { timeout: 20_000 });
    await expect(ended).rejects.toMatchObject({ code, signal: null });
  });
});

/** Bytes that go to another owner, as a message to a thread takes them along. */
function detached<T extends Uint8Array | Float64Array | Uint32Array>(array: T): T {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}

function resizable(Kind: typeof Uint8Array | typeof Float64Array, length: number): never {
  const bytes = length * Kind.BYTES_PER_ELEMENT;
  const buffer = Reflect.construct(ArrayBuffer, [bytes, { maxByteLength: 2 * bytes }]) as ArrayBuffer;
  return new Kind(buffer) as never;
}

const doubles = (length: number): Float64Array => new Float64Array(length);
const bytes = (length: number): Uint8Array => new Uint8Array(length);

/** Calls a method with arguments that its types would not let through. */
function invoke(target: object, name: string, args: unknown[]): unknown {
  return (Reflect.get(target, name) as (...args: unknown[]) => unknown).apply(target, args);
}

/** Calls with sound arguments (of no files, which nothing gets to), by the places of their buffers. */
const calls: Record<string, { readonly make: () => unknown[]; readonly call: (args: unknown[]) => unknown }> =
  {
    transfer: {
      make: () => [
        1_000_000,
        doubles(1),
        doubles(3),
        doubles(8),
        doubles(2),
        4096,
        bytes(65536),
        doubles(30),
        1,
        doubles(0),
        doubles(0),
      ],
      call: (args) => invoke(native, 'transfer', args),
    },
    comparePieces: {
      make: () => [doubles(1), doubles(3), doubles(8), bytes(65536), bytes(1), 1],
      call: (args) => invoke(native, 'comparePieces', args),
    },
    compressClusters: {
      make: () => [Codec.deflate, 1, bytes(4096), 4096, 4096, bytes(4096), doubles(1)],
      call: (args) => invoke(native, 'compressClusters', args),
    },
    writeSmall: {
      make: () => [1_000_000, bytes(65536), 0],
      call: (args) => invoke(native, 'writeSmall', args),
    },
    correctCopied: {
      make: () => [bytes(65536), 2, new Uint32Array(1), true, doubles(2)],
      call: (args) => {
        const counts = new native.ReferenceCounts(16, 16, 2 ** 20);
        return invoke(counts, 'correctCopied', args);
      },
    },
  };

describe.each(Object.entries(calls))('%s', (_, { make, call }) => {
  const places = make().flatMap((arg, place) =>
    ArrayBuffer.isView(arg) && arg.byteLength > 0 ? [place] : [],
  );

  it.each(places)('refuses a buffer that is gone, or may shrink, as argument %i', async (place) => {
    for (const spoil of [detached, shrinkable]) {
      const args = make();
      args[place] = spoil(args[place] as Uint8Array);
      expect(await codeOf(() => call(args))).toMatch(/^ERR_(INVALID_ARG|OUT_OF_RANGE)/);
    }
  });
});

function shrinkable(array: Uint8Array | Float64Array | Uint32Array): unknown {
  return array instanceof Float64Array
    ? resizable(Float64Array, array.length)
    : resizable(Uint8Array, array.byteLength);
}

/** The code with which a call fails, at once or later. */
async function codeOf(call: () => unknown): Promise<string> {
  try {
    await Promise.all([await call()].flat());
    return 'none';
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : `no code: ${String(error)}`;
  }
}

describe('a buffer that is given away while work uses it', () => {
  it('harms nothing as long as its new owner keeps it', async () => {
    const input = new Uint8Array(64 * 65536).fill(5);
    const output = new Uint8Array(input.length);
    const lengths = new Float64Array(64);
    const work = native.compressClusters(Codec.deflate, 9, input, 65536, 65536, output, lengths);
    const kept = structuredClone(output.buffer, { transfer: [output.buffer] });
    const written = await work;
    expect(written).toBeGreaterThan(0);
    expect(kept.byteLength).toBe(64 * 65536);
    expect(output.length).toBe(0);
  });
});
