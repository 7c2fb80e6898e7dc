/** What comes through a pipe is restored as QEMU reads it from a file, or it is an error. */
import { createReadStream } from 'node:fs';
import { copyFile, readdir, readFile, writeFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import {
  create,
  difference,
  fromQcow2Stream,
  MemoryStorage,
  open,
  readQcow2Stream,
  toQcow2Stream,
  type FromQcow2StreamOptions,
  type ReadQcow2StreamOptions,
} from '../../lib/index.js';
import { corpus } from '../hostile/corpus.js';
import { imageKinds, secret } from '../support/image-kinds.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { expectCleanByQemu, qemuCompare, qemuContent, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';
import { openWorkedOn } from '../support/work.js';

const path = useTempDir();
const KiB = 1024;
const MiB = 1024 * KiB;

/** Restores the pieces of a stream in memory. */
async function contentOf(
  readable: Readable | AsyncIterable<Uint8Array>,
  options: ReadQcow2StreamOptions = {},
): Promise<Buffer> {
  await using reader = await readQcow2Stream(readable, options);
  const content = Buffer.alloc(reader.size, 0xee);
  for await (const { start, length, data } of reader.pieces()) {
    if (data === null) content.fill(0, start, start + length);
    else {
      expect(data.length).toBe(length);
      content.set(data, start);
    }
  }
  return content;
}

function* chunks(bytes: Buffer, size: () => number): Generator<Buffer> {
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + size());
    yield bytes.subarray(at, end);
    at = end;
  }
}

const inMemory = (bytes: Buffer, size = 64 * KiB): Readable =>
  Readable.from(
    chunks(bytes, () => size),
    { objectMode: false },
  );

describe('a file of every kind, through a pipe', () => {
  it.each(imageKinds)('$name', async (kind) => {
    const { made, disk } = await openWorkedOn(kind, path, 8);
    await disk.close();
    await made.model.saveAs(path('raw'));
    const key = kind.options.encryption === undefined ? {} : { secret };
    const stream = (): Readable => createReadStream(made.path);
    if (kind.options.dataFile !== undefined) {
      await expect(fromQcow2Stream(stream(), path('out'), { targetFormat: 'raw' })).rejects.toMatchObject({
        code: 'ERR_QCOW2_REFERENCE_DENIED',
      });
      return;
    }
    if (kind.backing !== undefined) {
      await expect(fromQcow2Stream(stream(), path('out'), { targetFormat: 'raw' })).rejects.toMatchObject({
        code: 'ERR_QCOW2_REFERENCE',
      });
      await fromQcow2Stream(stream(), path('out'), { targetFormat: 'qcow2' });
      await expectCleanByQemu(path('out'));
      expect((await qemuCompare(path('raw'), path('out'), { a: 'raw' })).same).toBe(true);
      return;
    }
    for (const targetFormat of ['raw', 'qcow2'] as const) {
      await fromQcow2Stream(stream(), path('out'), { targetFormat, ...key });
      if (targetFormat === 'qcow2') await expectCleanByQemu(path('out'));
      // QEMU leaves out what is past the last whole sector.
      if (kind.size % 512 !== 0) {
        if (targetFormat === 'raw')
          expect((await readFile(path('out'))).equals(await readFile(path('raw')))).toBe(true);
        continue;
      }
      const { same, output } = await qemuCompare(path('raw'), path('out'), { a: 'raw', b: targetFormat });
      expect(same, output).toBe(true);
    }
    if (kind.options.encryption !== undefined) {
      await expect(contentOf(stream())).rejects.toMatchObject({ code: 'ERR_QCOW2_SECRET' });
    }
  });
});

describe('what qemu-img writes', () => {
  it.each([
    ['compressed', ['-c']],
    ['zstd', ['-c', '-o', 'compression_type=zstd']],
    ['out of order', ['-W', '-m', '16', '-o', 'cluster_size=4k']],
    ['compressed, small clusters', ['-c', '-o', 'cluster_size=512']],
    ['preallocated', ['-o', 'preallocation=metadata']],
    ['extended L2', ['-o', 'extended_l2=on']],
  ])('%s', async (_name, args) => {
    const model = mixedDisk(4, 9 * MiB);
    await model.saveAs(path('raw'));
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', ...args, path('raw'), path('image')]);
    const raw = await readFile(path('raw'));
    expect((await contentOf(createReadStream(path('image')))).equals(raw)).toBe(true);
    const random = new Random(1);
    const bytes = await readFile(path('image'));
    const bumpy = chunks(bytes, () => random.between(1, 2 ** random.between(0, 18)));
    expect((await contentOf(Readable.from(bumpy))).equals(raw)).toBe(true);
    const options: FromQcow2StreamOptions = {
      targetFormat: 'qcow2',
      compress: true,
      create: { clusterSize: 65536 },
    };
    await fromQcow2Stream(createReadStream(path('image')), path('out'), options);
    await expectCleanByQemu(path('out'));
    expect((await qemuCompare(path('raw'), path('out'), { a: 'raw' })).same).toBe(true);
  });

  it('tables behind the data, at last even the L1 table', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path('image'), '512k']);
    await qemuIo(path('image'), ['write -P 1 0 100k', 'write -P 2 200k 300k']);
    await qemuImg(['resize', '-q', path('image'), '64M']);
    await qemuIo(path('image'), ['write -P 3 30M 1M', 'write -P 4 63M 1M']);
    const content = await qemuContent(path('image'));
    expect((await contentOf(createReadStream(path('image')))).equals(content)).toBe(true);
    const limited = contentOf(createReadStream(path('image')), { spoolLimit: 200 * KiB });
    await expect(limited).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT', feature: 'spoolLimit' });
  });

  it('a disk written backwards is put aside in a file, which does not stay', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', path('image'), '256M']);
    const writes = Array.from({ length: 14 }, (_, at) => `write -P ${at + 1} ${(14 - at) * 16}M 2M`);
    await qemuIo(path('image'), writes);
    await qemuImg(['resize', '-q', path('image'), '1T']);
    const directory = path();
    const names = await readdir(directory);
    await fromQcow2Stream(createReadStream(path('image')), path('out'), {
      targetFormat: 'qcow2',
      spoolDirectory: directory,
    });
    expect((await readdir(directory)).sort()).toEqual([...names, 'out'].sort());
    await expectCleanByQemu(path('out'));
    expect((await qemuCompare(path('image'), path('out'))).same).toBe(true);
  });
});

describe('hostile and odd images', () => {
  // What a backing file is called does not matter here, for it is not opened.
  const cases = corpus().filter(({ outcome }) =>
    outcome.kind === 'refused' ? outcome.code !== 'ERR_QCOW2_REFERENCE_DENIED' : outcome.locked !== true,
  );

  it(`${cases.length} of them are restored as a file of them is read, or refused`, async () => {
    let restored = 0;
    for (const { name, bytes, outcome } of cases) {
      const result = await contentOf(inMemory(Buffer.from(bytes))).catch((error: unknown) => error);
      if (!(result instanceof Buffer)) {
        expect((result as { code?: string }).code, `${name}: ${String(result)}`).toMatch(/^ERR_QCOW2_/);
        continue;
      }
      restored += 1;
      // What is broken, a stream must not get past.
      expect(outcome.kind, name).toBe('opened');
      if (outcome.kind !== 'opened') continue;
      expect(outcome.broken, name).toEqual([]);
      expect(result.equals(outcome.content), name).toBe(true);
    }
    const sound = cases.filter(({ outcome }) => outcome.kind === 'opened' && outcome.broken.length === 0);
    expect(restored).toBeGreaterThan(sound.length * 0.8);
  });
});

describe('full and incremental', () => {
  it('what was streamed out comes back', async () => {
    let image = await create(path('disk'), 8 * MiB);
    await image.write(pattern(1, 3 * MiB), MiB);
    await fromQcow2Stream(toQcow2Stream(image), path('copy.raw'), { targetFormat: 'raw' });
    await fromQcow2Stream(toQcow2Stream(image), path('copy.qcow2'), { targetFormat: 'qcow2' });
    await image.bitmaps.create({ name: 'nightly' });
    await image.write(pattern(2, 100_000), 2 * MiB + 5);
    await image.writeZeroes(3 * MiB, 300_000);
    await image.close();
    image = await open(path('disk'));
    const incremental = (clusterSize: number): Readable =>
      toQcow2Stream(image, {
        clusterSize,
        changes: difference(image, { bitmap: 'nightly' }),
        backing: { name: 'copy.qcow2', format: 'qcow2' },
      });
    await expect(
      fromQcow2Stream(incremental(65536), path('x'), { targetFormat: 'raw' }),
    ).rejects.toMatchObject({
      code: 'ERR_QCOW2_REFERENCE',
    });
    for (const targetFormat of ['raw', 'qcow2'] as const) {
      await copyFile(path(`copy.${targetFormat}`), path('updated'));
      await fromQcow2Stream(incremental(4096), path('updated'), { targetFormat, keepTarget: true });
      const { same, output } = await qemuCompare(path('disk'), path('updated'), { b: targetFormat });
      expect(same, output).toBe(true);
    }
    await fromQcow2Stream(incremental(65536), path('overlay'), { targetFormat: 'qcow2' });
    expect((await qemuInfo(path('overlay')))['backing-filename']).toBe('copy.qcow2');
    expect((await qemuCompare(path('disk'), path('overlay'))).same).toBe(true);
    await image.close();
  });

  it('a full stream over an old target leaves nothing of that', async () => {
    const image = await create(path('disk'), 4 * MiB);
    await image.write(pattern(1, 100_000), 2 * MiB);
    await writeFile(path('old'), pattern(2, 4 * MiB));
    await fromQcow2Stream(toQcow2Stream(image), path('old'), { targetFormat: 'raw', keepTarget: true });
    await image.close();
    expect((await qemuCompare(path('disk'), path('old'), { b: 'raw' })).same).toBe(true);
  });
});

describe('streams that end too early, or never', () => {
  it('cut anywhere', async () => {
    const image = await create(new MemoryStorage(), 20 * KiB, { clusterSize: 512 });
    await image.write(pattern(3, 7 * KiB), 1024);
    await image.write(Buffer.alloc(3 * KiB, 'compresses well'), 12 * KiB, { compress: true });
    const plain = Buffer.concat(await toQcow2Stream(image, { clusterSize: 512 }).toArray());
    const expected = Buffer.alloc(image.size);
    await image.read(expected, 0);
    await image.close();
    expect((await contentOf(inMemory(plain))).equals(expected)).toBe(true);
    expect((await contentOf(inMemory(plain, 1))).equals(expected)).toBe(true);
    for (let end = 0; end < plain.length; end += 7) {
      const code = (await contentOf(inMemory(plain.subarray(0, end))).catch((error: unknown) => error)) as {
        code?: string;
      };
      expect(code.code, `cut at ${end}`).toMatch(/^ERR_QCOW2_/);
    }
  });

  it('a file of QEMU cut anywhere is restored right or not at all', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path('plain'), '40k']);
    await qemuIo(path('plain'), ['write -P 7 1k 9k', 'write -P 9 30k 4k']);
    await qemuImg(['convert', '-c', '-O', 'qcow2', '-o', 'cluster_size=512', path('plain'), path('image')]);
    const expected = await qemuContent(path('image'));
    const bytes = await readFile(path('image'));
    let failed = 0;
    for (let end = 1; end < bytes.length; end += 5) {
      const got = await contentOf(inMemory(bytes.subarray(0, end))).catch((error: unknown) => {
        expect((error as { code?: string }).code).toMatch(/^ERR_QCOW2_/);
        return null;
      });
      if (got === null) failed += 1;
      else expect(got.equals(expected), `cut at ${end}`).toBe(true);
    }
    expect(failed).toBeGreaterThan(bytes.length / 10);
  });

  it('a stream that fails, a signal, a consumer that leaves', async () => {
    const image = await create(new MemoryStorage(), 8 * MiB);
    await image.write(pattern(1, 8 * MiB), 0);
    const reason = new Error('connection lost');
    async function* broken(): AsyncGenerator<Uint8Array> {
      let sent = 0;
      for await (const chunk of toQcow2Stream(image) as AsyncIterable<Buffer>) {
        yield chunk;
        sent += chunk.length;
        if (sent > 3 * MiB) throw reason;
      }
    }
    await expect(fromQcow2Stream(broken(), path('out'), { targetFormat: 'raw' })).rejects.toBe(reason);

    const controller = new AbortController();
    const silent = new Readable({ read: () => undefined });
    const waiting = fromQcow2Stream(silent, path('out'), { targetFormat: 'raw', signal: controller.signal });
    controller.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    expect(silent.destroyed).toBe(true);

    const left = toQcow2Stream(image);
    const reader = await readQcow2Stream(left);
    for await (const { data } of reader.pieces()) if (data !== null) break;
    await reader.close();
    expect(left.destroyed).toBe(true);
    await image.close();
  });

  it('what is no image, and no bytes', async () => {
    await expect(contentOf(inMemory(Buffer.alloc(2 * MiB, 'x')))).rejects.toMatchObject({
      code: 'ERR_QCOW2_NOT_QCOW2',
    });
    await expect(contentOf(inMemory(Buffer.alloc(0)))).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_QCOW2' });
    await expect(contentOf(Readable.from(['text']))).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' });
    for (const options of [undefined, {}, { targetFormat: 'vmdk' }]) {
      const restoring = fromQcow2Stream(Readable.from([]), path('out'), options as FromQcow2StreamOptions);
      await expect(restoring).rejects.toThrow(/"targetFormat" must be 'raw' or 'qcow2'/);
    }
  });

  it('a target that cannot be written fails, and the stream is let go', async () => {
    const image = await create(new MemoryStorage(), 8 * MiB);
    await image.write(pattern(1, 8 * MiB), 0);
    const stream = toQcow2Stream(image);
    await expect(
      fromQcow2Stream(stream, path('no/such/directory'), { targetFormat: 'raw' }),
    ).rejects.toMatchObject({ code: 'ENOENT' });
    expect(stream.destroyed).toBe(true);
    await image.close();
  });
});

describe('many small pieces put aside', () => {
  const clusterSize = 64 * KiB;
  const blocks = 2048;
  const gap = 512;
  const content = (at: number): Buffer => Buffer.alloc(clusterSize, 1 + (at % 255));
  const common = content(-1);

  /**
   * Compressed clusters of almost 64 KiB with a gap before each. At the end comes a table for what is in the gaps.
   * @param inGap the bytes of a gap
   */
  async function* stream(inGap: (at: number) => Buffer, onTable: () => void): AsyncGenerator<Buffer> {
    const storage = new MemoryStorage();
    await (await create(storage, 1024 * MiB, { clusterSize })).close();
    const front = Buffer.alloc(Math.ceil((await storage.size()) / clusterSize) * clusterSize);
    await storage.read(front, 0);
    const l1 = Number(front.readBigUInt64BE(40));
    const data = front.length + clusterSize;
    const end = data + blocks * clusterSize;
    front.writeBigUInt64BE((1n << 63n) | BigInt(front.length), l1);
    front.writeBigUInt64BE((1n << 63n) | BigInt(end), l1 + 8);
    const [table, last] = [Buffer.alloc(clusterSize), Buffer.alloc(clusterSize)];
    for (let at = 0; at < blocks; at++) {
      const place = data + at * clusterSize;
      const sectors = BigInt(clusterSize / 512 - 2);
      table.writeBigUInt64BE((1n << 62n) | (sectors << 54n) | BigInt(place + gap), at * 8);
      last.writeBigUInt64BE((1n << 62n) | BigInt(place), at * 8);
    }
    yield front;
    yield table;
    const packed = Buffer.concat([deflateRawSync(common)], clusterSize - gap);
    for (let at = 0; at < blocks; at++) {
      yield inGap(at);
      yield packed;
    }
    onTable();
    yield last;
  }

  const packedGap = (at: number): Buffer => Buffer.concat([deflateRawSync(content(at))], gap);

  it('take about the memory of their bytes, and come back', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const held = (): number => {
      collect();
      return process.memoryUsage().arrayBuffers;
    };
    const before = held();
    let grown = 0;
    const measured = stream(packedGap, () => {
      grown = held() - before;
    });
    await using reader = await readQcow2Stream(measured);
    const seen = new Set<number>();
    for await (const { start, data } of reader.pieces()) {
      if (data === null) continue;
      const isInGap = start >= 512 * MiB;
      const at = (start % (512 * MiB)) / clusterSize;
      expect(content(isInGap ? at : -1).equals(data), `cluster at ${start}`).toBe(true);
      seen.add(start);
    }
    expect(seen.size).toBe(2 * blocks);
    // As pages of 64 KiB they took 128 MiB.
    expect(grown).toBeLessThan(32 * MiB);
  });

  it.each([
    ['bytes', packedGap],
    ['zeros', () => Buffer.alloc(gap)],
  ])('count towards the limit: %s', async (_name, inGap) => {
    const input = stream(inGap, () => undefined);
    const limited = fromQcow2Stream(Readable.from(input), path('out'), {
      targetFormat: 'raw',
      durable: false,
      spoolLimit: 4 * MiB,
    });
    await expect(limited).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT', feature: 'spoolLimit' });
  });
});
