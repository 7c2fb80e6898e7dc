/** Small writes side by side, some threads' work at a time: every byte gets where it belongs, and every failure to its caller. */
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { FileStorage } from '../../lib/index.js';
import { native } from '../../lib/native.js';
import { maxSmallWrite, SmallWrites } from '../../lib/storage/small-writes.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const place = 32 * 1024;

it('leaves in the file what one buffer would hold, however many come at once', async () => {
  const length = fc.oneof(
    fc.integer({ min: 0, max: 5000 }),
    fc.constantFrom(maxSmallWrite - 1, maxSmallWrite, maxSmallWrite + 1, place),
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

it('tries again, one by one, what could not be written together', async () => {
  await writeFile(path('file'), '');
  const reading = await open(path('file'), 'r');
  const writing = await open(path('file'), 'r+');
  // The first write goes alone, the others together.
  const descriptors = [writing.fd, reading.fd];
  const writes = new SmallWrites(() => descriptors.shift() ?? writing.fd);
  await Promise.all(Array.from('three', (letter, index) => writes.write(Buffer.from(letter), index)));
  expect(await readFile(path('file'), 'utf8')).toBe('three');
  await reading.close();
  await writing.close();
});

it('native.writeScattered tells what is written', async () => {
  await writeFile(path('file'), '');
  const reading = await open(path('file'), 'r');
  const writing = await open(path('file'), 'r+');
  const bytes = Buffer.from('headtail');
  const places = Float64Array.of(10, 4, 0, 4);
  const written = new Uint8Array(3).fill(9);
  expect(await native.writeScattered(reading.fd, bytes, places, written)).toBe(0);
  expect([...written]).toEqual([0, 0, 9]);
  expect((await stat(path('file'))).size).toBe(0);
  expect(await native.writeScattered(writing.fd, bytes, places, written)).toBe(2);
  expect([...written]).toEqual([1, 1, 9]);
  expect(await readFile(path('file'), 'latin1')).toBe('tail\0\0\0\0\0\0head');
  for (const wrong of [[0, 9], [0, 4, 4, 5], [-1, 1], [0, -1], [0.5, 1], [0], [0, NaN], [2 ** 53, 1]]) {
    expect(() => native.writeScattered(writing.fd, bytes, Float64Array.from(wrong), written)).toThrow(
      expect.objectContaining({ name: expect.stringMatching(/^(RangeError|TypeError)$/) as string }),
    );
  }
  expect(() => native.writeScattered(writing.fd, bytes, places, new Uint8Array(1))).toThrow(RangeError);
  await reading.close();
  await writing.close();
});
