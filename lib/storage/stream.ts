/** A stream as a store that is read front to back: what passes unread is put aside only as long as it may be wanted. */
import { Qcow2Error } from '../errors.js';
import type { FileStorage } from './file.js';
import { native } from '../native.js';
import { destroyOnAbort } from './destroy-on-abort.js';
import { pageBytes } from './page-bytes.js';
import { Spool, type SpoolOptions } from './spool.js';
import { StreamSource, type StreamInput } from './stream-source.js';
import type { Storage } from './storage.js';

/** Bytes that were read last and can be read again, for what shares a sector with the next. */
const recentBytes = 4096;
const sectorBytes = 512;
/** Bytes of a window: enough work for native jobs of its own, more than any cluster has. */
const windowBytes = 8 * 1024 * 1024;

/** Memory in which a part of the stream lies. */
export interface StreamWindow {
  readonly bytes: Uint8Array;
  /** The part of the stream in it. */
  start: number;
  end: number;
  /** How many still look at it. */
  users: number;
}

const newWindow = (): StreamWindow => ({ bytes: pageBytes(windowBytes), start: 0, end: 0, users: 0 });

export class StreamStorage implements Storage {
  readonly name = 'the stream';
  readonly readOnly = true;
  /** Whether bytes that are passed over are put aside. */
  keepSkipped = true;
  /** Of a gap shorter than this only the place of zeros is put aside: mostly what fills a cluster behind compressed data. */
  paddingBytes = 0;
  /** Whether bytes that are read are put aside, too. */
  keepRead = true;
  readonly #source: StreamSource;
  readonly #spool: Spool;
  readonly #unfollow: () => void;
  /** Chunks that were passed last, up to the head; or the current window. */
  #recent: { start: number; bytes: Uint8Array }[] = [];
  /** What has come and was not passed yet; it begins at the head. */
  #pending: Uint8Array = new Uint8Array(0);
  #head = 0;
  #ended = false;
  /** What is pending lies in, and is behind what was passed of it; undefined before {@link useWindows}. */
  #window: StreamWindow | undefined;
  readonly #idleWindows: StreamWindow[] = [];
  #turn: Promise<unknown> = Promise.resolve();

  constructor(readable: StreamInput, options: SpoolOptions & { signal?: AbortSignal }) {
    this.#source = new StreamSource(readable, options.signal);
    this.#spool = new Spool(options);
    this.#unfollow = destroyOnAbort(readable, options.signal);
  }

  /** Where the next byte of the stream belongs. */
  get head(): number {
    return this.#head;
  }

  /**
   * Fills `buffer`; fewer bytes only where the stream ends.
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` for bytes that have passed and were not put aside; what the stream fails with
   */
  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#inTurn(() => this.#read(buffer, position));
  }

  /**
   * The next bytes of the stream as they came, without a copy: as many as are there, a multiple of `unit` and at most `most`,
   * or null when that is less than `least`, or they are not the next ones, or are to be put aside. They stay as they are.
   */
  view(position: number, most: number, least: number, unit: number): Promise<Uint8Array | null> {
    return this.#inTurn(() => this.#view(position, most, least, unit));
  }

  /** The length, once the stream has ended; until then more than any image has. */
  size(): Promise<number> {
    return Promise.resolve(this.#ended ? this.#head + this.#pending.length : Number.MAX_SAFE_INTEGER);
  }

  /** Puts the last sector before the head aside: compressed data that is not known yet may begin in it. */
  async keepLastSector(): Promise<void> {
    const start = Math.max(this.#spool.end, this.#head - sectorBytes);
    const bytes = new Uint8Array(Math.max(0, this.#head - start));
    if (bytes.length > 0 && this.#readRecent(bytes, start)) await this.#spool.keep(bytes, start);
  }

  /** Has what comes from here on put together in windows, for {@link locate}. */
  useWindows(): Promise<void> {
    return this.#inTurn(async () => {
      this.#source.putBack(this.#pending);
      this.#pending = new Uint8Array(0);
      await this.#nextWindow();
    });
  }

  /** The current window, which stays as it is until it is released. */
  hold(): StreamWindow {
    const window = (this.#window ??= newWindow());
    window.users += 1;
    return window;
  }

  isCurrent(window: StreamWindow): boolean {
    return window === this.#window;
  }

  /**
   * Where bytes lie in the current window, which the head then has passed; -1 when they do not, or when something before them
   * is to be put aside.
   */
  locate(position: number, length: number): number {
    const window = this.#window;
    if (window === undefined || position < window.start || position + length > window.end) return -1;
    if (position > this.#head && this.keepSkipped) return -1;
    const end = Math.max(this.#head, position + length);
    this.#pending = this.#pending.subarray(end - this.#head);
    this.#head = end;
    return position - window.start;
  }

  /** Moves the head on to a position; what is passed over is put aside where it should be. */
  pass(position: number): Promise<void> {
    return this.#inTurn(async () => {
      await this.#advance(position, null, 0);
    });
  }

  /** How many bytes from a position on are in the current window. */
  reach(position: number): number {
    const window = this.#window;
    return window === undefined || position < window.start ? 0 : Math.max(0, window.end - position);
  }

  /** Sees to it that what comes next, up to `end`, is in the current window, which may be another then. */
  gather(end: number): Promise<void> {
    return this.#inTurn(async () => {
      const there = this.#head + this.#pending.length;
      if (there < end && end - this.#head < windowBytes - recentBytes && !this.#ended)
        await this.#nextWindow();
    });
  }

  /** The file in which all of a range has been put aside, at the same place; null when it has not. */
  putAside(position: number, length: number): FileStorage | null {
    return this.#spool.fileOf(position, length);
  }

  /** Lets go of a window that somebody looked at. */
  release(window: StreamWindow): void {
    window.users -= 1;
    if (window.users === 0 && window !== this.#window) this.#idleWindows.push(window);
  }

  /** Reads on to the end, so that whoever writes the stream can end in peace. */
  async drain(): Promise<void> {
    await this.#advance(Infinity, null, 0);
  }

  write(): Promise<void> {
    return Promise.reject(new Qcow2Error('ERR_QCOW2_READ_ONLY', 'A stream that is read cannot be written'));
  }

  truncate(): Promise<void> {
    return this.write();
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  /** Lets go of the stream, which is destroyed unless it has ended, and of what was put aside. */
  async close(): Promise<void> {
    this.#recent = [];
    this.#unfollow();
    try {
      await this.#source.close();
    } finally {
      await this.#spool.close();
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  async #read(buffer: Uint8Array, position: number): Promise<number> {
    const passed = Math.min(buffer.length, Math.max(0, this.#head - position));
    if (passed > 0) await this.#readPassed(buffer.subarray(0, passed), position);
    const rest = buffer.subarray(passed);
    return rest.length === 0
      ? passed
      : passed + (await this.#advance(position + passed, rest, position + passed));
  }

  async #view(position: number, most: number, least: number, unit: number): Promise<Uint8Array | null> {
    if (position < this.#head || this.keepRead) return null;
    await this.#advance(position, null, 0);
    if (this.#head !== position || !(await this.#fetch())) return null;
    const there = Math.min(most, this.#pending.length);
    const length = there === most ? most : there - (there % unit);
    if (length < least || length === 0) return null;
    const bytes = this.#pending.subarray(0, length);
    await this.#pass(bytes, false);
    return bytes;
  }

  /** Passes on to `position`, and then fills `buffer`; returns how much of it. */
  async #advance(position: number, buffer: Uint8Array | null, start: number): Promise<number> {
    const isPadding = position - this.#head < this.paddingBytes;
    while (this.#head < position) {
      if (!(await this.#fetch())) return 0;
      const skipped = this.#pending.subarray(0, Math.min(this.#pending.length, position - this.#head));
      const isZeros = this.keepSkipped && isPadding && native.isZero(skipped);
      if (isZeros) this.#spool.keepZeros(skipped.length, this.#head);
      await this.#pass(skipped, this.keepSkipped && !isZeros);
    }
    let done = 0;
    while (buffer !== null && done < buffer.length) {
      if (!(await this.#fetch())) break;
      const part = this.#pending.subarray(0, Math.min(this.#pending.length, buffer.length - done));
      buffer.set(part, this.#head - start);
      done += part.length;
      await this.#pass(part, this.keepRead);
    }
    return done;
  }

  /** Moves the head past the first pending bytes. */
  async #pass(bytes: Uint8Array, keep: boolean): Promise<void> {
    if (keep) await this.#spool.keep(bytes, this.#head);
    const start = this.#head;
    this.#head += bytes.length;
    this.#pending = this.#pending.subarray(bytes.length);
    if (this.#window !== undefined) return;
    this.#recent.push({ start, bytes });
    for (let [first, second] = this.#recent; second !== undefined; [first, second] = this.#recent) {
      if (first === undefined || second.start > this.#head - recentBytes) break;
      this.#recent.shift();
    }
  }

  /** Sees to it that something is pending; false at the end. */
  async #fetch(): Promise<boolean> {
    while (this.#pending.length === 0 && !this.#ended) {
      if (this.#window !== undefined) await this.#nextWindow();
      else {
        const next = await this.#source.next();
        if (next === null) this.#ended = true;
        else this.#pending = next;
      }
    }
    return this.#pending.length > 0;
  }

  /** Goes on in another window, which begins with what may be read again and what is pending. */
  async #nextWindow(): Promise<void> {
    const next = this.#idleWindows.pop() ?? newWindow();
    const start = Math.max(this.#recent[0]?.start ?? this.#head, this.#head - recentBytes);
    const passed = this.#head - start;
    if (passed > 0) this.#readRecent(next.bytes.subarray(0, passed), start);
    next.bytes.set(this.#pending, passed);
    const there = passed + this.#pending.length;
    const end = there + (await this.#source.fill(next.bytes.subarray(there)));
    this.#ended = end < next.bytes.length;
    const last = this.#window;
    if (last?.users === 0) this.#idleWindows.push(last);
    Object.assign(next, { start, end: start + end });
    this.#window = next;
    this.#pending = next.bytes.subarray(passed, end);
    this.#recent = [{ start, bytes: next.bytes.subarray(0, end) }];
  }

  async #readPassed(buffer: Uint8Array, position: number): Promise<void> {
    if (this.#readRecent(buffer, position) || (await this.#spool.read(buffer, position))) return;
    throw new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      `${buffer.length} bytes at offset ${position} of the stream are referred to more than once. An image that shares ` +
        'clusters like this must be written to a file and checked',
      { offset: position },
    );
  }

  #readRecent(buffer: Uint8Array, position: number): boolean {
    const [first] = this.#recent;
    if (first === undefined || first.start > position) return false;
    for (const { start, bytes } of this.#recent) {
      const from = Math.max(position, start);
      const to = Math.min(position + buffer.length, start + bytes.length);
      if (from < to) buffer.set(bytes.subarray(from - start, to - start), from - position);
    }
    return true;
  }
}
