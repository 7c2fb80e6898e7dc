/** A storage that fails its N-th operation, for every N: clear errors, no hang, and nothing lost that was flushed. */
import { afterAll, describe, expect, it } from 'vitest';
import { hasCode } from '../../lib/errors.js';
import {
  create,
  MemoryStorage,
  open,
  Qcow2Error,
  type CheckReport,
  type OpenOptions,
  type Storage,
} from '../../lib/index.js';
import { inspectImage } from '../support/image-invariants.js';
import { within } from '../support/patience.js';
import { RecordingStorage, type Fault } from '../support/recording-storage.js';
import { problemOf, startWorkload } from './crash-run.js';
import type { Guest } from './guest.js';
import { fullKinds, kinds, spaciousKinds, type Kind, type Start } from './kinds.js';
import { leaveLeaks } from './leaks.js';
import { compactions, fillUp, workloads, type Workload } from './workloads.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const faults: readonly Omit<Fault, 'nth'>[] = [
  { of: 'changes', code: 'EIO' },
  { of: 'changes', code: 'ENOSPC', written: 512, goesOn: true },
  { of: 'changes', code: 'EIO', goesOn: true },
  // Everything was written, and still the write is said to have failed.
  { of: 'changes', code: 'EINTR', written: 2 ** 30 },
  { of: 'reads', code: 'EIO' },
  { of: 'reads', code: 'short' },
];
const totals = { faults: 0, failedFlushes: 0, survived: 0 };

describe.each(kinds.filter(({ slow }) => isLong || !slow))('a failing storage with $name', (kind) => {
  // A short run has those pairs that it does not crash.
  const isChosen = (index: number): boolean => isLong || (index + kinds.indexOf(kind)) % 2 === 1;
  const chosen = [...workloads, ...compactions].filter(
    ({ fits, growth }, i) => isChosen(i) && (isLong || growth === undefined) && (fits?.(kind) ?? true),
  );
  it.each(chosen)(
    'during: $name',
    (workload) => survivesFaults(kind, workload, isLong ? 1 : 17),
    isLong ? 3_600_000 : 60_000,
  );
});

describe.each(spaciousKinds.filter(({ slow }) => isLong || !slow))('a failing storage with $name', (kind) => {
  const fits = compactions.filter((workload) => workload.fits?.(kind) ?? true);
  const chosen = isLong ? fits : fits.slice(0, 2);
  it.each(chosen)('during: $name', (workload) => survivesFaults(kind, workload, isLong ? 1 : 29), 3_600_000);
});

describe('a failing storage with a full refcount table', () => {
  it(
    `during: ${fillUp.name}`,
    () => survivesFaults(fullKinds[0] as Kind, fillUp, isLong ? 1 : 20),
    isLong ? 3_600_000 : 60_000,
  );
});

describe('opening an image that was left dirty', () => {
  it.each(['EIO', 'short'] as const)(
    'fails or makes it fit to be written, whichever read is %s',
    async (code) => {
      const kind = kinds.find(({ name }) => name === 'lazy refcounts, left dirty') as Kind;
      const { image, model } = await kind.make();
      for (let nth = 0; ; nth += 1) {
        const recording = await RecordingStorage.over(image.clone(), { fault: { of: 'reads', code, nth } });
        const disk = await open(recording, { mode: 'r+' }).catch((error: unknown) =>
          expectClear(error, `${nth}`),
        );
        if (recording.reads <= nth) break;
        if (disk === undefined) continue;
        await disk.write(Buffer.alloc(512, 7), 0);
        const got = Buffer.alloc(disk.size - 512);
        await disk.read(got, 512);
        expect(got.equals(model.read(512, got.length)), `${code} at ${nth}`).toBe(true);
        expect(await disk.check(), `${code} at ${nth}`).toMatchObject({ corruptions: 0, checkErrors: 0 });
        await disk.close();
      }
    },
  );
});

describe('an image with lazy refcounts whose change of the header is said to have failed', () => {
  it('is DIRTY while its refcounts are late', async () => {
    const kind = kinds.find(({ name }) => name === 'lazy refcounts') as Kind;
    const { image } = await kind.make();
    for (let nth = 0; ; nth += 1) {
      const memory = image.clone();
      const fault = { of: 'changes', code: 'EINTR', written: 2 ** 30, nth } as const;
      const recording = await RecordingStorage.over(memory, { fault });
      const disk = await open(recording, { mode: 'r+' });
      const steps = [
        () => disk.rebuildRefcounts(),
        () => disk.write(Buffer.alloc(2048, 1), 60 * 1024),
        () => disk.flush(),
        () => disk.rebuildRefcounts(),
        () => disk.write(Buffer.alloc(2048, 2), 70 * 1024),
        () => disk.flush(),
      ];
      for (const step of steps) {
        const failure = await settled(step(), `${nth}`);
        if (failure !== undefined) expectClear(failure, `${nth}`);
        expect(inspectImage(memory.toBuffer()).problems, `${nth}`).toEqual([]);
      }
      await disk.close().catch((error: unknown) => expectClear(error, `${nth}`));
      if (recording.changes <= nth) break;
    }
  });
});

describe('a check with a failing storage', () => {
  it.each(kinds.filter(({ slow }) => !slow))('finds no damage that is not there: $name', async (kind) => {
    const { image, other, openWith } = await kind.make();
    // With leaks the blocks are read twice.
    await leaveLeaks(image);
    const wanted = await checkOf(image, openWith(other));
    for (let nth = 0; ; nth += 1) {
      const recording = await RecordingStorage.over(image, { fault: { of: 'reads', code: 'EIO', nth } });
      const report = await checkOf(recording, openWith(other)).catch((error: unknown) =>
        expectClear(error, `${nth}`),
      );
      if (recording.reads <= nth) break;
      if (report === undefined || report.checkErrors > 0) continue;
      expect(report, `with read ${nth} failing`).toMatchObject(wanted);
    }
  });
});

async function checkOf(
  image: Storage,
  options: OpenOptions,
): Promise<Pick<CheckReport, 'leaks' | 'corruptions' | 'checkErrors'>> {
  const disk = await open(image, { ...options, forRepair: true });
  try {
    const { leaks, corruptions, checkErrors } = await disk.check();
    return { leaks, corruptions, checkErrors };
  } finally {
    await disk.close();
  }
}

describe('a failed flush', () => {
  it('is remembered: nothing claims to be durable after it', async () => {
    const memory = new MemoryStorage();
    await (await create(memory, 65536)).close();
    const recording = await RecordingStorage.over(memory, { fault: { of: 'changes', code: 'EIO', nth: 2 } });
    const disk = await open(recording, { mode: 'r+' });
    await disk.write(Buffer.alloc(512, 1), 0);
    await expect(disk.flush()).rejects.toMatchObject({ code: 'EIO' });
    expect(recording.log.entries.at(-1)).toMatchObject({ change: { kind: 'flush' }, ok: false });
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
    await expect(disk.write(Buffer.alloc(512, 2), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
    await expect(disk.discard(0, 65536)).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
    await expect(disk.resize(131072)).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
    const got = Buffer.alloc(512);
    await disk.read(got, 0);
    expect(got.equals(Buffer.alloc(512, 1))).toBe(true);
    await expect(disk.close()).rejects.toMatchObject({ code: 'ERR_QCOW2_FAILED' });
  });
});

afterAll(() => {
  console.log(
    `faults injected: ${totals.faults}, of these failed flushes: ${totals.failedFlushes}, ` +
      `after which the handle could still be closed cleanly: ${totals.survived}`,
  );
});

/** @param every only every n-th operation fails; which ones depends on the kind of fault */
async function survivesFaults(kind: Kind, workload: Workload, every: number): Promise<void> {
  const start = await kind.make();
  for (const [which, fault] of faults.entries()) {
    for (let nth = (which * 5) % every; ; nth += every) {
      if (!(await survivesFault(kind, start, workload, { ...fault, nth }))) break;
    }
  }
}

/** False when the workload is over before the fault comes. */
async function survivesFault(kind: Kind, start: Start, workload: Workload, fault: Fault): Promise<boolean> {
  const what = `${workload.name} with ${JSON.stringify(fault)}`;
  const run = await startWorkload(kind, start, workload, { fault }).catch((error: unknown) =>
    expectClear(error, what),
  );
  if (run === undefined) return true;
  const { guest, recording, contents } = run;
  const failure = await settled(workload.run(guest), what);
  const isOver = (fault.of === 'reads' ? recording.reads : recording.changes) <= fault.nth;
  if (isOver) return false;
  totals.faults += 1;
  if (failure !== undefined) expectClear(failure, what);

  // Of requests made at once some may still be under way when the first has failed.
  const failedFlushes = recording.log.entries.filter(
    ({ change, ok, end }) => change.kind === 'flush' && !ok && end < Infinity,
  );
  const failedFlush = failedFlushes.length > 0;
  if (failedFlush) totals.failedFlushes += 1;
  // A backing file that a commit could not flush does not keep the image, which still has everything, from being used.
  const ownFlush = failedFlushes.some(({ store }) => store === 0 || kind.other === 'data file');
  if (fault.goesOn !== true) expectUsable(await settled(goOn(guest), what), ownFlush, what);
  // Closing may fail as well, but it must end, and say that it failed when what came before is not safe.
  const closing = await settled(guest.disk.close(), what);
  if (failedFlush) expect(closing ?? failure, `${what}: closed after a failed flush`).toBeInstanceOf(Error);
  if (closing === undefined) totals.survived += 1;

  const now = recording.mark();
  const copies = contents.map((content) => new MemoryStorage(content.toBuffer()));
  const [content = new MemoryStorage()] = copies;
  const state = { from: now, to: now, content, contents: copies, description: what };
  expect(await problemOf(run, state, totals.faults, totals.faults % 4 === 0, false), what).toBe(null);
  return true;
}

/** After a fault that was the only one the handle works again, or says why not. */
async function goOn(guest: Guest): Promise<void> {
  await guest.write(512, 1024);
  await guest.flush();
}

function expectUsable(failure: unknown, failedFlush: boolean, what: string): void {
  if (failedFlush) expect(failure, `${what}: went on after a failed flush`).toBeDefined();
  if (failure === undefined || hasCode(failure, 'ERR_QCOW2_FAILED', 'ERR_QCOW2_CLOSED')) return;
  throw new Error(`${what}: the handle is of no use afterwards`, { cause: failure });
}

/** The error of a promise that must settle soon, or undefined. */
async function settled(promise: Promise<unknown>, what: string): Promise<unknown> {
  const failure = promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  return within(10, failure, what);
}

function expectClear(error: unknown, what: string): undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const isKnown = error instanceof Qcow2Error || ['EIO', 'ENOSPC', 'EINTR'].includes(String(code));
  expect(isKnown, `${what}: ${String(error)}`).toBe(true);
  return undefined;
}
