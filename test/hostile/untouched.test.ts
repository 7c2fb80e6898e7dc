/**
 * Every image of the corpus, opened for writing, listed, checked and closed: what it holds is changed in nothing but what the
 * format demands of a writer, autoclear bits that are not known and the DIRTY bit.
 */
import { describe, expect, it } from 'vitest';
import { MemoryStorage, open, Qcow2Error } from '../../lib/index.js';
import { corpus } from './corpus.js';

const cases = corpus();
const autoclear = 88;
const knownAutoclear = 3n;
const dirtyByte = 79;

describe(`opening ${cases.length} hostile and odd images for writing`, () => {
  it.each(cases)('$name', async ({ bytes }) => {
    const storage = new MemoryStorage(bytes);
    const isOpened = await lookAtAll(storage);
    const found = storage.toBuffer();
    if (isOpened && isDirty(bytes)) {
      expect(isDirty(found)).toBe(false);
      return;
    }
    const wanted = Buffer.from(bytes);
    if (isOpened && bytes.readUInt32BE(4) === 3) {
      wanted.writeBigUInt64BE(bytes.readBigUInt64BE(autoclear) & knownAutoclear, autoclear);
    }
    expect(found.equals(wanted)).toBe(true);
  });
});

/** Whether the image could be opened. */
async function lookAtAll(storage: MemoryStorage): Promise<boolean> {
  const disk = await open(storage, { mode: 'r+' }).catch(expectClear);
  if (disk === undefined) return false;
  const looks = [
    () => disk.info(),
    () => disk.snapshots.list(),
    () => disk.bitmaps.list(),
    () => disk.read(Buffer.alloc(Math.min(512, disk.size)), 0),
    () => disk.check(),
    () => disk.flush(),
  ];
  for (const look of looks) await look().catch(expectClear);
  await disk.close();
  return true;
}

function expectClear(error: unknown): undefined {
  expect(error).toBeInstanceOf(Qcow2Error);
}

const isDirty = (bytes: Buffer): boolean =>
  bytes.readUInt32BE(4) === 3 && ((bytes[dirtyByte] ?? 0) & 1) !== 0;
