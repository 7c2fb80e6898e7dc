/** Wherever a crash falls in a commit, a rebase or an amendment, the disk keeps its content and its metadata is sound. */
import { describe, expect, it, vi } from 'vitest';
import {
  create,
  MemoryStorage,
  open,
  type AmendOptions,
  type CreateOptions,
  type Qcow2,
} from '../../lib/index.js';
import { crashStates } from '../support/crash-states.js';
import { inspectImage } from '../support/image-invariants.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const KiB = 1024;
const size = 96 * KiB;
// The first cluster is rewritten whole now and then, which no sector-wise write can do at once.
const crashes = { exhaustiveUpTo: 6, samples: 12, tornSamples: 2, tornUnits: [4096] };

const resolverOf =
  (files: ReadonlyMap<string, MemoryStorage>) =>
  ({ name }: { name: string }): MemoryStorage => {
    const file = files.get(name);
    if (file === undefined) throw new Error(`${name} is not there`);
    return file.clone();
  };

async function makeImage(seed: number, options: CreateOptions = {}): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  const disk = await create(storage, size, { clusterSize: 4096, ...options });
  await disk.write(pattern(seed, 5000), seed * 9000);
  await disk.writeZeroes(3 * 4096, 4096);
  await disk.write(pattern(seed + 1, 3000), 16 * KiB);
  await disk.close();
  return storage;
}

async function contentOf(disk: Qcow2): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

async function contentIn(
  storage: MemoryStorage,
  files: ReadonlyMap<string, MemoryStorage> = new Map<string, MemoryStorage>(),
): Promise<Buffer> {
  const disk = await open(storage, { resolve: resolverOf(files) });
  try {
    return await contentOf(disk);
  } finally {
    await disk.close();
  }
}

/** Every state that a crash leaves of a storage shows the content and is sound. */
async function judge(
  recording: RecordingStorage,
  expected: Buffer,
  read: (content: MemoryStorage) => Promise<Buffer>,
): Promise<number> {
  let states = 0;
  for await (const { content, description } of crashStates(recording.log, crashes)) {
    states++;
    const { problems } = inspectImage(content.toBuffer());
    expect(problems, description).toEqual([]);
    expect((await read(content)).equals(expected), description).toBe(true);
  }
  return states;
}

describe('a crash', () => {
  it('in a commit leaves the image as it was, whatever reached the two files', async () => {
    const base = await makeImage(1);
    const files = new Map([['base', base]]);
    const top = await makeImage(2);
    const named = await open(top, { mode: 'r+', resolve: resolverOf(files) });
    await named.rebase({ name: 'base', format: 'qcow2' }, { mode: 'unsafe' });
    await named.close();
    const expected = await contentIn(top, files);
    const before = top.clone();
    const recordedBase = await RecordingStorage.over(base);
    const recordedTop = await RecordingStorage.over(top);
    let unflushed = false;
    vi.spyOn(base, 'write').mockImplementation((...args) => {
      unflushed = true;
      return MemoryStorage.prototype.write.apply(base, args);
    });
    vi.spyOn(base, 'flush').mockImplementation(() => {
      unflushed = false;
      return Promise.resolve();
    });
    vi.spyOn(top, 'write').mockImplementation((...args) => {
      expect(unflushed).toBe(false);
      return MemoryStorage.prototype.write.apply(top, args);
    });
    const disk = await open(recordedTop, { mode: 'r+', resolve: () => recordedBase });
    await disk.commit();
    await disk.close();
    const done = new Map([['base', base]]);
    // While the lower file changes the upper one still has everything, and the lower is complete before the upper changes.
    await judge(recordedBase, expected, (content) => contentIn(before, new Map([['base', content]])));
    await judge(recordedTop, expected, (content) => contentIn(content, done));
    expect((await contentIn(base)).equals(expected)).toBe(true);
  });

  it('in a rebase leaves the image on the old file or on the new one', async () => {
    const files = new Map([
      ['old', await makeImage(1)],
      ['new', await makeImage(4)],
    ]);
    const top = await makeImage(2);
    const named = await open(top, { mode: 'r+', resolve: resolverOf(files) });
    await named.rebase({ name: 'old', format: 'qcow2' }, { mode: 'unsafe' });
    await named.close();
    const expected = await contentIn(top, files);
    for (const to of [{ name: 'new', format: 'qcow2' as const }, null]) {
      const recording = await RecordingStorage.over(top.clone());
      const disk = await open(recording, { mode: 'r+', resolve: resolverOf(files) });
      await disk.rebase(to);
      await disk.close();
      expect(await judge(recording, expected, (content) => contentIn(content, files))).toBeGreaterThan(5);
    }
  });

  it.each<[string, CreateOptions, AmendOptions]>([
    ['to wider refcounts', {}, { refcountBits: 64 }],
    ['to narrower refcounts', {}, { refcountBits: 1 }],
    ['to version 3', { version: 2 }, { version: 3 }],
    ['to version 2', {}, { version: 2 }],
  ])(
    'in an amendment leaves the image as it was or as it is to be: %s',
    async (_name, options, amendment) => {
      const image = await makeImage(3, options);
      const expected = await contentIn(image);
      const recording = await RecordingStorage.over(image);
      const disk = await open(recording, { mode: 'r+' });
      await disk.amend(amendment);
      await disk.close();
      expect(await judge(recording, expected, (content) => contentIn(content))).toBeGreaterThan(2);
    },
  );
});
