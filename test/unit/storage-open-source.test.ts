import { open, readFile, writeFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { openSource } from '../../lib/storage/open-source.js';
import type { Source } from '../../lib/storage/open-source.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const content = pattern(1, 100);

describe('openSource', () => {
  it('opens a path and a file: URL, which are then to be closed', async () => {
    // A name that a URL must escape, and that looks like a protocol.
    const path = temp('nbd:50% #1?.img');
    await writeFile(path, content);
    for (const source of [path, pathToFileURL(path)]) {
      const { storage, owned } = await openSource(source, { mode: 'r' });
      const buffer = Buffer.alloc(100);
      await storage.read(buffer, 0);
      expect(buffer).toEqual(content);
      expect(storage.path).toBe(path);
      expect(owned).toBe(true);
      await storage.close();
    }
  });

  it('uses a FileHandle and leaves it open', async () => {
    await writeFile(temp('file'), content);
    const handle = await open(temp('file'), 'r+');
    try {
      const { storage, owned } = await openSource(handle, { mode: 'r+' });
      await storage.write(pattern(2, 10), 5);
      if (owned) await storage.close();
      expect((await handle.stat()).size).toBe(100);
    } finally {
      await handle.close();
    }
    const expected = Buffer.from(content);
    pattern(2, 10).copy(expected, 5);
    expect(await readFile(temp('file'))).toEqual(expected);
  });

  it('hands a Storage back as it is, for its owner to close', async () => {
    const memory = new MemoryStorage(content);
    expect(await openSource(memory, { mode: 'r+' })).toEqual({ storage: memory, owned: false });
  });

  it('empties every kind of source when an image is to be created in it', async () => {
    await writeFile(temp('file'), content);
    await writeFile(temp('handle'), content);
    const handle = await open(temp('handle'), 'r+');
    try {
      for (const source of [temp('file'), handle, new MemoryStorage(content)]) {
        const { storage } = await openSource(source, { mode: 'create' });
        expect(await storage.size()).toBe(0);
        await storage.close();
      }
    } finally {
      await handle.close();
    }
  });

  it('refuses to change a Storage that is read-only', async () => {
    const storage = Object.assign(Object.create(new MemoryStorage(content)) as MemoryStorage, {
      readOnly: true,
    });
    for (const mode of ['r+', 'create'] as const) {
      await expect(openSource(storage, { mode })).rejects.toMatchObject({ code: 'ERR_QCOW2_READ_ONLY' });
    }
  });

  it('refuses what is no source', async () => {
    const wrong: unknown[] = [undefined, null, 7, {}, content, { fd: 3 }];
    for (const source of wrong) {
      await expect(openSource(source as Source, { mode: 'r' })).rejects.toMatchObject({
        name: 'TypeError',
        code: 'ERR_INVALID_ARG_TYPE',
      });
    }
    await expect(openSource(new URL('ftp://localhost/a'), { mode: 'r' })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_VALUE',
    });
  });
});
