/**
 * Small writes on threads of their own: every byte gets where it belongs, in order, every failure to its caller, and nothing
 * outlives or ends the process.
 */
import { execFile } from 'node:child_process';
import { open, readFile, stat, writeFile, type FileHandle } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FileStorage } from '../../lib/index.js';
import { maxSmallWrite, native } from '../../lib/native.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const run = promisify(execFile);
const path = useTempDir();
const place = maxSmallWrite + 4096;

it('leaves in the file what one buffer would hold, however many come at once', async () => {
  const length = fc.oneof(
    fc.integer({ min: 0, max: 5000 }),
    fc.constantFrom(16 * 1024, 16 * 1024 + 1, maxSmallWrite - 1, maxSmallWrite, maxSmallWrite + 1, place),
  );
  const burst = fc.array(length, { minLength: 1, maxLength: 70, size: 'max' });
  await fc.assert(
    fc.asyncProperty(fc.array(burst, { minLength: 1, maxLength: 3 }), async (bursts) => {
      const storage = await FileStorage.open(path('file'), { mode: 'create' });
      const model = Buffer.alloc(bursts.flat().length * place);
      await storage.truncate(model.length);
      let at = 0;
      const write = (bytes: number, index: number): Promise<void> => {
        const data = pattern(at + index + 1, bytes);
        model.set(data, (at + index) * place);
        return storage.write(data, (at + index) * place);
      };
      for (const lengths of bursts) {
        const writes = lengths.map(write);
        at += lengths.length;
        // Every second burst comes while the one before is under way.
        if (at % 2 === 0) await Promise.all(writes);
        else await writes[0];
      }
      await storage.close();
      expect((await readFile(path('file'))).equals(model)).toBe(true);
    }),
    { numRuns: 10 },
  );
});

it('keeps what a caller writes while it changes the buffer again', async () => {
  const storage = await FileStorage.open(path('file'), { mode: 'create' });
  const buffer = Buffer.alloc(4);
  const writes = Array.from({ length: 100 }, (_, index) => {
    buffer.writeUInt32BE(index);
    return storage.write(buffer, index * 4);
  });
  await Promise.all(writes);
  await storage.close();
  const bytes = await readFile(path('file'));
  expect(Array.from({ length: 100 }, (_, index) => bytes.readUInt32BE(index * 4))).toEqual([
    ...Array(100).keys(),
  ]);
});

it.each([
  ['is shared', (length: number) => new SharedArrayBuffer(length)],
  [
    'can shrink',
    (length: number) =>
      Reflect.construct(ArrayBuffer, [length, { maxByteLength: 2 * length }]) as ArrayBuffer,
  ],
])('takes memory that %s', async (_, make) => {
  const storage = await FileStorage.open(path('file'), { mode: 'create' });
  for (const length of [100, maxSmallWrite, maxSmallWrite + 1]) {
    const data = new Uint8Array(make(length));
    data.set(pattern(length, length));
    await storage.write(data, 0);
    expect((await readFile(path('file'))).equals(pattern(length, length))).toBe(true);
  }
  await storage.close();
});

it('tells each caller of its failure, and goes on', async () => {
  await writeFile(path('file'), 'untouched');
  const handle = await open(path('file'), 'r');
  const storage = await FileStorage.wrap(handle, { mode: 'r+', lock: false });
  for (let round = 0; round < 2; round += 1) {
    const writes = Array.from({ length: 40 }, (_, index) => storage.write(Buffer.alloc(100), index * 100));
    for (const { status, ...rest } of await Promise.allSettled(writes)) {
      expect(status).toBe('rejected');
      expect(rest).toMatchObject({ reason: { code: 'EBADF', syscall: 'write' } });
    }
  }
  await storage.close();
  await handle.close();
  await expect(storage.write(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
  expect(await readFile(path('file'), 'utf8')).toBe('untouched');
});

it('names code, syscall and path when the system refuses a write', async () => {
  const storage = await FileStorage.open(path('file'), { mode: 'create' });
  // Longer than a file can be.
  await expect(storage.write(Buffer.alloc(10), 2 ** 53 - 2 ** 20)).rejects.toMatchObject({
    code: 'EFBIG',
    syscall: 'write',
    path: path('file'),
    message: expect.stringContaining(path('file')) as string,
  });
  await storage.close();
});

it('tries again what could not be written, on the descriptor that the handle has by then', async () => {
  await writeFile(path('file'), '');
  const reading = await open(path('file'), 'r');
  const writing = await open(path('file'), 'r+');
  const handle = { fd: reading.fd };
  const storage = await FileStorage.wrap(handle as FileHandle, { mode: 'r+', lock: false });
  const written = storage.write(Buffer.from('three'), 0);
  handle.fd = writing.fd;
  await written;
  expect(await readFile(path('file'), 'utf8')).toBe('three');
  handle.fd = reading.fd;
  const late = storage.write(Buffer.from('other'), 0);
  handle.fd = -1;
  await expect(late).rejects.toThrow();
  await expect(storage.write(Buffer.from('other'), 0)).rejects.toThrow();
  expect(await readFile(path('file'), 'utf8')).toBe('three');
  await storage.close();
  await reading.close();
  await writing.close();
});

it('does not take for written what was given away before another attempt', async () => {
  await writeFile(path('file'), '');
  const handle = await open(path('file'), 'r');
  const storage = await FileStorage.wrap(handle, { mode: 'r+', lock: false });
  const data = new Uint8Array(maxSmallWrite);
  const written = storage.write(data, 0);
  structuredClone(data.buffer, { transfer: [data.buffer] });
  await expect(written).rejects.toThrow();
  await storage.close();
  await handle.close();
});

it('writes to one file in the order of asking, beside writes to others', async () => {
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];
  const random = new Random(5);
  const files = await Promise.all(names.map((name) => open(path(name), 'w+')));
  const models = names.map(() => Buffer.alloc(3 * maxSmallWrite));
  const writes = Array.from({ length: 600 }, (_, index) => {
    const file = random.below(names.length);
    const data = pattern(index, random.below(random.below(2) === 0 ? 5000 : maxSmallWrite));
    const at = random.below(2 * maxSmallWrite);
    models[file]?.set(data, at);
    return native.writeSmall(files[file]?.fd ?? -1, data, at);
  });
  expect(new Set(await Promise.all(writes))).toEqual(new Set([true]));
  for (const [index, file] of files.entries()) {
    const content = await readFile(path(names[index] ?? ''));
    expect(models[index]?.subarray(0, content.length).equals(content)).toBe(true);
    expect(models[index]?.subarray(content.length).some((byte) => byte !== 0)).toBe(false);
    await file.close();
  }
});

it('is waited for when the file is closed', async () => {
  const storage = await FileStorage.open(path('file'), { mode: 'create' });
  const writes = Array.from({ length: 200 }, (_, index) => storage.write(pattern(index, 100), index * 100));
  await storage.close();
  const model = Buffer.concat(Array.from({ length: 200 }, (_, index) => pattern(index, 100)));
  expect((await readFile(path('file'))).equals(model)).toBe(true);
  await Promise.all(writes);
});

it('tells whether all of it was written', async () => {
  await writeFile(path('file'), '');
  const reading = await open(path('file'), 'r');
  const writing = await open(path('file'), 'r+');
  const long = new Uint8Array(maxSmallWrite);
  for (const data of [Buffer.from('x'), long]) {
    expect(await native.writeSmall(reading.fd, data, 0)).toBe(false);
    expect(await native.writeSmall(1_000_000, data, 0)).toBe(false);
  }
  expect((await stat(path('file'))).size).toBe(0);
  expect(await native.writeSmall(writing.fd, Buffer.from('head'), 10)).toBe(true);
  expect(await native.writeSmall(writing.fd, Buffer.alloc(0), 0)).toBe(true);
  expect(await readFile(path('file'), 'latin1')).toBe(`${'\0'.repeat(10)}head`);
  expect(() => native.writeSmall(writing.fd, new Uint8Array(maxSmallWrite + 1), 0)).toThrow(RangeError);
  await reading.close();
  await writing.close();
});

/** Runs a program in a process of its own; it is given the addon, a descriptor and the file's name. */
function program(text: string): Promise<{ stdout: string }> {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const start = `
    const native = require(${JSON.stringify(`${root}/node_modules/node-gyp-build`)})(${JSON.stringify(root)});
    const fs = require('node:fs');
    const fd = fs.openSync(${JSON.stringify(path('file'))}, 'w+');
    const write = (byte, at) => native.writeSmall(fd, Buffer.alloc(4096, byte), at * 4096);`;
  return run(process.execPath, ['-e', start + text], { timeout: 20_000 });
}

describe('a process', () => {
  it('goes on until its writes are done, and ends then', async () => {
    await program("for (let at = 0; at < 50; at += 1) write('x', at);");
    expect((await readFile(path('file'), 'latin1')) === 'x'.repeat(50 * 4096)).toBe(true);
    const { stdout } = await program(
      "write('y', 0).then(() => write('z', 1)).then((done) => console.log(done));",
    );
    expect(stdout).toBe('true\n');
    expect((await readFile(path('file'), 'latin1')) === 'y'.repeat(4096) + 'z'.repeat(4096)).toBe(true);
  });

  it.each([
    ['exits', 'setTimeout(() => process.exit(7), 2);', 7],
    ['throws', "setTimeout(() => { throw new Error('on purpose'); }, 2);", 1],
  ])('that %s in the middle ends as it wants to', async (_, then, code) => {
    const ended = program(`for (let at = 0; at < 2000; at += 1) write('x', at % 9); ${then}`);
    await expect(ended).rejects.toMatchObject({ code, signal: null });
  });

  it.runIf(process.platform === 'linux')(
    'has no threads for them before the first, and few after many',
    async () => {
      const { stdout } = await program(`
      const threads = () => fs.readdirSync('/proc/self/task').length;
      const before = threads();
      const fds = Array.from({ length: 30 }, () => fs.openSync(${JSON.stringify(path('file'))}, 'r+'));
      Promise.all(fds.map((one) => native.writeSmall(one, Buffer.alloc(9), 0))).then(() => console.log(threads() - before));`);
      expect(Number(stdout)).toBeGreaterThan(0);
      expect(Number(stdout)).toBeLessThanOrEqual(4);
    },
  );
});
