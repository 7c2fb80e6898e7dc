/**
 * Jobs that write a new file while its storage, or that of the source, fails at every N-th operation: the error is clear, the
 * source stays as it is, and what is said to be done is right, durable, and sound.
 */
import { Readable, Writable } from 'node:stream';
import { afterAll, describe, expect, it } from 'vitest';
import {
  convert,
  create,
  dehydrate,
  fromQcow2Stream,
  MemoryStorage,
  open,
  Qcow2Error,
  rehydrate,
  toQcow2Stream,
  type Storage,
} from '../../lib/index.js';
import { crashStates } from '../support/crash-states.js';
import { inspectImage } from '../support/image-invariants.js';
import { within } from '../support/patience.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage, type Fault } from '../support/recording-storage.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const size = 300 * 1024;
const content = Buffer.concat([
  pattern(1, 90 * 1024),
  Buffer.alloc(100 * 1024),
  Buffer.alloc(110 * 1024, 'text '),
]);
const totals = { faults: 0, told: 0, states: 0 };

interface Job {
  readonly name: string;
  readonly format: 'raw' | 'qcow2';
  /** Whether the disk is all zeros when it is done. */
  readonly empty?: boolean;
  readonly run: (source: Storage, target: Storage) => Promise<unknown>;
}

const jobs: readonly Job[] = [
  {
    name: 'create',
    format: 'qcow2',
    empty: true,
    run: (_source, target) => create(target, size, { clusterSize: 4096 }),
  },
  {
    name: 'create, preallocated, with refcounts of 64 bits',
    format: 'qcow2',
    empty: true,
    run: (_source, target) =>
      create(target, size, { clusterSize: 512, refcountBits: 64, preallocation: 'full' }),
  },
  {
    name: 'rehydrate',
    format: 'qcow2',
    empty: true,
    run: async (source, target) => rehydrate(Readable.from([await containerOf(source)]), target),
  },
  {
    name: 'convert to qcow2',
    format: 'qcow2',
    run: (source, target) =>
      convert(source, target, { targetFormat: 'qcow2', create: { clusterSize: 4096 } }),
  },
  {
    name: 'convert to qcow2, compressing',
    format: 'qcow2',
    run: (source, target) =>
      convert(source, target, { targetFormat: 'qcow2', create: { clusterSize: 4096 }, compress: true }),
  },
  {
    name: 'convert to extended L2 entries, preallocated',
    format: 'qcow2',
    run: (source, target) =>
      convert(source, target, {
        targetFormat: 'qcow2',
        create: { clusterSize: 16384, extendedL2: true, preallocation: 'metadata' },
      }),
  },
  {
    name: 'convert to raw',
    format: 'raw',
    run: (source, target) => convert(source, target, { targetFormat: 'raw' }),
  },
  {
    name: 'a stream to qcow2',
    format: 'qcow2',
    run: async (source, target) =>
      fromQcow2Stream(Readable.from([await streamOf(source)]), target, { targetFormat: 'qcow2' }),
  },
  {
    name: 'a stream to raw',
    format: 'raw',
    run: async (source, target) =>
      fromQcow2Stream(Readable.from([await streamOf(source)]), target, { targetFormat: 'raw' }),
  },
];

const faults: readonly Omit<Fault, 'nth'>[] = [
  { of: 'changes', code: 'EIO' },
  { of: 'changes', code: 'ENOSPC', written: 512, goesOn: true },
  { of: 'changes', code: 'EINTR', written: 2 ** 30 },
];
const readFaults: readonly Omit<Fault, 'nth'>[] = [
  { of: 'reads', code: 'EIO' },
  { of: 'reads', code: 'short' },
];

afterAll(() => {
  console.log(
    `faults injected into new images: ${totals.faults}, of which ${totals.told} were told; states after a job was done: ${totals.states}`,
  );
});

describe.each(jobs)('$name', (job) => {
  it('tells every failure of the target', async () => {
    for (const [which, fault] of faults.entries()) {
      const every = isLong ? 1 : 5;
      for (let nth = which % every; ; nth += every) {
        const source = await sourceImage();
        const target = await RecordingStorage.over(new MemoryStorage(), { fault: { ...fault, nth } });
        const failure = await outcome(job.run(source, target));
        if (target.changes <= nth) break;
        await judge(job, failure, target, `${JSON.stringify(fault)} at ${nth}`);
      }
    }
  });

  it('tells every failure of the source', async () => {
    for (const fault of readFaults) {
      for (let nth = 0; ; nth += isLong ? 1 : 3) {
        const source = await RecordingStorage.over(await sourceImage(), { fault: { ...fault, nth } });
        const target = new MemoryStorage();
        const failure = await outcome(job.run(source, target));
        if (source.reads <= nth) break;
        expect(source.changes).toBe(0);
        await judge(job, failure, target, `${JSON.stringify(fault)} at ${nth}`);
        // A read that brings less is gone on with.
        if (fault.code === 'short') expect(failure).toBe(null);
      }
    }
  });

  it('has made all durable when it is done', async () => {
    const target = await RecordingStorage.over(new MemoryStorage());
    await job.run(await sourceImage(), target);
    for await (const state of crashStates(target.log, { around: [target.mark()], samples: 50 })) {
      totals.states += 1;
      await expectRight(job, state.content, state.description);
    }
  });
});

async function sourceImage(): Promise<MemoryStorage> {
  const image = new MemoryStorage();
  const disk = await create(image, size, { clusterSize: 4096 });
  await disk.write(content.subarray(0, 90 * 1024), 0);
  await disk.write(content.subarray(190 * 1024), 190 * 1024);
  await disk.close();
  return image;
}

async function containerOf(source: Storage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const sink = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      chunks.push(chunk);
      done();
    },
  });
  await dehydrate(source, sink);
  return Buffer.concat(chunks);
}

async function streamOf(source: Storage): Promise<Buffer> {
  const disk = await open(source);
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of toQcow2Stream(disk) as AsyncIterable<Buffer>) chunks.push(chunk);
  } finally {
    await disk.close();
  }
  return Buffer.concat(chunks);
}

/** What a job fails with, or null; it ends. */
function outcome(job: Promise<unknown>): Promise<unknown> {
  const failure = job.then(
    () => null,
    (error: unknown) => error,
  );
  return within(10, failure, 'the job');
}

async function judge(job: Job, failure: unknown, target: Storage, what: string): Promise<void> {
  totals.faults += 1;
  if (failure === null) {
    const image = Buffer.alloc(await target.size());
    await target.read(image, 0);
    await expectRight(job, new MemoryStorage(image), what);
    return;
  }
  totals.told += 1;
  const code = failure instanceof Error && 'code' in failure ? String(failure.code) : '';
  const isClear = failure instanceof Qcow2Error || ['EIO', 'ENOSPC', 'EINTR'].includes(code);
  const message = failure instanceof Error ? failure.message : 'not an Error';
  expect(isClear, `${what}: ${message}`).toBe(true);
}

async function expectRight(job: Job, image: MemoryStorage, what: string): Promise<void> {
  if (job.format === 'raw') {
    expect(image.toBuffer().equals(content), what).toBe(true);
    return;
  }
  expect(inspectImage(image.toBuffer()).problems, what).toEqual([]);
  const disk = await open(image);
  const got = Buffer.alloc(size);
  await disk.read(got, 0);
  expect(disk.size, what).toBe(size);
  expect(got.equals(job.empty === true ? Buffer.alloc(size) : content), what).toBe(true);
  await disk.close();
}
