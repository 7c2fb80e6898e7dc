import { execFileSync } from 'node:child_process';
import { createServer } from 'node:net';
import fs from 'node:fs';
import { mkdir, open, readFile, stat, symlink, unlink, writeFile } from 'node:fs/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { sizeByReading } from '../../lib/storage/file-kind.js';
import { FileStorage } from '../../lib/storage/file.js';
import { maxSmallWrite } from '../../lib/native.js';
import { Random, pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
afterEach(() => {
  vi.restoreAllMocks();
});

async function fileWith(content: Uint8Array, name = 'file'): Promise<string> {
  await writeFile(temp(name), content);
  return temp(name);
}

async function withStorage<T>(
  path: string,
  mode: 'r' | 'r+' | 'create',
  use: (storage: FileStorage) => Promise<T>,
): Promise<T> {
  const storage = await FileStorage.open(path, { mode });
  try {
    return await use(storage);
  } finally {
    await storage.close();
  }
}

type Done = (error: Error | null, count: number) => void;
/** How fs.read and fs.write are called here. */
type Positional = (
  fd: number,
  buffer: Uint8Array,
  offset: number,
  length: number,
  position: number,
  callback: Done,
) => void;
/** How fs.writev is called here. */
type Vectored = (fd: number, buffers: readonly Uint8Array[], position: number, callback: Done) => void;

const systemError = (code: string, syscall: string) =>
  Object.assign(new Error(`${code}: made by the test, ${syscall}`), { code, syscall });

/** Makes the next fdatasync fail as a dying disk would. */
function failNextDatasync(): void {
  vi.spyOn(fs, 'fdatasync').mockImplementationOnce((_fd, callback) => {
    setImmediate(() => callback(systemError('EIO', 'fdatasync')));
  });
}

describe('opening', () => {
  it('tells size, path, name and identity of what is there', async () => {
    const path = await fileWith(pattern(1, 1000));
    await withStorage(path, 'r', async (storage) => {
      const stats = await stat(path);
      expect(await storage.size()).toBe(1000);
      expect(await storage.allocatedSize()).toBe(stats.blocks * 512);
      expect(storage.path).toBe(path);
      expect(storage.name).toBe(path);
      expect(storage.identity).toBe(`${stats.dev}:${stats.ino}`);
      expect(storage.readOnly).toBe(true);
    });
  });

  it('makes a relative path absolute', async () => {
    const path = await fileWith(pattern(1, 10));
    const relative = `${process.cwd().replace(/[^/]+/g, '..').slice(1)}${path}`;
    await withStorage(relative, 'r', (storage) => {
      expect(storage.path).toBe(path);
      return Promise.resolve();
    });
  });

  it('creates a file, or empties the one that is there', async () => {
    await withStorage(temp('new'), 'create', (storage) => storage.write(pattern(1, 10), 0));
    expect(await readFile(temp('new'))).toEqual(pattern(1, 10));
    await withStorage(temp('new'), 'create', async (storage) => {
      expect(await storage.size()).toBe(0);
    });
    expect(await readFile(temp('new'))).toHaveLength(0);
  });

  it('leaves a file that is opened to be changed as it is', async () => {
    const path = await fileWith(pattern(1, 100));
    await withStorage(path, 'r+', (storage) => storage.write(pattern(2, 10), 50));
    const expected = pattern(1, 100);
    pattern(2, 10).copy(expected, 50);
    expect(await readFile(path)).toEqual(expected);
  });

  it('keeps the code, syscall and path of a system error', async () => {
    await expect(FileStorage.open(temp('absent'), { mode: 'r' })).rejects.toMatchObject({
      code: 'ENOENT',
      syscall: 'open',
      path: temp('absent'),
    });
  });

  it('refuses, at once, what is neither file nor block device', async () => {
    await mkdir(temp('directory'));
    execFileSync('mkfifo', [temp('fifo')]);
    await symlink('/dev/zero', temp('link'));
    const server = createServer().listen(temp('socket'));
    try {
      const kinds: [string, RegExp][] = [
        ['directory', /is a directory/],
        ['fifo', /is a FIFO/],
        ['socket', /is a socket/],
        ['link', /is a character device/],
      ];
      for (const [name, message] of kinds) {
        for (const mode of ['r', 'r+'] as const) {
          const refusal = {
            code: 'ERR_QCOW2_UNSUPPORTED',
            message: expect.stringMatching(message) as string,
          };
          await expect(FileStorage.open(temp(name), { mode })).rejects.toMatchObject(refusal);
        }
      }
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });

  it('refuses the made-up files of the system when only regular ones will do', async () => {
    await expect(
      FileStorage.open('/proc/self/status', { mode: 'r', regularOnly: true }),
    ).rejects.toMatchObject({
      code: 'ERR_QCOW2_UNSUPPORTED',
    });
    const storage = await FileStorage.open(await fileWith(pattern(1, 10)), { mode: 'r', regularOnly: true });
    await storage.close();
  });

  it('leaves no descriptor open after a refusal', async () => {
    await mkdir(temp('directory'));
    const count = () => fs.readdirSync('/proc/self/fd').length;
    const before = count();
    for (let i = 0; i < 5; i += 1) {
      await expect(FileStorage.open(temp('directory'), { mode: 'r' })).rejects.toThrow();
    }
    expect(count()).toBe(before);
  });
});

describe('reading and writing', () => {
  it('does the same as a plain buffer under random operations', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      const random = new Random(7);
      const model = Buffer.alloc(300_000);
      let size = 0;
      for (let step = 0; step < 300; step += 1) {
        const position = random.below(200_000);
        const length = random.below(50_000);
        const data = pattern(step, length);
        const kind = random.below(4);
        if (kind === 0) await storage.write(data, position);
        else if (kind === 1) await storage.writev(cutUp(data, random), position);
        else if (kind === 2) await storage.truncate(position);
        if (kind <= 1) {
          data.copy(model, position);
          if (length > 0) size = Math.max(size, position + length);
        } else if (kind === 2) {
          model.fill(0, position);
          size = position;
        }
        const buffer = Buffer.alloc(length);
        const got = await storage.read(buffer, position);
        const expected = model.subarray(Math.min(position, size), Math.min(position + length, size));
        expect(buffer.subarray(0, got).equals(expected)).toBe(true);
        expect(await storage.size()).toBe(size);
      }
      expect((await readFile(temp('file'))).equals(model.subarray(0, size))).toBe(true);
    });
  });

  it('writes more buffers at once than one system call takes', async () => {
    const buffers = Array.from({ length: 5000 }, (_, i) => pattern(i, 1 + (i % 7)));
    await withStorage(temp('file'), 'create', (storage) => storage.writev(buffers, 3));
    const written = await readFile(temp('file'));
    expect(written.equals(Buffer.concat([Buffer.alloc(3), ...buffers]))).toBe(true);
  });

  it('goes on after short reads, short writes, EINTR and EAGAIN', async () => {
    const real = {
      read: fs.read as Positional,
      write: fs.write as Positional,
      writev: fs.writev as Vectored,
    };
    const random = new Random(9);
    const disturb = (callback: Done, syscall: string): boolean => {
      if (random.chance(0.6)) return false;
      setImmediate(() => callback(systemError(random.pick(['EINTR', 'EAGAIN']), syscall), 0));
      return true;
    };
    const shorten =
      (syscall: 'read' | 'write'): Positional =>
      (fd, buffer, offset, length, position, callback) => {
        if (disturb(callback, syscall)) return;
        real[syscall](fd, buffer, offset, Math.min(length, random.between(1, 999)), position, callback);
      };
    const shortenVector: Vectored = (fd, buffers, position, callback) => {
      if (disturb(callback, 'write')) return;
      const [first, second] = buffers.slice(0, random.between(1, 2));
      const short = [first, second?.subarray(0, random.between(1, 5))].filter((part) => part !== undefined);
      real.writev(fd, short, position, callback);
    };
    vi.spyOn(fs, 'read').mockImplementation(shorten('read') as typeof fs.read);
    vi.spyOn(fs, 'write').mockImplementation(shorten('write') as typeof fs.write);
    vi.spyOn(fs, 'writev').mockImplementation(shortenVector as typeof fs.writev);

    const data = pattern(1, 20_000);
    await withStorage(temp('file'), 'create', async (storage) => {
      await storage.write(data, 10);
      await storage.writev(cutUp(data, random), 20_010);
      const buffer = Buffer.alloc(50_000);
      expect(await storage.read(buffer, 0)).toBe(40_010);
      expect(buffer.subarray(0, 40_010).equals(Buffer.concat([Buffer.alloc(10), data, data]))).toBe(true);
    });
  });

  it('names code, syscall and path when the system refuses a write', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      const full: Positional = (...args) => {
        setImmediate(() => args[5](systemError('ENOSPC', 'write'), 0));
      };
      vi.spyOn(fs, 'write').mockImplementationOnce(full as typeof fs.write);
      await expect(storage.write(pattern(1, maxSmallWrite + 1), 0)).rejects.toMatchObject({
        code: 'ENOSPC',
        syscall: 'write',
        path: temp('file'),
        message: expect.stringContaining(temp('file')) as string,
      });
    });
  });

  it('fails, rather than trying for ever, when the system writes nothing', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      const idle: Positional = (...args) => {
        setImmediate(() => args[5](null, 0));
      };
      vi.spyOn(fs, 'write').mockImplementation(idle as typeof fs.write);
      await expect(storage.write(pattern(1, maxSmallWrite + 1), 0)).rejects.toMatchObject({ code: 'EIO' });
    });
  });

  it('rejects when the buffer is detached in the middle', async () => {
    const path = await fileWith(pattern(1, 1000));
    const real = fs.read as Positional;
    const memory = new ArrayBuffer(1000);
    const shortAndDetached: Positional = (fd, buffer, offset, _length, position, callback) => {
      real(fd, buffer, offset, 100, position, (error, count) => {
        structuredClone(memory, { transfer: [memory] });
        callback(error, count);
      });
    };
    vi.spyOn(fs, 'read').mockImplementationOnce(shortAndDetached as typeof fs.read);
    await withStorage(path, 'r', async (storage) => {
      await expect(storage.read(new Uint8Array(memory), 0)).rejects.toThrow();
    });
  });

  it('refuses positions that are no byte positions', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      for (const position of [-1, NaN, 0.5, 2 ** 53]) {
        const refusal = { code: 'ERR_OUT_OF_RANGE' };
        await expect(storage.write(pattern(1, 1), position)).rejects.toMatchObject(refusal);
        await expect(storage.writev([pattern(1, 1)], position)).rejects.toMatchObject(refusal);
        await expect(storage.read(Buffer.alloc(1), position)).rejects.toMatchObject(refusal);
      }
      expect(await storage.size()).toBe(0);
    });
  });

  it('changes nothing through a storage that is open read-only', async () => {
    const path = await fileWith(pattern(1, 100));
    await withStorage(path, 'r', async (storage) => {
      const refusal = { code: 'ERR_QCOW2_READ_ONLY' };
      await expect(storage.write(pattern(2, 1), 0)).rejects.toMatchObject(refusal);
      await expect(storage.writev([pattern(2, 1)], 0)).rejects.toMatchObject(refusal);
      await expect(storage.truncate(0)).rejects.toMatchObject(refusal);
    });
    expect(await readFile(path)).toEqual(pattern(1, 100));
  });
});

describe('flushing', () => {
  it('asks the system for durability, of the directory too when the file is new', async () => {
    const datasync = vi.spyOn(fs, 'fdatasync');
    const synced: string[] = [];
    const realFsync = fs.fsync;
    vi.spyOn(fs, 'fsync').mockImplementation((fd, callback) => {
      synced.push(fs.readlinkSync(`/proc/self/fd/${fd}`));
      realFsync(fd, callback);
    });
    await withStorage(temp('file'), 'create', async (storage) => {
      await storage.write(pattern(1, 10), 0);
      await storage.flush();
      await storage.flush();
      const fd = await storage.withDescriptor((number) => Promise.resolve(number));
      expect(datasync.mock.calls.map(([number]) => number)).toEqual([fd, fd]);
      expect(synced).toEqual([temp()]);
    });
  });

  it('succeeds for a new file whose name is gone: its bytes are still to be kept', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      await unlink(temp('file'));
      await storage.write(pattern(1, 10), 0);
      await storage.flush();
    });
  });

  it('fails when the name of a new file cannot be made durable', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      vi.spyOn(fs, 'fsync').mockImplementationOnce((_fd, callback) => {
        setImmediate(() => callback(systemError('EIO', 'fsync')));
      });
      await expect(storage.flush()).rejects.toMatchObject({ code: 'EIO', syscall: 'fsync' });
      await expect(storage.flush()).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
    });
  });

  it('never succeeds again after it has failed', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      failNextDatasync();
      await expect(storage.flush()).rejects.toMatchObject({ code: 'EIO', syscall: 'fdatasync' });
      for (let i = 0; i < 2; i += 1) {
        await expect(storage.flush()).rejects.toMatchObject({
          code: 'ERR_QCOW2_FAILED',
          cause: { code: 'EIO' },
        });
      }
    });
  });

  it('fails beside a flush that fails: the system tells of lost data only once', async () => {
    await withStorage(temp('file'), 'create', async (storage) => {
      await storage.flush();
      failNextDatasync();
      const late = new Promise<void>((resolve) => setTimeout(resolve, 50));
      vi.mocked(fs.fdatasync).mockImplementationOnce((_fd, callback) => {
        void late.then(() => callback(null));
      });
      const [first, second] = await Promise.allSettled([storage.flush(), storage.flush()]);
      expect(first.status).toBe('rejected');
      expect(second).toMatchObject({ status: 'rejected', reason: { code: 'ERR_QCOW2_FAILED' } });
    });
  });
});

describe('closing', () => {
  it('waits for operations under way, and rejects those that come later', async () => {
    const storage = await FileStorage.open(temp('file'), { mode: 'create' });
    const data = pattern(1, 4 * 2 ** 20);
    let written = false;
    const write = storage.write(data, 0).then(() => (written = true));
    const closed = storage.close();
    await expect(storage.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await expect(storage.size()).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
    await closed;
    expect(written).toBe(true);
    await write;
    await storage.close();
    expect((await readFile(temp('file'))).equals(data)).toBe(true);
  });

  it('leaves a FileHandle of the caller open', async () => {
    const handle = await open(await fileWith(pattern(1, 100)), 'r+');
    try {
      const storage = await FileStorage.wrap(handle, { mode: 'r+' });
      expect(storage.path).toBeUndefined();
      await storage.write(pattern(2, 10), 0);
      await storage.close();
      await expect(storage.write(pattern(2, 10), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
      const buffer = Buffer.alloc(10);
      await handle.read(buffer, 0, 10, 0);
      expect(buffer).toEqual(pattern(2, 10));
    } finally {
      await handle.close();
    }
  });

  it('lends its descriptor to work that close waits for, and to none afterwards', async () => {
    const storage = await FileStorage.open(await fileWith(pattern(1, 100)), { mode: 'r' });
    let closed = false;
    await storage.withDescriptor(async (fd) => {
      void storage.close().then(() => (closed = true));
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(closed).toBe(false);
      expect(fs.fstatSync(fd).size).toBe(100);
    });
    await storage.close();
    const late = storage.withDescriptor(() => Promise.resolve());
    await expect(late).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
  });

  it('lends no descriptor when the caller has closed the FileHandle', async () => {
    const handle = await open(await fileWith(pattern(1, 100)), 'r');
    const storage = await FileStorage.wrap(handle, { mode: 'r' });
    await handle.close();
    const late = storage.withDescriptor(() => Promise.resolve());
    await expect(late).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
  });

  it('never touches another file when the caller has closed the FileHandle', async () => {
    const handle = await open(await fileWith(pattern(1, 100)), 'r+');
    const storage = await FileStorage.wrap(handle, { mode: 'r+' });
    const { fd } = handle;
    await handle.close();
    const victim = await open(await fileWith(pattern(3, 100), 'victim'), 'r+');
    try {
      // The system gives the lowest free number: the victim has the one that the storage knew.
      expect(victim.fd).toBe(fd);
      await expect(storage.write(pattern(2, 10), 0)).rejects.toThrow();
      expect(await readFile(temp('victim'))).toEqual(pattern(3, 100));
    } finally {
      await victim.close();
    }
  });
});

describe('the size of a block device', () => {
  it('is found by reading', async () => {
    for (const size of [0, 1, 2, 3, 511, 512, 513, 4095, 65_536, 1_000_003]) {
      const path = await fileWith(new Uint8Array(size), `size-${size}`);
      const handle = await open(path);
      expect(await sizeByReading(handle.fd)).toBe(size);
      await handle.close();
    }
  });
});

/** The same bytes in pieces, some of them empty. */
function cutUp(data: Buffer, random: Random): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < data.length;) {
    const length = random.below(3000);
    pieces.push(data.subarray(at, at + length));
    at += length;
  }
  return pieces;
}
