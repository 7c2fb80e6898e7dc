/**
 * Every image of the corpus given to the jobs that work on whole images: what the corpus calls sound comes out right, what it
 * calls broken fails with the right error, and nothing else happens.
 */
import { Readable, Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import {
  compare,
  convert,
  create,
  dehydrate,
  fromQcow2Stream,
  hash,
  imagePicture,
  measure,
  MemoryStorage,
  open,
  openChain,
  Qcow2Error,
  RawDisk,
  storedBlocks,
  toQcow2Stream,
  type Disk,
  type OpenOptions,
  type Qcow2,
} from '../../lib/index.js';
import { allocationsDuring } from './allocations.js';
import { corpus } from './corpus.js';
import { checkOpened, expectCode, failure } from './expectations.js';
import type { HostileCase, Opened } from './outcome.js';
import { unitsOf } from './ranges.js';
import { WatchedStorage } from './watched-storage.js';

/** A short run has every sixth image. */
const isLong = process.env['QCOW2_HOSTILE'] === 'long';
const cases = corpus().filter((_, index) => isLong || index % 6 === 0);
/** What a job may allocate at a time: its buffers, and what tables of the file's size take. */
const largestAllocation = 16 * 2 ** 20;
/** What a commit brings to the beginning of the disk. */
const committed = Buffer.alloc(4096, 'committed ');
/** Far longer than any job takes on so small an image, milliseconds. */
const patience = 60_000;

interface OpenCase extends HostileCase {
  readonly outcome: Opened;
}
const isOpened = (hostile: HostileCase): hostile is OpenCase => hostile.outcome.kind === 'opened';

/** Jobs that give all of the disk's content; they are told nothing about what the image refers to. */
const copies: Record<string, (storage: WatchedStorage) => Promise<Buffer>> = {
  'convert to raw': async (storage) => {
    const target = new MemoryStorage();
    await convert(storage, target, { targetFormat: 'raw', sourceFormat: 'qcow2' });
    return target.toBuffer();
  },
  'convert to qcow2': async (storage) => {
    const target = new MemoryStorage();
    await convert(storage, target, { targetFormat: 'qcow2', sourceFormat: 'qcow2', compress: true });
    return contentOf(await open(target));
  },
  'a stream out': async (storage) => {
    const chunks: Buffer[] = [];
    const disk = await open(storage);
    for await (const chunk of toQcow2Stream(disk) as AsyncIterable<Buffer>) chunks.push(chunk);
    await disk.close();
    return contentOf(await open(new MemoryStorage(Buffer.concat(chunks))));
  },
  'an overlay on it': async (storage) => {
    const file = new MemoryStorage();
    const size = (await open(storage)).size;
    const backing = { name: '/base', format: 'qcow2', unchecked: true } as const;
    await (await create(file, size, { backing })).close();
    // Only what the overlay names itself is given.
    return contentOf(await open(file, { resolve: once(storage) }));
  },
};

describe(`jobs on ${cases.length} hostile and odd images`, { timeout: 300_000 }, () => {
  it.each(cases)('copy $name or fail as they should', async (hostile) => {
    const storage = new WatchedStorage(hostile.bytes);
    const largest = await allocationsDuring(async () => {
      for (const [what, job] of Object.entries(copies)) {
        await within(what, expectOutcome(what, hostile, job(storage)));
      }
      await within('the other jobs', lookOnly(hostile, storage));
    });
    expect(storage.changes).toEqual([]);
    expect(largest).toBeLessThanOrEqual(Math.max(largestAllocation, 8 * hostile.bytes.length));
    // A stream does not tell how much there is: memory is for what has come.
    const inStream = await allocationsDuring(() => within('a stream in', streamIn(hostile)));
    expect(inStream).toBeLessThanOrEqual(Math.max(largestAllocation, 8 * hostile.bytes.length));
  });
});

describe('jobs that change hostile and odd images', { timeout: 300_000 }, () => {
  it.each(cases.filter(isOpened))('leave $name no worse', async ({ bytes, outcome }) => {
    for (const [what, change] of Object.entries(changes)) {
      const storage = new MemoryStorage(bytes);
      const isDone = await within(what, orFails(changing(storage, change)));
      // What cannot be told without a check may go wrong; it does not crash, and that is all there is to say.
      if (!isDone || outcome.writing.needsCheck !== undefined) continue;
      const again = await open(storage);
      if (outcome.broken.length === 0) await checkOpened(again, outcome);
      else await expectSound(again, outcome);
      await again.close();
    }
  });
});

describe('a commit', { timeout: 300_000 }, () => {
  it.each(cases.filter(isOpened))('into $name harms nothing else', async ({ bytes, outcome }) => {
    const below = new MemoryStorage(bytes);
    const top = new MemoryStorage();
    const backing = { name: '/base', format: 'qcow2', unchecked: true } as const;
    const size = Math.max(outcome.content.length, committed.length);
    await (await create(top, size, { clusterSize: committed.length, backing })).close();
    const isDone = await within('a commit', orFails(commitInto(below, top)));
    const again = await open(below);
    const content = Buffer.from(outcome.content);
    // What failed half-way may have come that far.
    const isTouched = (start: number): boolean => start < committed.length;
    if (isDone) committed.copy(content);
    if (isDone && !outcome.broken.some(([start]) => isTouched(start))) {
      const got = Buffer.alloc(Math.min(committed.length, content.length));
      await again.read(got, 0);
      expect(got.equals(content.subarray(0, got.length))).toBe(true);
    }
    if (outcome.writing.needsCheck === undefined && outcome.locked !== true) {
      for (const { start, end, broken } of unitsOf(again, outcome.broken)) {
        if (broken || end <= committed.length) continue;
        const from = Math.max(start, committed.length);
        const buffer = Buffer.alloc(Math.min(end, content.length) - from);
        await again.read(buffer, from);
        expect(buffer.equals(content.subarray(from, end)), `guest bytes from ${from} on`).toBe(true);
      }
    }
    await again.close();
  });
});

/** Writes a cluster into an image that stands on another, and commits it; neither may lead to a third. */
async function commitInto(below: MemoryStorage, top: MemoryStorage): Promise<void> {
  const resolve: NonNullable<OpenOptions['resolve']> = ({ name }) => {
    if (name !== '/base') throw new Qcow2Error('ERR_QCOW2_REFERENCE_DENIED', 'the image below names a file');
    return below;
  };
  const disk = await open(top, { mode: 'r+', resolve });
  try {
    await disk.write(committed, 0);
    await disk.commit();
  } finally {
    await disk.close();
  }
}

/** What was sound is as it was. What was broken may lie elsewhere now, or be repaired. */
async function expectSound(disk: Qcow2, { broken, content }: Opened): Promise<void> {
  for (const { start, end, broken: isBroken } of unitsOf(disk, broken)) {
    if (isBroken) continue;
    const buffer = Buffer.alloc(end - start);
    await disk.read(buffer, start);
    expect(buffer.equals(content.subarray(start, end)), `guest bytes from ${start} on`).toBe(true);
  }
}

/** Changes that leave the content as it is. */
const changes: Record<string, (disk: Qcow2) => Promise<unknown>> = {
  compact: (disk) => disk.compact(),
  'other refcounts': (disk) => disk.amend({ refcountBits: 32 }),
  'a snapshot made and deleted': async (disk) => {
    const { id } = await disk.snapshots.create({ name: 'hostile' });
    await disk.snapshots.delete(id);
  },
  'a bitmap made and removed': async (disk) => {
    await disk.bitmaps.create({ name: 'hostile' });
    await disk.bitmaps.remove('hostile');
  },
  rebase: (disk) => disk.rebase(null),
  repair: (disk) => disk.check({ repair: 'leaks' }),
};

async function changing(storage: MemoryStorage, change: (disk: Qcow2) => Promise<unknown>): Promise<void> {
  const disk = await open(storage, { mode: 'r+' });
  try {
    await change(disk);
  } finally {
    await disk.close();
  }
}

/** A copy is right; of a broken image there is none, but the error that reading it gives. */
async function expectOutcome(what: string, { outcome }: HostileCase, job: Promise<Buffer>): Promise<void> {
  if (outcome.kind === 'refused') expectCode(await failure(job), outcome.code);
  else if (outcome.locked === true) expectCode(await failure(job), 'ERR_QCOW2_SECRET');
  else if (outcome.broken.length > 0) expectCode(await failure(job), 'ERR_QCOW2_CORRUPT');
  else expect((await job).equals(outcome.content), what).toBe(true);
}

/** An image that comes front to back may be refused for more, but what it gives is right. */
async function streamIn({ bytes, outcome }: HostileCase): Promise<void> {
  const target = new MemoryStorage();
  const source = Readable.from([bytes]);
  const job = fromQcow2Stream(source, target, { targetFormat: 'raw' });
  const isDone = await orFails(job);
  if (!isDone) return;
  expect(outcome.kind).toBe('opened');
  if (outcome.kind !== 'opened') return;
  expect(outcome.broken).toEqual([]);
  expect(target.toBuffer().equals(outcome.content)).toBe(true);
}

/** Jobs whose answer is no copy. */
async function lookOnly({ outcome }: HostileCase, storage: WatchedStorage): Promise<void> {
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  await orFails(dehydrate(storage, nowhere));
  await orFails(hash(storage));
  // A chain leaves out what its base names below itself.
  await orFails(openChain([storage]).then(contentOf));
  const disk = await open(storage).catch(() => null);
  expect(disk !== null).toBe(outcome.kind === 'opened');
  if (disk === null || outcome.kind !== 'opened') return;
  await orFails(measure(disk));
  await orFails(storedBlocks(disk, 4096));
  await orFails(imagePicture(disk));
  const model = new RawDisk(new MemoryStorage(outcome.content), outcome.content.length, false);
  const isSame = await orFails(differences(disk, model));
  if (isSame) expect(outcome.broken).toEqual([]);
  await orFails(viewSnapshots(disk));
  await orFails(viewBitmaps(disk));
  await disk.close();
}

async function differences(disk: Disk, model: Disk): Promise<void> {
  for await (const { start } of compare(disk, model)) expect.fail(`they differ at ${start}`);
}

async function viewSnapshots(disk: Qcow2): Promise<void> {
  for (const { id } of await disk.snapshots.list()) {
    await orFails(
      (async () => {
        const view = await disk.snapshots.open(id);
        const some = Buffer.alloc(Math.min(view.size, 2 ** 20));
        await view.read(some, 0).finally(() => view.close());
      })(),
    );
  }
}

async function viewBitmaps(disk: Qcow2): Promise<void> {
  for (const { name } of await disk.bitmaps.list()) await orFails(disk.bitmaps.bits(name));
}

async function contentOf(disk: Disk): Promise<Buffer> {
  try {
    const content = Buffer.alloc(disk.size);
    await disk.read(content, 0);
    return content;
  } finally {
    await disk.close();
  }
}

/** Gives a file for the first name that is asked for, and refuses all others. */
function once(storage: WatchedStorage): NonNullable<OpenOptions['resolve']> {
  let isGiven = false;
  return () => {
    if (isGiven) throw new Qcow2Error('ERR_QCOW2_REFERENCE_DENIED', 'the image below names a file');
    isGiven = true;
    return storage;
  };
}

/** True when it was done; false when it failed with an error that is ours to give. */
async function orFails(job: Promise<unknown>): Promise<boolean> {
  try {
    await job;
    return true;
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    expectCode(error, error.code);
    return false;
  }
}

async function within<T>(what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const tooLong = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${patience} ms`)), patience);
  });
  return Promise.race([work, tooLong]).finally(() => clearTimeout(timer));
}
