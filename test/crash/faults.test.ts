/** A storage that fails its N-th operation, for every N: clear errors, no hang, and nothing lost that was flushed. */
import { afterAll, describe, expect, it } from 'vitest';
import { hasCode } from '../../lib/errors.js';
import { create, MemoryStorage, open, Qcow2Error } from '../../lib/index.js';
import { inspectImage } from '../support/image-invariants.js';
import { RecordingStorage, type Fault } from '../support/recording-storage.js';
import {
  compactions,
  fillUp,
  type Guest,
  fullKinds,
  kinds,
  openGuest,
  spaciousKinds,
  workloads,
  type Kind,
  type Start,
  type Workload,
} from './workloads.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const faults: readonly Omit<Fault, 'nth'>[] = [
  { of: 'changes', code: 'EIO' },
  { of: 'changes', code: 'ENOSPC', written: 512, goesOn: true },
  { of: 'changes', code: 'EIO', goesOn: true },
  { of: 'reads', code: 'EIO' },
];
const totals = { faults: 0, failedFlushes: 0, survived: 0 };

describe.each(kinds.filter(({ slow }) => isLong || !slow))('a failing storage with $name', (kind) => {
  it.each([...workloads, ...compactions].filter(({ growth }) => isLong || growth === undefined))(
    'during: $name',
    (workload) => survivesFaults(kind, workload, isLong ? 1 : 3),
    isLong ? 3_600_000 : 60_000,
  );
});

describe.each(spaciousKinds)('a failing storage with $name', (kind) => {
  it.each(compactions.slice(0, 2))('during: $name', (workload) => survivesFaults(kind, workload, 5), 60_000);
});

describe('a failing storage with a full refcount table', () => {
  it(`during: ${fillUp.name}`, () => survivesFaults(fullKinds[0] as Kind, fillUp, 4), 60_000);
});

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
    for (let nth = which % every; ; nth += every) {
      if (!(await survivesFault(kind, start, workload, { ...fault, nth }))) break;
    }
  }
}

/** False when the workload is over before the fault comes. */
async function survivesFault(kind: Kind, start: Start, workload: Workload, fault: Fault): Promise<boolean> {
  const memory = start.image.clone();
  const recording = await RecordingStorage.over(memory, { fault });
  const what = `${workload.name} with ${JSON.stringify(fault)}`;
  const guest = await openGuest(start, kind, recording, workload, () => recording.mark()).catch(
    (error: unknown) => expectClear(error, what),
  );
  if (guest === undefined) return fault.nth < recording.reads || fault.nth < recording.changes;
  const failure = await settled(workload.run(guest), what);
  const isOver = (fault.of === 'reads' ? recording.reads : recording.changes) <= fault.nth;
  if (isOver) return false;
  totals.faults += 1;
  if (failure !== undefined) expectClear(failure, what);

  const failedFlush = recording.log.entries.some(({ change, ok }) => change.kind === 'flush' && !ok);
  if (failedFlush) totals.failedFlushes += 1;
  if (fault.goesOn !== true) expectUsable(await settled(goOn(guest), what), failedFlush, what);
  // Closing may fail as well, but it must end, and say that it failed when what came before is not safe.
  const closing = await settled(guest.disk.close(), what);
  if (failedFlush) expect(closing ?? failure, `${what}: closed after a failed flush`).toBeInstanceOf(Error);
  if (closing === undefined) totals.survived += 1;

  const image = memory.toBuffer();
  const { problems } = inspectImage(image);
  expect(problems, what).toEqual([]);
  const disk = await open(new MemoryStorage(image), start.open);
  const read = (buffer: Buffer, position: number): Promise<void> =>
    disk.read(buffer.subarray(0, Math.max(0, disk.size - position)), position);
  const now = recording.mark();
  expect(await guest.history.firstProblem(read, { from: now, to: now }), what).toBe(null);
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
  let timer: NodeJS.Timeout | undefined;
  const hang = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} hangs`)), 10_000);
  });
  try {
    await Promise.race([promise, hang]);
    return undefined;
  } catch (error) {
    if (error instanceof Error && error.message.endsWith('hangs')) throw error;
    return error;
  } finally {
    clearTimeout(timer);
  }
}

function expectClear(error: unknown, what: string): undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const isKnown = error instanceof Qcow2Error || code === 'EIO' || code === 'ENOSPC';
  expect(isKnown, `${what}: ${String(error)}`).toBe(true);
  return undefined;
}
