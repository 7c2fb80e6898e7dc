import { open, readFile } from 'node:fs/promises';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { OsResult, native } from '../../lib/native.js';
import { FileStorage } from '../../lib/storage/file.js';
import { acquireImageLock } from '../../lib/storage/lock.js';
import { holdByQemu, qemuImg, qemuIo } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const write = ['write -P 1 0 512'];
const read = ['read 0 512'];
let path = '';

beforeEach(async () => {
  path = temp('image.qcow2');
  await qemuImg(['create', '-q', '-f', 'qcow2', path, '1M']);
});

async function whileHeld<T>(mode: 'r' | 'r+', use: () => Promise<T>): Promise<T> {
  const storage = await FileStorage.open(path, { mode });
  try {
    return await use();
  } finally {
    await storage.close();
  }
}

const opens = async (mode: 'r' | 'r+' | 'create', lock = true): Promise<void> => {
  await (await FileStorage.open(path, { mode, lock })).close();
};

describe('the image lock', () => {
  it('keeps QEMU from an image that we write', async () => {
    await whileHeld('r+', async () => {
      await expect(qemuIo(path, write)).rejects.toThrow(/Is another process using the image/);
      await expect(qemuIo(path, read, { flags: ['-r'] })).rejects.toThrow(
        /Is another process using the image/,
      );
    });
    await qemuIo(path, write);
  });

  it('lets QEMU read, and not write, an image that we read', async () => {
    await whileHeld('r', async () => {
      await qemuIo(path, read, { flags: ['-r'] });
      await expect(qemuIo(path, write)).rejects.toThrow(/Is another process using the image/);
    });
    await qemuIo(path, write);
  });

  it('keeps us from an image that QEMU writes, and says what to do', async () => {
    const holder = await holdByQemu(path);
    const before = await readFile(path);
    for (const mode of ['r', 'r+', 'create'] as const) {
      await expect(opens(mode)).rejects.toMatchObject({
        code: 'ERR_QCOW2_LOCKED',
        message: expect.stringMatching(/image\.qcow2 is in use by another process.*[Ss]top/) as string,
      });
    }
    expect((await readFile(path)).equals(before)).toBe(true);
    await opens('r', false);
    await holder.release();
    await opens('r+');
  });

  it('lets us read, and not write, an image that QEMU reads', async () => {
    const holder = await holdByQemu(path, { readOnly: true });
    await opens('r');
    await expect(opens('r+')).rejects.toMatchObject({ code: 'ERR_QCOW2_LOCKED' });
    await holder.release();
    await opens('r+');
  });

  it('holds between two of our own, in one process too', async () => {
    await whileHeld('r', async () => {
      await opens('r');
      await expect(opens('r+')).rejects.toMatchObject({ code: 'ERR_QCOW2_LOCKED' });
    });
    await whileHeld('r+', async () => {
      await expect(opens('r')).rejects.toMatchObject({ code: 'ERR_QCOW2_LOCKED' });
    });
  });

  it('leaves nothing behind when it was refused', async () => {
    const holder = await holdByQemu(path, { readOnly: true });
    const handle = await open(path, 'r+');
    try {
      expect(() => acquireImageLock(handle.fd, 'r+', 'the image')).toThrow(/the image is in use/);
      // Had the failed attempt kept a byte, these would conflict with it.
      await qemuIo(path, read, { flags: ['-r'] });
      await holder.release();
      await qemuIo(path, write);
    } finally {
      await handle.close();
    }
  });

  it('is given back on a FileHandle that stays open', async () => {
    const handle = await open(path, 'r+');
    try {
      const storage = await FileStorage.wrap(handle, { mode: 'r+' });
      await expect(qemuIo(path, write)).rejects.toThrow(/Is another process using the image/);
      await storage.close();
      await qemuIo(path, write);
    } finally {
      await handle.close();
    }
  });

  it('does nothing where the platform has no such locks', async () => {
    vi.spyOn(native, 'lockBytes').mockReturnValue(OsResult.unsupported);
    vi.spyOn(native, 'probeLock').mockReturnValue(OsResult.unsupported);
    try {
      await whileHeld('r+', () => opens('r+'));
    } finally {
      vi.restoreAllMocks();
    }
  });
});
