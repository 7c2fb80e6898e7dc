/** Streams of many megabytes, odd ones and hostile ones become raw files and images as QEMU reads them, or are an error. */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, createReadStream, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { constants, deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import {
  create,
  DescriptorStream,
  fromQcow2Stream,
  MemoryStorage,
  toQcow2Stream,
  type FromQcow2StreamOptions,
} from '../../lib/index.js';
import { corpus } from '../hostile/corpus.js';
import { expectCleanByQemu, qemuCompare, qemuImg, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const KiB = 1024;
const MiB = 1024 * KiB;

function* chunks(bytes: Buffer, size: () => number): Generator<Buffer> {
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + size());
    yield bytes.subarray(at, end);
    at = end;
  }
}

/** Text, which compresses, noise, and zeros, in 20 MiB with an end that fills no cluster. */
async function largeDisk(): Promise<void> {
  const random = new Random(5);
  const disk = Buffer.alloc(20 * MiB + 1536);
  for (let at = 0; at < disk.length;) {
    const length = random.between(1, 2 ** random.between(9, 22));
    const kind = random.between(0, 3);
    if (kind === 0) disk.fill(`text ${at} `, at, at + length);
    if (kind === 1) disk.set(pattern(at, Math.min(length, disk.length - at)), at);
    at += length;
  }
  await writeFile(path('raw'), disk);
}

const targets: FromQcow2StreamOptions[] = [
  { targetFormat: 'raw' },
  { targetFormat: 'qcow2' },
  { targetFormat: 'qcow2', compress: true, create: { compressionType: 'zstd' } },
];

const unflushed = { targetFormat: 'raw', durable: false } as const;

async function expectRestored(input: () => Readable | DescriptorStream): Promise<void> {
  for (const options of targets) {
    await fromQcow2Stream(input(), path('out'), { ...options, spoolDirectory: path() });
    if (options.targetFormat === 'qcow2') await expectCleanByQemu(path('out'));
    const { same, output } = await qemuCompare(path('raw'), path('out'), {
      a: 'raw',
      b: options.targetFormat,
    });
    expect(same, output).toBe(true);
  }
}

describe('more than is in memory at once', () => {
  it.each([
    ['plain', []],
    ['out of order', ['-W', '-m', '16', '-o', 'cluster_size=4k']],
    ['compressed', ['-c', '-o', 'compression_type=zstd']],
    ['compressed, large clusters', ['-c', '-o', 'cluster_size=2M,compression_type=zstd']],
    ['compressed, small clusters', ['-c', '-o', 'cluster_size=4k,compression_type=zstd']],
  ])('what qemu-img writes: %s', async (_name, args) => {
    await largeDisk();
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', ...args, path('raw'), path('image')]);
    const bytes = await readFile(path('image'));
    const random = new Random(1);
    await expectRestored(() =>
      Readable.from(chunks(bytes, () => random.between(1, 2 ** random.between(0, 23)))),
    );
  });

  it('tables behind compressed data, which is put aside', async () => {
    await largeDisk();
    const options = ['-o', 'cluster_size=4k,compression_type=zstd'];
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', '-c', ...options, path('raw'), path('image')]);
    await qemuImg(['snapshot', '-c', 'all', path('image')]);
    // Each table is copied behind all data when something in its 2 MiB is written.
    const places = Array.from({ length: 10 }, (_, at) => (2 * at + 1) * MiB);
    await qemuIo(
      path('image'),
      places.map((at) => `write -P 7 ${at} 4k`),
    );
    await qemuImg(['snapshot', '-d', 'all', path('image')]);
    const raw = openSync(path('raw'), 'r+');
    for (const at of places) writeSync(raw, Buffer.alloc(4 * KiB, 7), 0, 4 * KiB, at);
    closeSync(raw);
    const bytes = await readFile(path('image'));
    await expectRestored(() => Readable.from(chunks(bytes, () => 100_000)));
  });

  it('a compressed stream needs nothing put aside', async () => {
    await largeDisk();
    for (const clusterSize of [4 * KiB, 64 * KiB]) {
      const stream = toQcow2Stream(path('raw'), { sourceFormat: 'raw', compress: true, clusterSize });
      await fromQcow2Stream(stream, path('out'), { targetFormat: 'raw', spoolLimit: 256 * KiB });
      expect((await qemuCompare(path('raw'), path('out'), { a: 'raw', b: 'raw' })).same).toBe(true);
    }
  });

  it('all of a file is allocated where no zeros are looked for', async () => {
    const image = await create(path('image'), 8 * MiB);
    await image.write(Buffer.alloc(MiB), MiB);
    await image.write(Buffer.alloc(MiB, 1), 3 * MiB);
    await image.close();
    const input = (): Readable => createReadStream(path('image'));
    await fromQcow2Stream(input(), path('sparse'), { targetFormat: 'raw' });
    expect(statSync(path('sparse')).blocks * 512).toBeLessThan(2 * MiB);
    await fromQcow2Stream(input(), path('full'), { targetFormat: 'raw', sparseSize: 0 });
    expect(statSync(path('full')).blocks * 512).toBeGreaterThanOrEqual(8 * MiB);
    expect((await qemuCompare(path('image'), path('full'), { b: 'raw' })).same).toBe(true);
  });
});

it('compressed data that ends with zeros, behind which comes its table', async () => {
  const clusterSize = 4 * KiB;
  const storage = new MemoryStorage();
  await (await create(storage, 4 * MiB, { clusterSize })).close();
  const front = Buffer.alloc(await storage.size());
  await storage.read(front, 0);
  const first = Math.ceil(front.length / clusterSize) * clusterSize;
  const bytes = Buffer.concat([front], first + 3 * clusterSize);
  const data = first + clusterSize;
  // The second stream begins in the last sector of the first, and its last block is 1096 zeros, stored.
  const one = deflateRawSync(Buffer.alloc(clusterSize, 'text'));
  const text = deflateRawSync(Buffer.alloc(3000, 'more'), { finishFlush: constants.Z_SYNC_FLUSH });
  const two = Buffer.concat([text, Buffer.from([1, 0x48, 0x04, 0xb7, 0xfb]), Buffer.alloc(1096)]);
  bytes.set(one, data);
  bytes.set(two, data + one.length);
  const l1 = Number(front.readBigUInt64BE(40));
  const entry = (at: number, end: number): bigint =>
    (1n << 62n) | (BigInt(Math.floor((end - 1) / 512) - Math.floor(at / 512)) << 58n) | BigInt(at);
  for (const [index, table, at, end] of [
    [0, first, data, data + one.length],
    [1, first + 2 * clusterSize, data + one.length, data + one.length + two.length],
  ] as const) {
    bytes.writeBigUInt64BE((1n << 63n) | BigInt(table), l1 + 8 * index);
    bytes.writeBigUInt64BE(entry(at, end), table);
  }
  await writeFile(path('image'), bytes);
  // Piece by piece where no zeros are looked for, and by native jobs.
  for (const [size, sparseSize] of [
    [100, 0],
    [bytes.length, 0],
    [100, 4096],
  ] as const) {
    const input = Readable.from(chunks(bytes, () => size));
    await fromQcow2Stream(input, path('out'), { ...unflushed, sparseSize });
    const { same, output } = await qemuCompare(path('image'), path('out'), { b: 'raw' });
    expect(same, output).toBe(true);
  }
});

describe('wrong streams', () => {
  it('hostile images are restored as a file of them is read, or refused', async () => {
    const cases = corpus().filter(({ outcome }) =>
      outcome.kind === 'refused' ? outcome.code !== 'ERR_QCOW2_REFERENCE_DENIED' : outcome.locked !== true,
    );
    let restored = 0;
    for (const { name, bytes, outcome } of cases) {
      const input = Readable.from(chunks(Buffer.from(bytes), () => 64 * KiB));
      const failure: unknown = await fromQcow2Stream(input, path('out'), unflushed).then(
        () => null,
        (error: unknown) => error,
      );
      if (failure !== null) {
        expect((failure as { code?: string }).code, name).toMatch(/^ERR_QCOW2_/);
        continue;
      }
      restored += 1;
      expect(outcome.kind, name).toBe('opened');
      if (outcome.kind !== 'opened') continue;
      expect(outcome.broken, name).toEqual([]);
      expect(readFileSync(path('out')).equals(outcome.content), name).toBe(true);
    }
    const sound = cases.filter(({ outcome }) => outcome.kind === 'opened' && outcome.broken.length === 0);
    expect(restored).toBeGreaterThan(sound.length * 0.7);
  });

  it('cut anywhere', async () => {
    const image = await create(new MemoryStorage(), 20 * KiB, { clusterSize: 512 });
    await image.write(pattern(3, 7 * KiB), 1024);
    await image.write(Buffer.alloc(3 * KiB, 'compresses well'), 12 * KiB, { compress: true });
    const expected = Buffer.alloc(image.size);
    await image.read(expected, 0);
    for (const compress of [false, true]) {
      const whole = Buffer.concat(await toQcow2Stream(image, { clusterSize: 512, compress }).toArray());
      for (let end = 0; end <= whole.length; end += 311) {
        const input = Readable.from(chunks(whole.subarray(0, end), () => 4096));
        const failure: unknown = await fromQcow2Stream(input, path('out'), unflushed).then(
          () => null,
          (error: unknown) => error,
        );
        if (failure === null) expect(readFileSync(path('out')).equals(expected), `cut at ${end}`).toBe(true);
        else expect((failure as { code?: string }).code, `cut at ${end}`).toMatch(/^ERR_QCOW2_/);
      }
      const input = Readable.from([whole]);
      await fromQcow2Stream(input, path('out'), { targetFormat: 'raw' });
      expect(readFileSync(path('out')).equals(expected)).toBe(true);
    }
    await image.close();
  });

  it('a compressed cluster that is damaged is named', async () => {
    await largeDisk();
    await qemuImg([
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      '-c',
      '-o',
      'compression_type=zstd',
      path('raw'),
      path('image'),
    ]);
    const bytes = await readFile(path('image'));
    const frame = bytes.indexOf(Buffer.from('28b52ffd', 'hex'), bytes.length / 2);
    bytes.fill(0xff, frame + 4, frame + 12);
    for (const options of targets) {
      const input = Readable.from(chunks(bytes, () => 64 * KiB));
      await expect(fromQcow2Stream(input, path('out'), options)).rejects.toMatchObject({
        code: 'ERR_QCOW2_CORRUPT',
        feature: 'compressed cluster',
      });
    }
  });
});

describe.skipIf(process.platform === 'win32')('a descriptor', () => {
  it('a pipe and a file are read by megabytes', async () => {
    await largeDisk();
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', path('raw'), path('image')]);
    execFileSync('mkfifo', [path('fifo')]);
    const fds: number[] = [];
    await expectRestored(() => {
      spawn('sh', ['-c', 'cat "$1" > "$2"', 'sh', path('image'), path('fifo')], { stdio: 'ignore' });
      fds.push(openSync(path('fifo'), 'r'));
      return new DescriptorStream(fds.at(-1) ?? -1);
    });
    await expectRestored(() => {
      fds.push(openSync(path('image'), 'r'));
      return new DescriptorStream(fds.at(-1) ?? -1);
    });
    for (const fd of fds) closeSync(fd);
  });

  it('a writer that says nothing does not keep a job that was aborted', async () => {
    execFileSync('mkfifo', [path('silent')]);
    const writer = openSync(path('silent'), 'r+');
    const fd = openSync(path('silent'), 'r');
    const controller = new AbortController();
    const { signal } = controller;
    const reason = new Error('enough');
    const job = fromQcow2Stream(new DescriptorStream(fd, { signal }), path('out'), {
      targetFormat: 'raw',
      signal,
    });
    setTimeout(() => controller.abort(reason), 20);
    await expect(job).rejects.toBe(reason);
    closeSync(fd);
    closeSync(writer);
  });

  it('writers that say nothing keep nobody else waiting', async () => {
    const fds = Array.from({ length: 9 }, (_, at) => {
      execFileSync('mkfifo', [path(`silent${at}`)]);
      return openSync(path(`silent${at}`), 'r+');
    });
    const controller = new AbortController();
    const { signal } = controller;
    const jobs = fds.map((fd, at) =>
      fromQcow2Stream(new DescriptorStream(fd), path(`out${at}`), { targetFormat: 'raw', signal }),
    );
    const outcomes = Promise.allSettled(jobs);
    // As many as the pool has threads.
    await Promise.all(Array.from({ length: 4 }, async () => readFile(path('raw')).catch(() => null)));
    const reason = new Error('enough');
    controller.abort(reason);
    expect(await outcomes).toEqual(jobs.map(() => ({ status: 'rejected', reason })));
    for (const fd of fds) closeSync(fd);
  });

  // Elsewhere a pipe cannot be opened once more.
  it.skipIf(process.platform !== 'linux')(
    'readers of one pipe end when they are aborted, and when the writer closes',
    async () => {
      execFileSync('mkfifo', [path('shared')]);
      const writer = openSync(path('shared'), 'r+');
      const fd = openSync(path('shared'), 'r');
      const reason = new Error('enough');
      const buffers = [0, 1, 2].map(() => new Uint8Array(MiB));
      // Several are told of a byte, and one gets it.
      const writeMany = (): void => {
        for (let at = 0; at < 2000; at++) writeSync(writer, 'x');
      };
      for (let round = 0; round < 20; round++) {
        const controller = new AbortController();
        const { signal } = controller;
        const reads = Promise.allSettled(
          buffers.map((buffer) => new DescriptorStream(fd, { signal }).fill(buffer)),
        );
        await delay(5);
        writeMany();
        controller.abort(reason);
        expect(await reads).toEqual(buffers.map(() => ({ status: 'rejected', reason })));
      }
      const reads = Promise.all(buffers.map((buffer) => new DescriptorStream(fd).fill(buffer)));
      await delay(5);
      writeMany();
      closeSync(writer);
      const total = (await reads).reduce((sum, got) => sum + got, 0);
      expect(total).toBeGreaterThanOrEqual(2000);
      closeSync(fd);
    },
  );

  it('what cannot be read is an error', async () => {
    const fd = openSync(path(), 'r');
    const job = fromQcow2Stream(new DescriptorStream(fd), path('out'), { targetFormat: 'raw' });
    await expect(job).rejects.toMatchObject({ code: 'EISDIR', syscall: 'read' });
    closeSync(fd);
  });
});
