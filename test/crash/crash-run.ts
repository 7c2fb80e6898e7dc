/** Runs a workload over a recording storage, and judges every state that a crash may have left. */
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { MemoryStorage, open, type OpenOptions, type Qcow2, type Storage } from '../../lib/index.js';
import { crashStates, type CrashOptions, type CrashState } from '../support/crash-states.js';
import { asSnapshot, inspectImage, type Inspection } from '../support/image-invariants.js';
import { qemuImg } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { RecordingStorage, type RecordingOptions } from '../support/recording-storage.js';
import { withTempDir } from '../support/temp-dir.js';
import { openGuest, type Guest } from './guest.js';
import type { Kind, Start } from './kinds.js';
import type { Workload } from './workloads.js';

export interface CrashRun {
  readonly kind: Kind;
  readonly workload: Workload;
  readonly start: Start;
  readonly recording: RecordingStorage;
  readonly guest: Guest;
  /** The image and the other file, as they are now. */
  readonly contents: readonly [MemoryStorage, ...MemoryStorage[]];
}

export interface RunOptions extends RecordingOptions {
  /** Stands between the library and the recording. */
  readonly through?: (recording: RecordingStorage) => Storage;
}

/** Opens an image for a workload, which is still to be run. */
export async function startWorkload(
  kind: Kind,
  start: Start,
  workload: Workload,
  options: RunOptions = {},
): Promise<CrashRun> {
  const image = start.image.clone();
  await workload.prepare?.(image);
  const recording = await RecordingStorage.over(image, options);
  const storage = options.through?.(recording) ?? recording;
  const otherFile = start.other?.clone() ?? null;
  const other = otherFile === null ? null : await RecordingStorage.over(otherFile, { beside: recording });
  const growth = workload.growth?.(kind) ?? 2;
  const guest = await openGuest(start, kind, storage, other, growth, () => recording.mark());
  const others = otherFile === null ? [] : [otherFile];
  return { kind, workload, start, recording, guest, contents: [image, ...others] };
}

/** Runs a workload to its end. */
export async function runWorkload(...what: Parameters<typeof startWorkload>): Promise<CrashRun> {
  const run = await startWorkload(...what);
  await run.workload.run(run.guest);
  return run;
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

/** Judges the states after a crash of a run, each that differs from the others once, until one is bad. */
export async function judgeStates(run: CrashRun, options: JudgeOptions): Promise<Verdict> {
  let states = 0;
  let recovered = 0;
  let checkedByQemu = 0;
  const judged = new Set<string>();
  for await (const state of crashStates(run.recording.log, options)) {
    const identity = identityOf(state);
    if (judged.has(identity)) continue;
    judged.add(identity);
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

/** Content and moment: many subsets of the same writes leave the same. */
function identityOf({ contents, from, to }: CrashState): string {
  const hash = createHash('sha1');
  for (const content of contents) hash.update(content.toBuffer()).update(' ');
  return `${hash.digest('base64')} ${from} ${to}`;
}

/** What is wrong with a run's files in a state, or null. */
export async function problemOf(
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
    const problem =
      (await contentProblem(run, state)) ??
      (await snapshotProblem(run, image, before, state)) ??
      belowProblem(run, state);
    if (problem !== null) return problem;
    if (isForQemu) await checkByQemu(run, state, before);
    return isRecovered ? await recoveryProblem(run, state, before, seed) : null;
  } catch (error) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
}

/** How to open what a crash left. */
const openOptions = ({ start }: CrashRun, { contents: [, other] }: CrashState): OpenOptions =>
  start.openWith(other ?? null);

async function contentProblem(run: CrashRun, state: CrashState): Promise<string | null> {
  const { guest } = run;
  const disk = await open(state.content, openOptions(run, state));
  for (const moment of [state.from, state.to]) {
    if (!guest.allowsSize(disk.size, moment))
      return `the size is ${disk.size} after a crash at tick ${moment}`;
  }
  const broken = await guest.brokenPromise(disk, state);
  if (broken !== null) return `what was promised does not hold: ${broken}`;
  const read = (buffer: Buffer, position: number): Promise<void> =>
    disk.read(buffer.subarray(0, Math.max(0, disk.size - position)), position);
  return (await guest.history.firstProblem(read, state)) ?? bitmapProblem(run, state, disk);
}

/** A bitmap that says it can be relied on knows of every change since it was made. */
async function bitmapProblem({ guest }: CrashRun, state: CrashState, disk: Qcow2): Promise<string | null> {
  if (guest.bitmaps.size === 0) return null;
  for (const { name, granularity, consistent } of await disk.bitmaps.list()) {
    if (!guest.bitmaps.has(name)) continue;
    if (!consistent && state.to > guest.closedAt) return `bitmap ${name} was not saved, though it was closed`;
    if (!consistent) continue;
    const content = await contentOf(disk);
    const { bits } = await disk.bitmaps.bits(name);
    const bases = guest.basesOf(name, state);
    for (let at = 0; at < content.length; at += granularity) {
      const unit = at / granularity;
      if (((bits[unit >> 3] ?? 0) & (1 << (unit & 7))) !== 0) continue;
      const now = content.subarray(at, at + granularity);
      const isUnchanged = bases.some((base) => {
        const then = Buffer.alloc(now.length);
        base.subarray(at, at + granularity).copy(then);
        return now.equals(then);
      });
      if (!isUnchanged) return `bitmap ${name} does not know of a change at ${at}`;
    }
  }
  return null;
}

/** A snapshot is whole or not there at all, and it is there from when it was made until its deletion was asked for. */
async function snapshotProblem(
  run: CrashRun,
  image: Buffer,
  { snapshots }: Inspection,
  state: CrashState,
): Promise<string | null> {
  const { guest } = run;
  for (const { name, made, ending } of guest.snapshots) {
    const mustBe = made <= state.to && ending > state.from;
    if (mustBe && !snapshots.some((one) => one.name === name)) return `snapshot ${name} is lost`;
  }
  for (const found of snapshots) {
    const { name } = found;
    const noted = guest.snapshots.find(
      (one) => one.name === name && one.begin <= state.from && (one.gone === Infinity || one.gone > state.to),
    );
    if (noted === undefined) return `snapshot ${name} should not be there`;
    const { length } = noted.content;
    const view = new MemoryStorage(asSnapshot(image, found, length));
    const disk = await open(view, openOptions(run, state));
    if (!(await contentOf(disk)).equals(noted.content)) return `snapshot ${name} has changed`;
  }
  return null;
}

/** What a qcow2 file below is, it stays. */
function belowProblem({ kind }: CrashRun, { contents: [, other] }: CrashState): string | null {
  if (kind.other !== 'qcow2 backing' || other === undefined) return null;
  const [first] = inspectImage(other.toBuffer()).problems;
  return first === undefined ? null : `the backing file is broken: ${first}`;
}

async function contentOf(disk: Qcow2): Promise<Buffer> {
  const content = Buffer.alloc(disk.size);
  await disk.read(content, 0);
  return content;
}

async function checkByQemu({ kind }: CrashRun, state: CrashState, { dirty }: Inspection): Promise<void> {
  if (dirty || kind.encrypted) return;
  await withTempDir(async (path) => {
    const alone = state.content.toBuffer();
    // The backing file is not there, and no matter for a check.
    alone.writeBigUInt64BE(0n, 8);
    await writeFile(path('image'), alone);
    const [, other] = state.contents;
    if (other !== undefined) await writeFile(path('data'), other.toBuffer());
    // Named here, a data file need not be where the image says that it is.
    const options = `driver=qcow2,file.filename=${path('image')},data-file.driver=file,data-file.filename=${path('data')}`;
    const isSplit = kind.other === 'data file';
    const image = isSplit ? ['--image-opts', options] : ['-f', 'qcow2', path('image')];
    const { exit, stdout, stderr } = await qemuImg(['check', ...image], { expectExit: null });
    if (![0, 2, 3].includes(exit)) throw new Error(`qemu-img check ends with ${exit}: ${stderr}`);
    // A COPIED flag that is missing costs a copy, no data. Snapshots take the flags off before anything is shared.
    const harmless = /^ERROR OFLAG_COPIED (L2|data) cluster: .* refcount=1$/;
    const errors = `${stdout}\n${stderr}`.split('\n').filter((line) => line.startsWith('ERROR'));
    const [bad] = errors.filter((line) => !harmless.test(line));
    if (bad !== undefined || (exit === 2 && errors.length === 0)) {
      throw new Error(`qemu-img check finds corruptions: ${bad ?? stdout}`);
    }
  });
}

/** Goes on writing, and sees that only that has changed, that no new leaks came, and that a larger disk has no old data. */
async function recoveryProblem(
  run: CrashRun,
  state: CrashState,
  before: Inspection,
  seed: number,
): Promise<string | null> {
  const random = new Random(seed);
  const contents = state.contents.map((content) => content.clone());
  const after: CrashState = { ...state, content: contents[0] ?? state.content, contents };
  const options = openOptions(run, after);
  const disk = await open(after.content, { ...options, mode: 'r+' });
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
  const isResizable = run.kind.version === 3 || before.snapshots.length === 0;
  if (isResizable) await disk.resize(expected.length);
  await disk.close();

  const again = await open(after.content, options);
  const found = await contentOf(again);
  const wanted = expected.subarray(0, found.length);
  if (found.length !== (isResizable ? expected.length : before.size))
    return 'the size is wrong after recovery';
  if (!found.equals(wanted)) {
    const at = wanted.findIndex((byte, i) => byte !== found[i]);
    return `after recovery byte ${at} is ${String(found[at])} instead of ${String(wanted[at])}; the size was ${before.size}`;
  }
  const bytes = after.content.toBuffer();
  const inspected = inspectImage(bytes);
  const [first] = inspected.problems;
  if (first !== undefined) return `broken after recovery: ${first}`;
  if (inspected.dirty) return 'still dirty after recovery and close';
  if (!before.dirty && inspected.leaks > before.leaks) {
    return `${inspected.leaks} clusters leak after recovery, ${before.leaks} before`;
  }
  return (await bitmapProblem(run, state, again)) ?? snapshotProblem(run, bytes, inspected, after);
}
