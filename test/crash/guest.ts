/** A disk whose every change is noted, so that it is known what a crash may leave of it. */
import { open, type DiscardOptions, type Qcow2, type Storage } from '../../lib/index.js';
import { GuestHistory } from '../support/guest-history.js';
import { pattern } from '../support/pattern.js';
import type { Kind, Start } from './kinds.js';

/** Something that was the case from one tick of the log on, and then perhaps not any more. */
interface Span {
  readonly begin: number;
  /** When it was done: from then on it must be the case. */
  made: number;
  /** When it began to end, and when it was over. */
  ending: number;
  gone: number;
}

export interface NotedSnapshot extends Span {
  readonly name: string;
  readonly content: Buffer;
}

/** Something that a call changed durably: while it does, the former may hold or this; afterwards this must. */
interface Promised {
  readonly what: string;
  readonly begin: number;
  made: number;
  gone: number;
  readonly holds: (disk: Qcow2) => boolean | Promise<boolean>;
}

/** What a bitmap counts its changes from. */
interface Base {
  readonly since: number;
  until: number;
  readonly content: Buffer;
}

export class Guest {
  readonly disk: Qcow2;
  readonly history: GuestHistory;
  readonly clusterSize: number;
  /** Sizes that the disk had or was to have, with the ticks of each change. */
  readonly sizes: { size: number; begin: number; end: number }[];
  readonly snapshots: NotedSnapshot[];
  /** Bitmaps that record all changes, by name, with what they count from: when the disk loses its end, it counts anew. */
  readonly bitmaps: Map<string, Base[]>;
  /** What was promised besides content, sizes and snapshots. */
  readonly promises: Promised[] = [];
  /** The tick when closing was done. */
  closedAt = Infinity;
  readonly #mark: () => number;
  #seed = 0;

  /** @param limit the largest size the disk will ever have, bytes */
  constructor(disk: Qcow2, start: Start, clusterSize: number, limit: number, mark: () => number) {
    this.disk = disk;
    this.clusterSize = clusterSize;
    this.sizes = [{ size: disk.size, begin: -1, end: -1 }];
    this.#mark = mark;
    const model = start.model.clone();
    model.resize(limit);
    this.history = new GuestHistory(model, mark);
    this.snapshots = [...start.snapshots].map(([name, kept]) => ({
      name,
      content: kept.read(0, kept.size),
      begin: -1,
      made: -1,
      ending: Infinity,
      gone: Infinity,
    }));
    this.bitmaps = new Map(
      [...start.bitmaps].map(([name, base]) => {
        const content = this.history.latest();
        base.read(0, base.size).copy(content);
        return [name, [{ since: -1, until: Infinity, content }]];
      }),
    );
  }

  get size(): number {
    return this.disk.size;
  }

  write(position: number, length: number, compress = false): Promise<void> {
    this.#seed += 1;
    const data = compress ? Buffer.alloc(length, `${this.#seed} `) : pattern(this.#seed, length);
    return this.history.writing(data, position, () => this.disk.write(data, position, { compress }));
  }

  zero(position: number, length: number): Promise<void> {
    const run = (): Promise<void> => this.disk.writeZeroes(position, length);
    return this.history.writing(Buffer.alloc(length), position, run);
  }

  discard(position: number, length: number, options: DiscardOptions = {}): Promise<void> {
    const run = (): Promise<void> => this.disk.discard(position, length, options);
    return this.history.writing(Buffer.alloc(length), position, run);
  }

  flush(): Promise<void> {
    return this.history.flushing(() => this.disk.flush());
  }

  /** What a smaller disk loses reads as zeros from then on. */
  async resize(size: number, preallocation: 'off' | 'metadata' | 'full' = 'off'): Promise<void> {
    const change = { size, begin: this.#mark(), end: Infinity };
    this.sizes.push(change);
    const lost = Buffer.alloc(Math.max(0, this.size - size));
    const options = size < this.size ? { shrink: true } : { preallocation };
    const recounting = lost.length === 0 ? [] : [...this.bitmaps.values()];
    const before = recounting.flatMap((bases) => bases.slice(-1));
    for (const bases of recounting) {
      const content = Buffer.from(bases.at(-1)?.content ?? []);
      bases.push({ since: change.begin, until: Infinity, content: content.fill(0, size) });
    }
    await this.history.writing(lost, size, () => this.disk.resize(size, options));
    change.end = this.#mark();
    for (const base of before) base.until = change.end;
  }

  async snapshot(name: string): Promise<void> {
    const content = this.history.latest().subarray(0, this.size);
    const noted = { name, content, begin: this.#mark(), made: Infinity, ending: Infinity, gone: Infinity };
    this.snapshots.push(noted);
    await this.disk.snapshots.create({ name, date: new Date(0) });
    noted.made = this.#mark();
  }

  async applySnapshot(name: string): Promise<void> {
    const content = Buffer.alloc(this.history.size);
    const kept = this.#snapshot(name).content;
    kept.copy(content);
    const change = { size: kept.length, begin: this.#mark(), end: Infinity };
    this.sizes.push(change);
    await this.history.writing(content, 0, () => this.disk.snapshots.apply(name));
    change.end = this.#mark();
    // It is durable when it is done.
    await this.history.flushing(() => Promise.resolve());
  }

  async deleteSnapshot(name: string): Promise<void> {
    const noted = this.#snapshot(name);
    noted.ending = this.#mark();
    await this.disk.snapshots.delete(name);
    noted.gone = this.#mark();
  }

  /** Makes a bitmap that knows of all changes from now on. */
  async bitmap(name: string): Promise<void> {
    this.bitmaps.set(name, [{ since: this.#mark(), until: Infinity, content: this.history.latest() }]);
    await this.disk.bitmaps.create({ name, granularity: 4096 });
  }

  /** What a bitmap may count from when the disk crashes between two ticks. */
  basesOf(name: string, { from, to }: { from: number; to: number }): Buffer[] {
    const bases = this.bitmaps.get(name) ?? [];
    return bases.filter(({ since, until }) => since <= to && until > from).map(({ content }) => content);
  }

  /** Whether the disk may have this size when it crashes at `moment`: a resize is durable once it is done. */
  allowsSize(size: number, moment: number): boolean {
    const begun = this.sizes.filter(({ begin }) => begin <= moment);
    return begun
      .slice(begun.findLastIndex(({ end }) => end <= moment))
      .some((change) => change.size === size);
  }

  /** Does what promises that something holds from then on, until the same is promised to be otherwise. */
  async promising(what: string, run: () => Promise<unknown>, holds: Promised['holds']): Promise<void> {
    const former = this.promises.filter((one) => one.what === what);
    const promised: Promised = { what, begin: this.#mark(), made: Infinity, gone: Infinity, holds };
    this.promises.push(promised);
    await run();
    promised.made = this.#mark();
    for (const one of former) one.gone = Math.min(one.gone, promised.made);
  }

  /** What was promised and does not hold of a disk that crashed between two ticks, or null. */
  async brokenPromise(disk: Qcow2, { from, to }: { from: number; to: number }): Promise<string | null> {
    const due = new Set(this.promises.filter(({ made }) => made <= to).map(({ what }) => what));
    for (const what of due) {
      const possible = this.promises.filter((one) => one.what === what && one.begin <= to && one.gone > from);
      let isHeld = false;
      for (const { holds } of possible) isHeld ||= await holds(disk);
      if (!isHeld) return what;
    }
    return null;
  }

  /** Does something while flushes come from beside, at any moment between its steps. */
  async flushingBeside(run: () => Promise<unknown>): Promise<void> {
    let isOver = false;
    const flushAgain = async (): Promise<void> => {
      for (let i = 1; !isOver; i += 1) {
        await this.flush();
        // What runs on the thread pool has to come to its turn, too.
        if (i % 8 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    };
    const flushes = flushAgain();
    // Its failure is waited for below, when `run` is over.
    flushes.catch(() => undefined);
    try {
      await run();
    } finally {
      isOver = true;
      await flushes;
    }
  }

  async close(): Promise<void> {
    await this.history.flushing(() => this.disk.close());
    this.closedAt = this.#mark();
  }

  #snapshot(name: string): NotedSnapshot {
    const noted = this.snapshots.findLast((snapshot) => snapshot.name === name);
    if (noted === undefined) throw new Error(`the workload has no snapshot ${name}`);
    return noted;
  }
}

/** Opens an image at rest for writing through `storage`, and the other file it needs through `other`. */
export async function openGuest(
  start: Start,
  kind: Kind,
  storage: Storage,
  other: Storage | null,
  growth: number,
  mark: () => number,
): Promise<Guest> {
  const options = start.openWith(other);
  const disk = await open(storage, { ...options, mode: 'r+', cacheBytes: 16 * kind.clusterSize });
  return new Guest(disk, start, kind.clusterSize, kind.size * growth, mark);
}
