/** Every content that a crash may leave behind, from the log of what was done to a storage, or to several at once. */
import type { MemoryStorage } from '../../lib/storage/memory.js';
import { Random } from './pattern.js';
import type { Change, Recorded, RecordedLog } from './recording-storage.js';

export interface CrashState {
  /**
   * The crash may have been at any moment from `from` to `to`, ticks of the log, both included. What was promised by `to`
   * must hold, and nothing may be there that was not begun by `from`.
   */
  readonly from: number;
  readonly to: number;
  readonly content: MemoryStorage;
  /** The same of every storage of the log; `content` is the first. */
  readonly contents: readonly MemoryStorage[];
  /** Which operations reached the medium, for the message of a failing test. */
  readonly description: string;
}

export interface CrashOptions {
  seed?: number;
  /** All subsets of the operations of an epoch where there are at most this many; 10 by default, which makes 1024. */
  exhaustiveUpTo?: number;
  /** Random subsets of a larger epoch; 100 by default. */
  samples?: number;
  /** Units of which a medium writes some and not others, bytes; 512 and 4096 by default, none when empty. */
  tornUnits?: readonly number[];
  /** Random torn states for each unit in each epoch; 10 by default. */
  tornSamples?: number;
  /** Only epochs in which one of these ticks lies. */
  around?: readonly number[];
}

/** A recorded change with its place in the log. */
interface Step {
  readonly index: number;
  readonly entry: Recorded;
  readonly change: Change;
}

/** The time between the end of a flush (or the start) and the end of the next (or for ever). */
interface Epoch {
  readonly from: number;
  readonly to: number;
  /** On the medium for certain, and not. A failed write is never certain. In the order of the log. */
  readonly durable: ReadonlySet<Step>;
  readonly pending: readonly Step[];
}

/** The steps that reached the medium; of a torn one, the parts. */
type Survivors = ReadonlyMap<Step, readonly Change[]>;

/**
 * Yields the crash states epoch by epoch. A flush makes durable what had settled in its storage before it was called, and
 * nothing else; of the rest any part may be there, in any order.
 */
export async function* crashStates(log: RecordedLog, options: CrashOptions = {}): AsyncGenerator<CrashState> {
  const random = new Random(options.seed ?? 1);
  const { around } = options;
  for (const epoch of epochs(log)) {
    if (around?.some((tick) => tick >= epoch.from && tick <= epoch.to) === false) continue;
    const bases = await rebuildAll(log.initials, [...epoch.durable].filter(beforeAll(epoch.pending)));
    const later = [...epoch.durable].filter((step) => !beforeAll(epoch.pending)(step));
    for (const survivors of survivorsOf(epoch.pending, options, random)) {
      const steps = [...later, ...survivors.keys()].sort((a, b) => a.index - b.index);
      const contents = await rebuildAll(bases, steps, survivors);
      const begun = [...survivors.keys()].map(({ entry }) => entry.start);
      yield {
        from: Math.max(epoch.from, ...begun),
        to: epoch.to,
        content: firstOf(contents),
        contents,
        description: describe(epoch, survivors),
      };
    }
  }
}

/** The contents of all storages after steps made in this order; of those in `torn`, only the parts named there. */
function rebuildAll(
  initials: readonly MemoryStorage[],
  steps: readonly Step[],
  torn?: Survivors,
): Promise<MemoryStorage[]> {
  return Promise.all(
    initials.map((initial, store) => {
      const own = steps.filter(({ entry }) => entry.store === store);
      return rebuild(
        initial,
        own.flatMap((step) => torn?.get(step) ?? [step.change]),
      );
    }),
  );
}

function firstOf(contents: readonly MemoryStorage[]): MemoryStorage {
  const [first] = contents;
  if (first === undefined) throw new Error('nothing was recorded');
  return first;
}

/** The content after changes made in this order. */
export async function rebuild(initial: MemoryStorage, changes: readonly Change[]): Promise<MemoryStorage> {
  const content = initial.clone();
  for (const change of changes) {
    if (change.kind === 'write') await content.write(change.data, change.position);
    else if (change.kind === 'truncate') await content.truncate(change.size);
    else if (change.kind === 'punch') await content.punch(change.position, change.length);
    else await content.allocate(change.position, change.length);
  }
  return content;
}

function* epochs(log: RecordedLog): Generator<Epoch> {
  const steps: Step[] = [];
  for (const [index, entry] of log.entries.entries()) {
    if (entry.change.kind !== 'flush') steps.push({ index, entry, change: entry.change });
  }
  const flushes = log.entries.filter(({ change, ok }) => change.kind === 'flush' && ok);
  const ends = flushes.map(({ end }) => end).sort((a, b) => a - b);
  for (const [i, to] of [...ends, Infinity].entries()) {
    const from = ends[i - 1] ?? 0;
    const certain = log.initials.map((_, store) =>
      Math.max(
        0,
        ...flushes.filter((flush) => flush.store === store && flush.end <= from).map(({ start }) => start),
      ),
    );
    const isDurable = ({ entry }: Step): boolean => entry.ok && entry.end < (certain[entry.store] ?? 0);
    const begun = steps.filter(({ entry }) => entry.start < to);
    const pending = begun.filter((step) => !isDurable(step));
    yield { from, to: to - 1, durable: new Set(begun.filter(isDurable)), pending };
  }
}

function* survivorsOf(pending: readonly Step[], options: CrashOptions, random: Random): Generator<Survivors> {
  const { exhaustiveUpTo = 10, samples = 100, tornUnits = [512, 4096], tornSamples = 10 } = options;
  const subsets =
    pending.length <= exhaustiveUpTo ? allSubsets(pending) : someSubsets(pending, samples, random);
  for (const subset of subsets) yield whole(subset);
  for (const unit of tornUnits) yield* tornStates(pending, unit, tornSamples, random);
}

function* allSubsets(pending: readonly Step[]): Generator<Step[]> {
  for (let mask = 0; mask < 2 ** pending.length; mask += 1) {
    yield pending.filter((_, bit) => (mask & (1 << bit)) !== 0);
  }
}

/** What goes wrong most often (a prefix, one operation lost, one operation early), and then anything. */
function* someSubsets(pending: readonly Step[], samples: number, random: Random): Generator<Step[]> {
  for (let length = 0; length <= pending.length; length += 1) yield pending.slice(0, length);
  for (const one of pending) {
    yield pending.filter((step) => step !== one);
    yield [one];
  }
  for (let i = 0; i < samples; i += 1) {
    const probability = random.pick([0.1, 0.5, 0.9]);
    yield pending.filter(() => random.chance(probability));
  }
}

/** Some units of a write that spans several, with a random part of the rest. */
function* tornStates(
  pending: readonly Step[],
  unit: number,
  samples: number,
  random: Random,
): Generator<Survivors> {
  const tearable = pending.filter(({ change }) => units(change, unit).length > 1);
  const [first, ...others] = tearable;
  if (first === undefined) return;
  for (let i = 0; i < samples; i += 1) {
    const torn = random.pick([first, ...others]);
    const parts = units(torn.change, unit);
    const cut = random.between(1, parts.length - 1);
    const kept = random.pick([parts.slice(0, cut), parts.slice(cut), parts.filter(() => random.chance(0.5))]);
    const isBefore = random.chance(0.5);
    const rest = pending.filter((step) => (isBefore ? step.index < torn.index : random.chance(0.5)));
    yield new Map([...whole(rest), [torn, kept]]);
  }
}

/** A write in the pieces that reach the medium each as a whole; another change as it is. */
function units(change: Change, unit: number): Change[] {
  if (change.kind !== 'write') return [change];
  const pieces: Change[] = [];
  const { position, data } = change;
  for (let done = 0; done < data.length;) {
    const length = Math.min(unit - ((position + done) % unit), data.length - done);
    pieces.push({ kind: 'write', position: position + done, data: data.subarray(done, done + length) });
    done += length;
  }
  return pieces;
}

function whole(steps: readonly Step[]): Survivors {
  return new Map(steps.map((step) => [step, [step.change]]));
}

/** Whether a step comes before all of these, so that it can be applied once for all states. */
function beforeAll(steps: readonly Step[]): (step: Step) => boolean {
  const first = steps[0]?.index ?? Infinity;
  return ({ index }) => index < first;
}

function describe(epoch: Epoch, survivors: Survivors): string {
  const lines = epoch.pending.map((step) => {
    const { index, change, entry } = step;
    const kept = survivors.get(step);
    const where =
      change.kind === 'write'
        ? `${change.position}+${change.data.length}`
        : change.kind === 'truncate'
          ? `to ${change.size}`
          : `${change.position}+${change.length}`;
    const fate =
      kept === undefined
        ? 'lost'
        : kept.length === 1 && kept[0] === change
          ? 'done'
          : `torn, ${kept.length} parts done`;
    const of = entry.store === 0 ? '' : ` of storage ${entry.store}`;
    return `  #${index} ${change.kind} ${where}${of}: ${fate}`;
  });
  const span = `between ticks ${epoch.from} and ${epoch.to}, ${epoch.durable.size} changes durable`;
  return [`crash ${span}; of the others:`, ...lines].join('\n');
}
