/** System calls on real files: what they change is seen through node:fs, and QEMU sees the locks. Linux only. */
import { type FileHandle, open, readFile, stat, writeFile } from 'node:fs/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { LockState, native, OsResult } from '../../lib/native.js';
import { holdByQemu, qemuImg, qemuIo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir, withTempDir } from '../support/temp-dir.js';

const mib = 2 ** 20;
const blockSize = 512;
const pathOf = useTempDir();

const handles: FileHandle[] = [];
afterEach(async () => {
  await Promise.all(handles.splice(0).map((handle) => handle.close()));
});

async function opened(path: string, flags: string): Promise<FileHandle> {
  const handle = await open(path, flags);
  handles.push(handle);
  return handle;
}

async function fileOf(content: Uint8Array): Promise<{ path: string; fd: number; handle: FileHandle }> {
  const path = pathOf('file');
  await writeFile(path, content);
  const handle = await opened(path, 'r+');
  // Delayed allocation would hide what the file takes.
  await handle.sync();
  return { path, fd: handle.fd, handle };
}

const allocated = async (path: string): Promise<number> => (await stat(path)).blocks * blockSize;

function withZeros(content: Buffer, from: number, to: number): Buffer {
  return Buffer.from(content).fill(0, from, to);
}

describe('punchHole', () => {
  it('gives space back and leaves zeros and the length', async () => {
    const content = pattern(1, 2 * mib + 100);
    const { path, fd } = await fileOf(content);
    const before = await allocated(path);

    expect(await native.punchHole(fd, mib / 2, mib)).toBe(true);

    expect((await readFile(path)).equals(withZeros(content, mib / 2, 1.5 * mib))).toBe(true);
    expect(await allocated(path)).toBe(before - mib);
  });

  it('changes nothing past the end of the file', async () => {
    const content = pattern(2, 1000);
    const { path, fd } = await fileOf(content);
    expect(await native.punchHole(fd, 4096, mib)).toBe(true);
    expect((await readFile(path)).equals(content)).toBe(true);
  });
});

describe('allocate', () => {
  it('reserves space and grows the file with zeros', async () => {
    const content = pattern(5, 1000);
    const { path, fd } = await fileOf(content);
    expect(await native.allocate(fd, 0, mib, false)).toBe(true);
    expect((await readFile(path)).equals(Buffer.concat([content, Buffer.alloc(mib - 1000)]))).toBe(true);
    expect(await allocated(path)).toBeGreaterThanOrEqual(mib);
  });

  it('can keep the length', async () => {
    const { path, fd } = await fileOf(pattern(6, 1000));
    expect(await native.allocate(fd, 0, mib, true)).toBe(true);
    expect((await stat(path)).size).toBe(1000);
    expect(await allocated(path)).toBeGreaterThanOrEqual(mib);
  });

  it('reports a full disk as the system does', async () => {
    const { fd } = await fileOf(pattern(7, 1000));
    await expect(native.allocate(fd, 0, Number.MAX_SAFE_INTEGER, false)).rejects.toMatchObject({
      code: expect.stringMatching(/^(EFBIG|ENOSPC)$/) as string,
      syscall: 'fallocate',
    });
  });
});

describe('seekData and seekHole', () => {
  it('walk a sparse file from data to hole to data, as qemu-img maps it', async () => {
    const { path, fd, handle } = await fileOf(new Uint8Array());
    await handle.truncate(64 * mib);
    for (const offset of [mib, 2 * mib, 17 * mib]) await handle.write(pattern(8, mib), 0, mib, offset);
    await handle.sync();

    const found: { start: number; length: number }[] = [];
    for (let start = native.seekData(fd, 0); start !== OsResult.nothing;) {
      const end = native.seekHole(fd, start);
      found.push({ start, length: end - start });
      start = native.seekData(fd, end);
    }

    const map = await qemuImg(['map', '--output=json', '-f', 'raw', path]);
    const extents = JSON.parse(map.stdout) as { start: number; length: number; data: boolean }[];
    expect(found).toEqual(extents.filter(({ data }) => data).map(({ start, length }) => ({ start, length })));
    expect(found).toHaveLength(2);
  });

  it('take the end of the file for a hole, and find nothing from there on', async () => {
    const { fd } = await fileOf(pattern(9, 5000));
    expect(native.seekHole(fd, 0)).toBe(5000);
    expect(native.seekHole(fd, 5000)).toBe(OsResult.nothing);
    expect(native.seekData(fd, 5000)).toBe(OsResult.nothing);
    expect(native.seekData(fd, Number.MAX_SAFE_INTEGER)).toBe(OsResult.nothing);
  });
});

describe('locks', () => {
  it('are shared with readers and seen by probes of other open files only', async () => {
    const { path, fd } = await fileOf(pattern(13, 1000));
    const other = await opened(path, 'r');

    expect(native.lockBytes(fd, 100, 2, 'read')).toBe(LockState.free);
    expect(native.lockBytes(other.fd, 101, 1, 'read')).toBe(LockState.free);
    expect(native.probeLock(fd, 100, 1)).toBe(LockState.free);
    expect(native.probeLock(fd, 101, 1)).toBe(LockState.conflict);
    expect(native.probeLock(other.fd, 100, 1)).toBe(LockState.conflict);
    expect(native.probeLock(other.fd, 102, 1)).toBe(LockState.free);

    expect(native.lockBytes(fd, 100, 1, 'unlock')).toBe(LockState.free);
    expect(native.probeLock(other.fd, 100, 1)).toBe(LockState.free);
    expect(native.probeLock(other.fd, 101, 1)).toBe(LockState.conflict);
  });

  it('go when their file is closed, and stay when another handle of it is', async () => {
    const { path, fd } = await fileOf(pattern(14, 1000));
    const holder = await open(path, 'r');
    native.lockBytes(holder.fd, 200, 1, 'read');
    await (await open(path, 'r')).close();
    expect(native.probeLock(fd, 200, 1)).toBe(LockState.conflict);
    await holder.close();
    expect(native.probeLock(fd, 200, 1)).toBe(LockState.free);
  });

  it('see those of QEMU', async () => {
    const path = pathOf('image.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', path, '1M']);
    const { fd } = await opened(path, 'r');
    const held = async (options: { readOnly?: boolean }): Promise<number[]> => {
      const holder = await holdByQemu(path, options);
      const bytes = [100, 101, 102, 103, 200, 201, 202, 203].filter(
        (byte) => native.probeLock(fd, byte, 1) === LockState.conflict,
      );
      await holder.release();
      return bytes;
    };
    expect(await held({})).toEqual([100, 101, 103, 201, 203]);
    expect(await held({ readOnly: true })).toEqual([100, 201, 203]);
    expect(native.probeLock(fd, 100, 104)).toBe(LockState.free);
  });

  it('keep QEMU out', async () => {
    const path = pathOf('image.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', path, '1M']);
    const { fd } = await opened(path, 'r');
    // "I do not share the permission to write."
    native.lockBytes(fd, 201, 1, 'read');
    const result = await qemuIo(path, ['read 0 512'], { expectExit: null });
    expect(result.exit).not.toBe(0);
    expect(result.stderr + result.stdout).toContain('lock');
    native.lockBytes(fd, 201, 1, 'unlock');
    await qemuIo(path, ['read 0 512']);
  });
});

describe('failures', () => {
  // Node never hands out so high a descriptor.
  const closed = 2 ** 31 - 1;
  const badDescriptor = { code: 'EBADF', errno: -9 };

  it('are system errors of the promise', async () => {
    await expect(native.punchHole(closed, 0, 1)).rejects.toMatchObject({
      ...badDescriptor,
      syscall: 'fallocate',
    });
    await expect(native.allocate(closed, 0, 1, true)).rejects.toMatchObject({
      ...badDescriptor,
      message: 'EBADF: Bad file descriptor, fallocate',
    });
  });

  it('are thrown by what is synchronous', () => {
    const calls = {
      lseek: [() => native.seekData(closed, 0), () => native.seekHole(closed, 0)],
      fcntl: [() => native.lockBytes(closed, 0, 1, 'read'), () => native.probeLock(closed, 0, 1)],
    };
    for (const [syscall, functions] of Object.entries(calls)) {
      for (const call of functions) {
        expect(call).toThrow(expect.objectContaining({ ...badDescriptor, syscall }));
      }
    }
  });

  it('come from a file that is not open for writing, which then is unchanged', async () => {
    const content = pattern(15, mib);
    const { path } = await fileOf(content);
    const { fd } = await opened(path, 'r');
    await expect(native.punchHole(fd, 0, mib)).rejects.toMatchObject({ code: 'EBADF' });
    expect((await readFile(path)).equals(content)).toBe(true);
  });
});

describe('arguments', () => {
  const refused: [name: string, code: string, call: () => unknown][] = [
    ['a negative descriptor', 'ERR_OUT_OF_RANGE', () => native.seekData(-1, 0)],
    ['a descriptor past 31 bits', 'ERR_OUT_OF_RANGE', () => native.seekData(2 ** 31, 0)],
    ['a negative offset', 'ERR_OUT_OF_RANGE', () => native.seekHole(0, -1)],
    ['a fraction', 'ERR_OUT_OF_RANGE', () => native.punchHole(0, 0.5, 1)],
    ['NaN', 'ERR_OUT_OF_RANGE', () => native.punchHole(0, Number.NaN, 1)],
    ['an unsafe integer', 'ERR_OUT_OF_RANGE', () => native.punchHole(0, 2 ** 53, 1)],
    ['an empty range', 'ERR_OUT_OF_RANGE', () => native.punchHole(0, 0, 0)],
    [
      'a range that ends too far',
      'ERR_OUT_OF_RANGE',
      () => native.allocate(0, 1, Number.MAX_SAFE_INTEGER, true),
    ],
    ['a bigint', 'ERR_INVALID_ARG_TYPE', () => native.seekData(0, 1n as unknown as number)],
    [
      'a missing flag',
      'ERR_INVALID_ARG_TYPE',
      () => native.allocate(0, 0, 1, undefined as unknown as boolean),
    ],
    ['another lock', 'ERR_INVALID_ARG_VALUE', () => native.lockBytes(0, 0, 1, 'unlocked' as 'unlock')],
    ['no lock', 'ERR_INVALID_ARG_VALUE', () => native.lockBytes(0, 0, 1, undefined as unknown as 'read')],
  ];
  for (const [name, code, call] of refused) {
    it(`refuse ${name}`, () => expect(call).toThrow(expect.objectContaining({ code })));
  }
});

describe('readCached', () => {
  it('reads what was just written without waiting, and refuses what the file does not have', async () => {
    const content = pattern(7, 20_000);
    const { fd } = await fileOf(content);
    const part = new Uint8Array(5000);
    const result = native.readCached(fd, 1234, part);
    // A file system without the call says so; one with it has the bytes at hand.
    expect([1, OsResult.unsupported]).toContain(result);
    if (result === 1) expect(Buffer.from(part)).toEqual(Buffer.from(content.subarray(1234, 6234)));
    expect(native.readCached(fd, 19_000, part)).not.toBe(1);
  });

  it('takes a file in memory for what it is, though its file system does not know the flag', async () => {
    await withTempDir(async (inMemory) => {
      const content = pattern(7, 20_000);
      const path = inMemory('file');
      await writeFile(path, content);
      const { fd } = await opened(path, 'r');
      const part = Buffer.alloc(5000);
      expect(native.readCached(fd, 1234, part)).toBe(1);
      expect(part.equals(content.subarray(1234, 6234))).toBe(true);
      expect(native.readCached(fd, 19_000, part)).toBe(0);
    });
  });

  it('checks its arguments', async () => {
    const { fd } = await fileOf(pattern(8, 512));
    const part = new Uint8Array(8);
    expect(() => native.readCached(fd, -1, part)).toThrow(
      expect.objectContaining({ code: 'ERR_OUT_OF_RANGE' }),
    );
    expect(() => native.readCached(fd, 0, 'x' as never)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }),
    );
    expect(() => native.readCached(1e6, 0, part)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });
});
