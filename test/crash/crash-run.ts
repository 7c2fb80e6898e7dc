/** Runs a workload over a recording storage, and judges every state that a crash may have left. */
import { writeFile } from 'node:fs/promises';
import { MemoryStorage, open, type Storage } from '../../lib/index.js';
import { crashStates, type CrashOptions, type CrashState } from '../support/crash-states.js';
import { asSnapshot, inspectImage, type Inspection } from '../support/image-invariants.js';
import { qemuCheck } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { RecordingStorage, type RecordingOptions } from '../support/recording-storage.js';
import { withTempDir } from '../support/temp-dir.js';
import { openGuest, type Guest, type Kind, type Start, type Workload } from './workloads.js';

export interface CrashRun {
  readonly kind: Kind;
  readonly workload: Workload;
  readonly start: Start;
  readonly recording: RecordingStorage;
  readonly guest: Guest;
}

export interface RunOptions extends RecordingOptions {
  /** Stands between the library and the recording. */
  readonly through?: (recording: RecordingStorage) => Storage;
}

/** Runs a workload to its end. */
export async function runWorkload(
  kind: Kind,
  start: Start,
  workload: Workload,
  options: RunOptions = {},
): Promise<CrashRun> {
  const recording = await RecordingStorage.over(start.image.clone(), options);
  const storage = options.through?.(recording) ?? recording;
  const guest = await openGuest(start, kind, storage, workload, () => recording.mark());
  await workload.run(guest);
  return { kind, workload, start, recording, guest };
}

export interface JudgeOptions extends CrashOptions {
  /** After every n-th state writing goes on and the result is judged, too. */
  readonly recoverEvery: number;
  /** qemu-img checks every n-th state. */
  readonly qemuEvery: number;
}

export interface Verdict {
  readonly states: number;
  readonly recovered: number;
  readonly checkedByQemu: number;
  /** What is wrong with the first bad state, or null. */
  readonly problem: string | null;
}

/** Judges the states after a crash of a run until one is bad. */
export async function judgeStates(run: CrashRun, options: JudgeOptions): Promise<Verdict> {
  let states = 0;
  let recovered = 0;
  let checkedByQemu = 0;
  for await (const state of crashStates(run.recording.log, options)) {
    states += 1;
    const isRecovered = states % options.recoverEvery === 0;
    const isForQemu = states % options.qemuEvery === 0;
    if (isRecovered) recovered += 1;
    if (isForQemu) checkedByQemu += 1;
    const problem = await problemOf(run, state, states, isRecovered, isForQemu);
    if (problem !== null) {
      return { states, recovered, checkedByQemu, problem: `${problem}\n${state.description}` };
    }
  }
  return { states, recovered, checkedByQemu, problem: null };
}

async function problemOf(
  run: CrashRun,
  state: CrashState,
  seed: number,
  isRecovered: boolean,
  isForQemu: boolean,
): Promise<string | null> {
  try {
    const image = state.content.toBuffer();
    const before = inspectImage(image);
    const [first] = before.problems;
    if (first !== undefined) return `broken: ${first}`;
    if (before.dirty && state.to > run.guest.closedAt) return 'dirty, though it was closed';
    const problem = (await contentProblem(run, state)) ?? (await snapshotProblem(run, image, before));
    if (problem !== null) return problem;
    if (isForQemu) await checkByQemu(image, before);
    return isRecovered ? await recoveryProblem(run, state, before, seed) : null;
  } catch (error) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
}

async function contentProblem({ guest, start }: CrashRun, state: CrashState): Promise<string | null> {
  const disk = await open(state.content, start.open);
  for (const moment of [state.from, state.to]) {
    if (!guest.allowsSize(disk.size, moment))
      return `the size is ${disk.size} after a crash at tick ${moment}`;
  }
  const read = (buffer: Buffer, position: number): Promise<void> =>
    disk.read(buffer.subarray(0, Math.max(0, disk.size - position)), position);
  return guest.history.firstProblem(read, state);
}

async function snapshotProblem(
  { start }: CrashRun,
  image: Buffer,
  { snapshots }: Inspection,
): Promise<string | null> {
  for (const [name, model] of start.snapshots) {
    const snapshot = snapshots.find((one) => one.name === name);
    if (snapshot === undefined) return `snapshot ${name} is lost`;
    const disk = await open(new MemoryStorage(asSnapshot(image, snapshot, model.size)), start.open);
    const content = Buffer.alloc(model.size);
    await disk.read(content, 0);
    if (!content.equals(model.read(0, model.size))) return `snapshot ${name} has changed`;
  }
  return null;
}

async function checkByQemu(image: Buffer, { dirty }: Inspection): Promise<void> {
  if (dirty || image.readUInt32BE(32) !== 0) return;
  await withTempDir(async (path) => {
    const alone = Buffer.from(image);
    // The backing file is not there, and no matter for a check.
    alone.writeBigUInt64BE(0n, 8);
    await writeFile(path('image'), alone);
    const { exit, ...report } = await qemuCheck(path('image'));
    if (exit === 2) throw new Error(`qemu-img check finds corruptions: ${JSON.stringify(report)}`);
  });
}

/** Goes on writing, and sees that only that has changed, that no new leaks came, and that a larger disk has no old data. */
async function recoveryProblem(
  run: CrashRun,
  state: CrashState,
  before: Inspection,
  seed: number,
): Promise<string | null> {
  const { start } = run;
  const random = new Random(seed);
  const image = state.content.clone();
  const disk = await open(image, { ...start.open, mode: 'r+' });
  const expected = Buffer.alloc(Math.max(...run.guest.sizes.map(({ size }) => size)) + 40_960);
  await disk.read(expected.subarray(0, disk.size), 0);
  for (let i = 0; i < 6; i += 1) {
    const position = random.below(disk.size / 512) * 512;
    const data = pattern(seed + i, Math.min(disk.size - position, 512 * random.between(1, 6)));
    if (i % 3 === 2) {
      await disk.discard(position, data.length);
      data.fill(0);
    } else await disk.write(data, position);
    expected.set(data, position);
    if (i === 3) await disk.flush();
  }
  await disk.resize(expected.length);
  await disk.close();

  const found = Buffer.alloc(expected.length, 0xcd);
  const again = await open(image, start.open);
  await again.read(found, 0);
  if (!found.equals(expected)) {
    const at = expected.findIndex((byte, i) => byte !== found[i]);
    return `after recovery byte ${at} is ${String(found[at])} instead of ${String(expected[at])}; the size was ${before.size}`;
  }
  const bytes = image.toBuffer();
  const after = inspectImage(bytes);
  const [first] = after.problems;
  if (first !== undefined) return `broken after recovery: ${first}`;
  if (after.dirty) return 'still dirty after recovery and close';
  if (!before.dirty && after.leaks > before.leaks) {
    return `${after.leaks} clusters leak after recovery, ${before.leaks} before`;
  }
  return snapshotProblem(run, bytes, after);
}
