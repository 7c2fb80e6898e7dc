/** readUpTo(): everything up to the end of a store, which others may make longer or shorter meanwhile. */
import { expect, it } from 'vitest';
import { readUpTo } from '../../lib/storage/storage.js';
import { MemoryStorage } from '../../lib/index.js';

/** A store whose reads give at most `most` bytes and are followed by what `after` does. */
class OddStorage extends MemoryStorage {
  reads = 0;
  constructor(
    bytes: Buffer,
    readonly most: (read: number) => number,
    readonly after: (read: number, storage: MemoryStorage) => Promise<void> = () => Promise.resolve(),
  ) {
    super(bytes);
  }

  override async read(buffer: Uint8Array, position: number): Promise<number> {
    const read = ++this.reads;
    const got = await super.read(buffer.subarray(0, this.most(read)), position);
    await this.after(read, this);
    return got;
  }
}

const content = Buffer.from('0123456789abcdef');

it('reads on after short reads', async () => {
  const buffer = Buffer.alloc(20);
  expect(await readUpTo(new OddStorage(content, () => 3), buffer, 2)).toBe(14);
  expect(buffer.subarray(0, 14).equals(content.subarray(2))).toBe(true);
});

it('fails when nothing comes before the end', async () => {
  const storage = new OddStorage(content, (read) => (read === 1 ? 5 : 0));
  await expect(readUpTo(storage, Buffer.alloc(8), 0)).rejects.toMatchObject({ code: 'EIO', syscall: 'read' });
});

it('reads what a store that has just grown holds', async () => {
  const storage = new OddStorage(
    content,
    () => Infinity,
    async (read, store) => {
      // Behind the read that met the end, and before the end is asked for.
      if (read === 2) await store.write(Buffer.from('xyz'), content.length);
    },
  );
  const buffer = Buffer.alloc(20);
  expect(await readUpTo(storage, buffer, 0)).toBe(19);
  expect(buffer.toString('latin1', 0, 19)).toBe('0123456789abcdefxyz');
});

it('ends where a store that is cut meanwhile ends', async () => {
  const storage = new OddStorage(
    content,
    (read) => (read === 1 ? 4 : 0),
    async (read, store) => {
      if (read === 2) await store.truncate(4);
    },
  );
  expect(await readUpTo(storage, Buffer.alloc(8), 0)).toBe(4);
});
