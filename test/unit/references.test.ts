/** What an image may make the library open: nothing by default, and never anything that waits, loops or is no plain file. */
import { execFile } from 'node:child_process';
import type * as Fs from 'node:fs';
import type * as FsPromises from 'node:fs/promises';
import { link, mkdir, readdir, readlink, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { promisify } from 'node:util';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { create, MemoryStorage, open, type OpenOptions, type Reference } from '../../lib/index.js';
import { qemuImg } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

/** Paths that were looked at or opened, in the order of the calls. */
const { touched } = vi.hoisted(() => ({ touched: [] as string[] }));

vi.mock('node:fs', async (importOriginal) => {
  const original = await importOriginal<typeof Fs & { default: typeof Fs }>();
  const recorded = { open: recording(original.open, touched) };
  return { ...original, ...recorded, default: { ...original.default, ...recorded } };
});
vi.mock('node:fs/promises', async (importOriginal) => {
  const original = await importOriginal<typeof FsPromises>();
  const names = ['open', 'stat', 'lstat', 'realpath', 'readFile', 'access'] as const;
  const recorded = Object.fromEntries(names.map((name) => [name, recording(original[name], touched)]));
  return { ...original, ...recorded };
});
function recording(call: unknown, paths: string[]): unknown {
  return (...args: unknown[]): unknown => {
    paths.push(String(args[0]));
    return (call as (...all: unknown[]) => unknown)(...args);
  };
}

const clusterSize = 65536;
const denied = { code: 'ERR_QCOW2_REFERENCE_DENIED' };
const unusable = { code: 'ERR_QCOW2_REFERENCE' };
const unsupported = { code: 'ERR_QCOW2_UNSUPPORTED' };

const inDirectory = useTempDir();
const image = (): string => inDirectory('image.qcow2');
beforeEach(() => {
  touched.length = 0;
});

/** Makes an image that names a backing file, whatever that is. */
async function nameBacking(name: string, format: string | null = 'raw', path = image()): Promise<string> {
  await qemuImg(['create', '-q', '-f', 'qcow2', '-u', '-b', 'placeholder', '-F', 'raw', path, '1M']);
  await qemuImg([
    'rebase',
    '-u',
    '-f',
    'qcow2',
    '-b',
    name,
    ...(format === null ? [] : ['-F', format]),
    path,
  ]);
  return path;
}

/** Makes an image that names an external data file. */
async function nameDataFile(name: string, path = image()): Promise<string> {
  const place = inDirectory('made-with-the-image');
  await (await create(path, 2 ** 20, { dataFile: { name, source: place } })).close();
  return path;
}

async function openAndClose(path: string, options: OpenOptions = {}): Promise<void> {
  await (await open(path, options)).close();
}

async function firstBytes(path: string, options: OpenOptions): Promise<Buffer> {
  const disk = await open(path, options);
  const bytes = Buffer.alloc(4096);
  await disk.read(bytes, 0);
  await disk.close();
  return bytes;
}

/** Files of the test's directory that this process has open. */
async function openFiles(): Promise<string[]> {
  const links = await Promise.all(
    (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')),
  );
  return links.filter((path) => path.startsWith(inDirectory()));
}

describe('by default', () => {
  it.each([
    { what: 'a backing file', make: () => nameBacking('base') },
    { what: 'a backing file in another directory', make: () => nameBacking('/etc/passwd') },
    { what: 'a missing backing file', make: () => nameBacking('not-there') },
    { what: 'a json: name', make: () => nameBacking('json:{"driver":"raw"}') },
    { what: 'an nbd: name', make: () => nameBacking('nbd://localhost:10809/x') },
    { what: 'a data file', make: () => nameDataFile('data') },
    { what: 'a data file in another directory', make: () => nameDataFile('/etc/passwd') },
  ])('$what is not even looked at', async ({ make }) => {
    await writeFile(inDirectory('base'), pattern(1, 2 ** 20));
    await writeFile(inDirectory('data'), pattern(1, 2 ** 20));
    const path = await make();
    for (const mode of ['r', 'r+'] as const) {
      touched.length = 0;
      await expect(openAndClose(path, { mode })).rejects.toMatchObject(denied);
      expect(new Set(touched)).toEqual(new Set([path]));
      expect(await openFiles()).toEqual([]);
    }
  });

  it('the error tells nothing of what is there', async () => {
    await writeFile(inDirectory('there'), 'secret');
    const messages = [];
    for (const name of ['there', 'lost!']) {
      const failure = await open(await nameBacking(name)).catch((error: unknown) => error as Error);
      messages.push((failure as Error).message.replaceAll(name, 'NAME'));
    }
    expect(messages[0]).toBe(messages[1]);
  });

  it('the layer alone can be looked at without its backing file', async () => {
    const path = await nameBacking('/etc/passwd');
    touched.length = 0;
    const disk = await open(path, { backing: 'none' });
    expect((await disk.info()).backing).toEqual({ name: '/etc/passwd', format: 'raw' });
    const bytes = Buffer.alloc(4096, 1);
    await disk.read(bytes, 0);
    await disk.close();
    expect(bytes.equals(Buffer.alloc(4096))).toBe(true);
    expect(touched).not.toContain('/etc/passwd');
    const writable = await open(path, { backing: 'none', mode: 'r+' });
    await expect(writable.write(bytes, 0)).rejects.toMatchObject(unusable);
    await writable.close();
  });
});

describe('same-directory', () => {
  it('follows a file beside the image, by any name for it', async () => {
    await writeFile(inDirectory('base'), pattern(1, 2 ** 20));
    for (const name of ['base', './base', inDirectory('base'), `file:${inDirectory('base')}`]) {
      const bytes = await firstBytes(await nameBacking(name), { resolve: 'same-directory' });
      expect(bytes.equals(pattern(1, 4096)), name).toBe(true);
    }
  });

  it.each(['../base', 'sub/base', '/etc/passwd', 'sub/../../base'])('refuses %s', async (name) => {
    const path = inDirectory('inner/image.qcow2');
    await mkdir(inDirectory('inner/sub'), { recursive: true });
    for (const place of ['base', 'inner/sub/base']) await writeFile(inDirectory(place), 'secret');
    await nameBacking(name, 'raw', path);
    await expect(openAndClose(path, { resolve: 'same-directory' })).rejects.toMatchObject(denied);
  });

  it('refuses a symbolic link that leads out of the directory, and follows one that stays', async () => {
    await mkdir(inDirectory('inner'));
    await writeFile(inDirectory('secret'), pattern(1, 4096));
    await writeFile(inDirectory('inner/real'), pattern(2, 4096));
    await symlink('../secret', inDirectory('inner/out'));
    await symlink('real', inDirectory('inner/in'));
    const path = inDirectory('inner/image.qcow2');
    await nameBacking('out', 'raw', path);
    await expect(openAndClose(path, { resolve: 'same-directory' })).rejects.toMatchObject(denied);
    await nameBacking('in', 'raw', path);
    const bytes = await firstBytes(path, { resolve: 'same-directory' });
    expect(bytes.equals(pattern(2, 4096))).toBe(true);
  });

  it('each image of a chain may only name what is beside itself', async () => {
    await mkdir(inDirectory('far'));
    await writeFile(inDirectory('far/base'), pattern(1, 2 ** 20));
    await nameBacking(inDirectory('far/base'), 'raw', inDirectory('middle.qcow2'));
    await nameBacking('middle.qcow2', 'qcow2');
    await expect(openAndClose(image(), { resolve: 'same-directory' })).rejects.toMatchObject(denied);
    expect(await openFiles()).toEqual([]);
    expect((await firstBytes(image(), { resolve: 'any' })).equals(pattern(1, 4096))).toBe(true);
  });

  it('applies to data files', async () => {
    await mkdir(inDirectory('far'));
    for (const place of ['data', 'far/data']) await writeFile(inDirectory(place), pattern(3, 2 ** 20));
    await nameDataFile('data');
    await openAndClose(image(), { resolve: 'same-directory' });
    await nameDataFile('far/data');
    await expect(openAndClose(image(), { resolve: 'same-directory' })).rejects.toMatchObject(denied);
    await openAndClose(image(), { resolve: 'any' });
  });
});

describe('any', () => {
  it.each([
    'json:{"driver":"raw","file":{"driver":"file","filename":"base"}}',
    'nbd://localhost:10809/x',
    'nbd:unix:/run/nbd.sock',
    'http://localhost/base',
    'host_device:/dev/vda',
    'raw:base',
    'fat:.',
  ])('never follows %s', async (name) => {
    await writeFile(inDirectory('base'), pattern(1, 2 ** 20));
    await nameBacking(name);
    await expect(openAndClose(image(), { resolve: 'any' })).rejects.toMatchObject(denied);
  });

  it('a name with a colon behind a slash is a file', async () => {
    await writeFile(inDirectory('a:b'), pattern(1, 2 ** 20));
    const bytes = await firstBytes(await nameBacking('./a:b'), { resolve: 'any' });
    expect(bytes.equals(pattern(1, 4096))).toBe(true);
  });

  it.each([
    { what: 'a missing file', name: 'not-there', error: unusable },
    { what: 'a directory', name: '.', error: unusable },
    { what: 'a device', name: '/dev/zero', error: unusable },
    { what: 'a FIFO', name: 'fifo', error: unusable },
    { what: 'a made-up file', name: '/proc/self/environ', error: unsupported },
  ])(
    'refuses $what, at once',
    async ({ name, error }) => {
      await promisify(execFile)('mkfifo', [inDirectory('fifo')]);
      await nameBacking(name);
      await expect(openAndClose(image(), { resolve: 'any' })).rejects.toMatchObject(error);
      await nameDataFile(name);
      await expect(openAndClose(image(), { resolve: 'any' })).rejects.toMatchObject(error);
      expect(await openFiles()).toEqual([]);
    },
    5_000,
  );

  it('refuses a backing file in a format it does not read', async () => {
    await writeFile(inDirectory('base'), pattern(1, 2 ** 20));
    await nameBacking('base', 'vmdk');
    await expect(openAndClose(image(), { resolve: 'any' })).rejects.toMatchObject(unsupported);
  });

  it.each(['raw', 'qcow2'] as const)(
    'finds out that a backing file without a format is %s',
    async (format) => {
      await writeFile(inDirectory('raw'), pattern(1, 2 ** 20));
      await qemuImg(['convert', '-f', 'raw', '-O', format, inDirectory('raw'), inDirectory('base')]);
      // Newer tools no longer make such images, so the extension is made unknown.
      await nameBacking('base', 'raw');
      await hideBackingFormat(image());
      const bytes = await firstBytes(image(), { resolve: 'any' });
      expect(bytes.equals(pattern(1, 4096))).toBe(true);
    },
  );

  it('a raw backing file stays raw though it holds a qcow2 image', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', inDirectory('base'), '1M']);
    const bytes = await firstBytes(await nameBacking('base', 'raw'), { resolve: 'any' });
    expect(bytes.subarray(0, 4).toString('latin1')).toBe('QFI\xfb');
  });
});

describe('loops', () => {
  it.each(['r', 'r+'] as const)(
    'an image that stands on itself (%s)',
    async (mode) => {
      await nameBacking('image.qcow2', 'qcow2');
      for (const resolve of ['same-directory', 'any'] as const) {
        await expect(openAndClose(image(), { mode, resolve })).rejects.toMatchObject(unusable);
      }
      await link(image(), inDirectory('other-name'));
      await nameBacking('other-name', 'qcow2');
      await expect(openAndClose(image(), { mode, resolve: 'any' })).rejects.toMatchObject(unusable);
      expect(await openFiles()).toEqual([]);
    },
    5_000,
  );

  it('two images that stand on each other', async () => {
    await nameBacking('b.qcow2', 'qcow2', inDirectory('a.qcow2'));
    await nameBacking('a.qcow2', 'qcow2', inDirectory('b.qcow2'));
    await expect(openAndClose(inDirectory('a.qcow2'), { resolve: 'any' })).rejects.toMatchObject(unusable);
    expect(await openFiles()).toEqual([]);
  }, 5_000);

  it.each(['r', 'r+'] as const)('an image that is its own data file (%s)', async (mode) => {
    await nameDataFile('image.qcow2');
    await expect(openAndClose(image(), { mode, resolve: 'any' })).rejects.toMatchObject(unusable);
    await expect(openAndClose(image(), { mode, dataFile: image(), lock: false })).rejects.toMatchObject(
      unusable,
    );
  });

  it('a chain without end', async () => {
    let opened = 0;
    const bytes = await overlayInMemory();
    const next = (): MemoryStorage => {
      opened += 1;
      return new MemoryStorage(bytes);
    };
    await expect(openInMemory(bytes, next)).rejects.toMatchObject(unusable);
    expect(opened).toBeLessThanOrEqual(200);
  });

  it('a chain of 150 images is none', async () => {
    const base = pattern(1, 2 ** 20);
    const bytes = await overlayInMemory();
    let opened = 0;
    const disk = await openInMemory(bytes, () => {
      opened += 1;
      return opened < 150 ? new MemoryStorage(bytes) : baseInMemory(base);
    });
    const got = Buffer.alloc(4096);
    await disk.read(got, 5000);
    await disk.close();
    expect(got.equals(base.subarray(5000, 9096))).toBe(true);
  });
});

describe('a function', () => {
  it('is told what the image says and decides', async () => {
    await writeFile(inDirectory('elsewhere'), pattern(1, 2 ** 20));
    const path = await nameBacking('nbd://localhost:10809/x', 'raw');
    const asked: Reference[] = [];
    const resolve = (reference: Reference): Promise<string> => {
      asked.push(reference);
      return Promise.resolve(inDirectory('elsewhere'));
    };
    expect((await firstBytes(path, { resolve })).equals(pattern(1, 4096))).toBe(true);
    expect(asked).toEqual([{ kind: 'backing', name: 'nbd://localhost:10809/x', format: 'raw', from: path }]);
    await openAndClose(await nameDataFile('/srv/data'), { resolve });
    expect(asked[1]).toMatchObject({ kind: 'data-file', name: '/srv/data', from: path });
  });

  it('may give bytes in memory, which stay open', async () => {
    const path = await nameBacking('base', 'raw');
    const base = new MemoryStorage(pattern(1, 2 ** 20));
    expect((await firstBytes(path, { resolve: () => base })).equals(pattern(1, 4096))).toBe(true);
    expect(await base.size()).toBe(2 ** 20);
  });

  it('refuses by throwing, and its error arrives', async () => {
    const path = await nameBacking('base', 'raw');
    const refusal = new Error('not on my watch');
    const resolve = (): never => {
      throw refusal;
    };
    await expect(openAndClose(path, { resolve })).rejects.toBe(refusal);
    expect(await openFiles()).toEqual([]);
  });

  it('cannot make it wait for a FIFO', async () => {
    await promisify(execFile)('mkfifo', [inDirectory('fifo')]);
    const resolve = (): string => inDirectory('fifo');
    await expect(openAndClose(await nameBacking('x'), { resolve })).rejects.toMatchObject(unsupported);
    await expect(openAndClose(await nameDataFile('x'), { resolve })).rejects.toMatchObject(unsupported);
  }, 5_000);
});

describe('create', () => {
  it('opens the backing file it is told to use, but not what that names', async () => {
    await writeFile(inDirectory('base'), pattern(1, 2 ** 20));
    await nameBacking('base', 'raw', inDirectory('middle.qcow2'));
    const backing = { name: 'middle.qcow2', format: 'qcow2' as const };
    await expect(create(image(), 2 ** 20, { backing })).rejects.toMatchObject(denied);
    expect(await openFiles()).toEqual([]);
    const disk = await create(image(), 2 ** 20, { backing, resolve: 'same-directory' });
    const bytes = Buffer.alloc(4096);
    await disk.read(bytes, 0);
    await disk.close();
    expect(bytes.equals(pattern(1, 4096))).toBe(true);
  });

  it.each([
    { what: 'a missing backing file', options: { backing: { name: 'not-there' } }, error: unusable },
    { what: 'a directory as backing file', options: { backing: { name: '.' } }, error: unusable },
    {
      what: 'a protocol as backing file',
      options: { backing: { name: 'nbd://localhost/x' } },
      error: denied,
    },
    { what: 'itself as backing file', options: { backing: { name: 'image.qcow2' } }, error: unusable },
    { what: 'itself as data file', options: { dataFile: { name: 'image.qcow2' } }, error: unusable },
    {
      what: 'itself as data file, without locks',
      options: { dataFile: { name: 'image.qcow2' }, lock: false },
      error: unusable,
    },
  ])('refuses $what, and leaves what was there', async ({ options, error }) => {
    const before = await create(image(), 2 ** 20);
    await before.write(pattern(1, 4096), 0);
    await before.close();
    await expect(create(image(), 2 ** 20, options)).rejects.toMatchObject(error);
    expect((await firstBytes(image(), {})).equals(pattern(1, 4096))).toBe(true);
    expect(await openFiles()).toEqual([]);
  });
});

/** The bytes of an empty image that names the backing file `next`. */
async function overlayInMemory(): Promise<Buffer> {
  const storage = new MemoryStorage();
  const backing = { name: 'next', format: 'qcow2' as const, unchecked: true };
  await (await create(storage, 2 ** 20, { backing, clusterSize })).close();
  const bytes = Buffer.alloc(await storage.size());
  await storage.read(bytes, 0);
  return bytes;
}

function openInMemory(
  bytes: Buffer,
  next: () => MemoryStorage | Promise<MemoryStorage>,
): ReturnType<typeof open> {
  return open(new MemoryStorage(bytes), { resolve: () => next() });
}

async function baseInMemory(content: Buffer): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  const disk = await create(storage, content.length);
  await disk.write(content, 0);
  await disk.close();
  return storage;
}

/** Turns the backing format extension of an image into one that nobody knows. */
async function hideBackingFormat(path: string): Promise<void> {
  const { readFile } = await vi.importActual<typeof FsPromises>('node:fs/promises');
  const bytes = await readFile(path);
  const at = bytes.indexOf(Buffer.from('e2792aca', 'hex'));
  expect(at, `${basename(path)} in ${dirname(path)} names no format`).toBeGreaterThan(0);
  bytes.writeUInt32BE(0x12345678, at);
  await writeFile(path, bytes);
}
