/** Wherever a crash falls in a commit, a rebase or an amendment, the disk keeps its content and its metadata is sound. */
import { describe, expect, it, vi } from 'vitest';
import {
  create,
  MemoryStorage,
  open,
  type AmendOptions,
  type CreateOptions,
  type Qcow2,
  type Reference,
  type Storage,
} from '../../lib/index.js';
import { readHeader } from '../../lib/metadata/header-io.js';
import { crashStates } from '../support/crash-states.js';
import { inspectImage } from '../support/image-invariants.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const KiB = 1024;
const size = 96 * KiB;
const crashes = { exhaustiveUpTo: 6, samples: 12, tornSamples: 2, tornUnits: [512, 4096] };

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

/** Does a job once more on what a crash left, which completes it; gives the content that both reads show then. */
async function contentAfterAgain(
  left: { top: MemoryStorage; files: ReadonlyMap<string, MemoryStorage> },
  job: (disk: Qcow2) => Promise<void>,
): Promise<Buffer> {
  const top = left.top.clone();
  const files = new Map([...left.files].map(([name, file]) => [name, file.clone()]));
  const resolve = ({ name }: Reference): MemoryStorage => files.get(name) ?? new MemoryStorage();
  const disk = await open(top, { mode: 'r+', resolve });
  await job(disk);
  const content = await contentOf(disk);
  await disk.close();
  for (const file of [top, ...files.values()]) expect(inspectImage(file.toBuffer()).problems).toEqual([]);
  expect((await contentIn(top, files)).equals(content)).toBe(true);
  return content;
}

/** What the header says of other files, its version, and its extensions but the one that spans others for a moment. */
async function headerIn(storage: MemoryStorage): Promise<string> {
  const { version, backingFile, backingFormat, dataFile, extensions } = await readHeader(storage, false);
  const others = extensions.filter(({ type }) => type !== 0x736b6970);
  const list = others.map(({ type, data }) => `${type} ${Buffer.from(data).toString('hex')}`);
  return JSON.stringify({ version, backingFile, backingFormat, dataFile, list });
}

/** Every state that a crash leaves of a storage has one of two headers, whatever sectors reached the medium. */
async function judgeHeaders(recording: RecordingStorage, image: MemoryStorage): Promise<void> {
  const headers = [await headerIn(recording.log.initial), await headerIn(image)];
  expect(headers[0]).not.toBe(headers[1]);
  const torn = { exhaustiveUpTo: 6, tornUnits: [512], tornSamples: 30 };
  const seen = new Set<string>();
  for await (const { content, description } of crashStates(recording.log, torn)) {
    const header = await headerIn(content);
    expect(headers, description).toContain(header);
    seen.add(header);
  }
  expect(seen.size).toBe(2);
}

const longName = (letter: string, length: number): string => letter.repeat(length);
type Named = { name: string; format?: 'raw' | 'qcow2' } | null;

describe('a torn first cluster', () => {
  const data = new MemoryStorage();
  const a = { name: longName('a', 700), format: 'raw' } as const;
  it.each<[string, CreateOptions, Named, Named]>([
    ['another long name', {}, a, { name: longName('b', 900), format: 'raw' }],
    [
      'another long name and format',
      { clusterSize: 65536 },
      a,
      { name: longName('b', 900), format: 'qcow2' },
    ],
    ['no name any more', { clusterSize: 65536 }, a, null],
    ['a first name', { clusterSize: 65536 }, null, a],
    ['a name without a format', { clusterSize: 65536 }, a, { name: longName('b', 100) }],
    ['a format for the same name', { clusterSize: 65536 }, { name: a.name }, a],
    ['version 2', { version: 2 }, a, { name: longName('b', 1023), format: 'raw' }],
    ['a little room', { clusterSize: 2048 }, a, { name: longName('b', 900), format: 'raw' }],
    ['one sector', { clusterSize: 512 }, { name: longName('a', 300) }, { name: longName('b', 250) }],
  ])('leaves the old backing file or the new one: %s', async (_name, options, from, to) => {
    const image = await makeImage(2, { clusterSize: 4096, ...options });
    const files = { raw: new MemoryStorage(), qcow2: await makeImage(1) };
    const resolve = ({ format }: Reference): MemoryStorage => (format === 'qcow2' ? files.qcow2 : files.raw);
    const rebase = async (storage: Storage, named: Named): Promise<void> => {
      const disk = await open(storage, { mode: 'r+', resolve });
      await disk.rebase(named, { mode: 'unsafe' });
      await disk.close();
    };
    await rebase(image, from);
    const recording = await RecordingStorage.over(image);
    await rebase(recording, to);
    await judgeHeaders(recording, image);
    const there = await RecordingStorage.over(image);
    await rebase(there, from);
    await judgeHeaders(there, image);
  });

  it('is written in place when it has no room for both names', async () => {
    const image = await makeImage(2, { clusterSize: 1024 });
    for (const letter of ['a', 'b']) {
      const name = longName(letter, 800);
      const disk = await open(image, { mode: 'r+', resolve: () => new MemoryStorage() });
      await disk.rebase({ name, format: 'raw' }, { mode: 'unsafe' });
      await disk.close();
      expect(await readHeader(image, false)).toMatchObject({ backingFile: name, backingFormat: 'raw' });
    }
  });

  it.each<[string, CreateOptions, AmendOptions]>([
    ['to version 3', { version: 2 }, { version: 3 }],
    ['to version 2', {}, { version: 2 }],
    ['to another data file', { dataFile: { name: longName('d', 500), source: data } }, { dataFile: 'e' }],
    ['to no name of it', { dataFile: { name: longName('d', 500), source: data } }, { dataFile: '' }],
  ])('leaves the image as it was or as it is to be: %s', async (_name, options, amendment) => {
    const image = new MemoryStorage();
    const backing = { name: longName('a', 600), format: 'raw', unchecked: true } as const;
    await (await create(image, size, { clusterSize: 65536, backing, ...options })).close();
    const recording = await RecordingStorage.over(image);
    const disk = await open(recording, { mode: 'r+', resolve: () => data });
    await disk.amend(amendment);
    await disk.close();
    await judgeHeaders(recording, image);
  });
});

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
    await judge(recordedBase, expected, async (content) => {
      const left = { top: before, files: new Map([['base', content]]) };
      expect((await contentAfterAgain(left, (top) => top.commit())).equals(expected)).toBe(true);
      return contentIn(before, left.files);
    });
    await judge(recordedTop, expected, async (content) => {
      const left = { top: content, files: done };
      expect((await contentAfterAgain(left, (top) => top.commit())).equals(expected)).toBe(true);
      return contentIn(content, done);
    });
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
      const states = await judge(recording, expected, async (content) => {
        const again = await contentAfterAgain({ top: content, files }, (disk) => disk.rebase(to));
        expect(again.equals(expected)).toBe(true);
        return contentIn(content, files);
      });
      expect(states).toBeGreaterThan(5);
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
