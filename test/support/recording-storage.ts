/** Stands between the library and a Storage: logs every change, fails the N-th operation, watches for broken rules. */
import { Qcow2Error } from '../../lib/errors.js';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { writeAll } from '../../lib/storage/storage.js';
import type { Storage } from '../../lib/storage/storage.js';
import type { Random } from './pattern.js';

/** What an operation does to the content, with its own copy of the bytes. */
export type Change =
  | { readonly kind: 'write'; readonly position: number; readonly data: Buffer }
  | { readonly kind: 'truncate'; readonly size: number }
  | { readonly kind: 'punch' | 'allocate'; readonly position: number; readonly length: number };

/** One operation, with the moments when it was called and when it settled (ticks of one clock). */
export interface Recorded {
  readonly change: Change | { readonly kind: 'flush' };
  /** Which of the storages that share the log: their place in {@link RecordedLog.initials}. */
  readonly store: number;
  readonly start: number;
  /** Infinity while it is under way. */
  end: number;
  /** Whether its promise was fulfilled. */
  ok: boolean;
}

export interface RecordedLog {
  /** The content before the first operation. */
  readonly initial: MemoryStorage;
  /** The same of every storage that shares the log; {@link initial} is the first. */
  readonly initials: readonly MemoryStorage[];
  /** In the order in which they were called. */
  readonly entries: readonly Recorded[];
}

export interface Fault {
  /** Which operation fails: the n-th change or flush, or the n-th read, counted from 0. */
  nth: number;
  of: 'changes' | 'reads';
  /** `short` is for reads: they bring half of what is there. */
  code: 'EIO' | 'ENOSPC' | 'EINTR' | 'short';
  /** Bytes that a failing write still stores; 0 by default. */
  written?: number;
  /** Every later operation of the kind fails too, as on a full or dead disk. */
  goesOn?: boolean;
}

export interface RecordingOptions {
  fault?: Fault;
  /** The n-th flush (from 0) says that it is done and does nothing: a test of the tests. */
  ignoredFlush?: number;
  /** Lets operations that are under way together settle in any order. */
  shuffle?: Random;
  /** Shares the log, the clock and the faults of another recording: the same crash hits both. */
  beside?: RecordingStorage;
}

/** What storages share that crash at one moment. */
class Journal implements RecordedLog {
  readonly entries: Recorded[] = [];
  readonly initials: MemoryStorage[] = [];
  readonly fault: Fault | undefined;
  changes = 0;
  reads = 0;
  #clock = 0;

  constructor(fault: Fault | undefined) {
    this.fault = fault;
  }

  get initial(): MemoryStorage {
    const [first] = this.initials;
    if (first === undefined) throw new Error('nothing is recorded yet');
    return first;
  }

  tick(): number {
    this.#clock += 1;
    return this.#clock;
  }

  isToFail(of: Fault['of'], nth: number): boolean {
    const { fault } = this;
    if (fault?.of !== of) return false;
    return nth === fault.nth || (fault.goesOn === true && nth > fault.nth);
  }
}

export class RecordingStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  readonly identity?: string;
  readonly path?: string;
  /** What the storage's user did wrong: changes under way that overlap, bytes altered while they were being written. */
  readonly violations: string[] = [];
  readonly #inner: Storage;
  readonly #options: RecordingOptions;
  readonly #journal: Journal;
  readonly #store: number;
  readonly #underWay = new Set<Recorded>();
  #flushes = 0;
  #flushFailure: Error | null = null;

  private constructor(inner: Storage, initial: MemoryStorage, options: RecordingOptions) {
    this.#inner = inner;
    this.#options = options;
    const { beside } = options;
    this.#journal = beside === undefined ? new Journal(options.fault) : beside.#journal;
    this.#store = this.#journal.initials.push(initial) - 1;
    this.name = inner.name;
    this.readOnly = inner.readOnly;
    if (inner.identity !== undefined) this.identity = inner.identity;
    if (inner.path !== undefined) this.path = inner.path;
  }

  /** Records from the content that `inner` has now. */
  static async over(inner: Storage, options: RecordingOptions = {}): Promise<RecordingStorage> {
    if (inner instanceof MemoryStorage) return new RecordingStorage(inner, inner.clone(), options);
    const content = Buffer.alloc(await inner.size());
    await inner.read(content, 0);
    return new RecordingStorage(inner, new MemoryStorage(content), options);
  }

  /** What was done to this storage and to those beside it. */
  get log(): RecordedLog {
    return this.#journal;
  }

  /** Takes a tick of the log's clock for an event of a test: what began or settled before has lower ones, the rest higher. */
  mark(): number {
    return this.#journal.tick();
  }

  /** Changes and flushes so far, of storages beside this one too: what {@link Fault.nth} counts. */
  get changes(): number {
    return this.#journal.changes;
  }

  get reads(): number {
    return this.#journal.reads;
  }

  get flushes(): number {
    return this.#flushes;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const nth = this.#journal.reads;
    this.#journal.reads += 1;
    await this.#wait();
    if (this.#journal.isToFail('reads', nth)) {
      if (this.#journal.fault?.code !== 'short') throw this.#failure('read');
      return this.#inner.read(buffer.subarray(0, Math.floor(buffer.length / 2)), position);
    }
    return this.#inner.read(buffer, position);
  }

  write(buffer: Uint8Array, position: number): Promise<void> {
    return this.writev([buffer], position);
  }

  async writev(buffers: readonly Uint8Array[], position: number): Promise<void> {
    const data = Buffer.concat(buffers);
    const failedWrite = async (stored: number): Promise<void> => {
      await this.#inner.write(data.subarray(0, stored), position);
    };
    await this.#record(
      { kind: 'write', position, data },
      () => writeAll(this.#inner, [data], position),
      failedWrite,
    );
    if (!Buffer.concat(buffers).equals(data)) {
      this.violations.push(`the bytes of the write at ${position} were altered before it settled`);
    }
  }

  truncate(size: number): Promise<void> {
    return this.#record({ kind: 'truncate', size }, () => this.#inner.truncate(size));
  }

  punch(position: number, length: number): Promise<boolean> {
    const punch = async (): Promise<boolean> => (await this.#inner.punch?.(position, length)) ?? false;
    return this.#record({ kind: 'punch', position, length }, punch);
  }

  allocate(position: number, length: number): Promise<boolean> {
    const allocate = async (): Promise<boolean> => (await this.#inner.allocate?.(position, length)) ?? false;
    return this.#record({ kind: 'allocate', position, length }, allocate);
  }

  async flush(): Promise<void> {
    const nth = this.#flushes;
    this.#flushes += 1;
    if (nth === this.#options.ignoredFlush) return;
    this.#refuseAfterFailure();
    try {
      await this.#record({ kind: 'flush' }, () => this.#inner.flush());
    } catch (error) {
      this.#flushFailure ??= error as Error;
      throw error;
    }
    this.#refuseAfterFailure();
  }

  size(): Promise<number> {
    return this.#inner.size();
  }

  async nextData(position: number): Promise<number | null> {
    if (this.#inner.nextData !== undefined) return this.#inner.nextData(position);
    return position < (await this.#inner.size()) ? position : null;
  }

  async nextHole(position: number): Promise<number> {
    if (this.#inner.nextHole !== undefined) return this.#inner.nextHole(position);
    return Math.max(position, await this.#inner.size());
  }

  close(): Promise<void> {
    for (const { change } of this.#underWay)
      this.violations.push(`closed while a ${change.kind} was under way`);
    return this.#inner.close();
  }

  async #record<T>(
    change: Recorded['change'],
    perform: () => Promise<T>,
    performShort?: (written: number) => Promise<void>,
  ): Promise<T> {
    const nth = this.#journal.changes;
    this.#journal.changes += 1;
    this.#watchOverlaps(change);
    const entry: Recorded = {
      change,
      store: this.#store,
      start: this.#journal.tick(),
      end: Infinity,
      ok: false,
    };
    this.#journal.entries.push(entry);
    this.#underWay.add(entry);
    try {
      await this.#wait();
      if (this.#journal.isToFail('changes', nth)) {
        await performShort?.(this.#journal.fault?.written ?? 0);
        throw this.#failure(change.kind);
      }
      const result = await perform();
      await this.#wait();
      entry.ok = true;
      return result;
    } finally {
      entry.end = this.#journal.tick();
      this.#underWay.delete(entry);
    }
  }

  async #wait(): Promise<void> {
    const turns = this.#options.shuffle?.below(4) ?? 0;
    for (let i = 0; i < turns; i += 1) await new Promise((resolve) => setImmediate(resolve));
  }

  #failure(syscall: string): Error {
    const code = this.#journal.fault?.code ?? 'EIO';
    return Object.assign(new Error(`${code}: injected by the test, ${syscall}`), { code, syscall });
  }

  #refuseAfterFailure(): void {
    if (this.#flushFailure === null) return;
    throw new Qcow2Error('ERR_QCOW2_FAILED', 'an earlier flush failed', { cause: this.#flushFailure });
  }

  #watchOverlaps(change: Recorded['change']): void {
    const [start, end] = span(change);
    for (const { change: other } of this.#underWay) {
      const [otherStart, otherEnd] = span(other);
      if (start < otherEnd && otherStart < end) {
        this.violations.push(`${show(change)} begins while ${show(other)} is under way`);
      }
    }
  }
}

/** The bytes whose content a change touches. */
function span(change: Recorded['change']): [start: number, end: number] {
  if (change.kind === 'write') return [change.position, change.position + change.data.length];
  if (change.kind === 'punch') return [change.position, change.position + change.length];
  if (change.kind === 'truncate') return [change.size, Infinity];
  return [0, 0];
}

function show(change: Recorded['change']): string {
  const [start, end] = span(change);
  return `${change.kind} of [${start}, ${end})`;
}
