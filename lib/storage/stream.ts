/** A stream as a store that is read front to back: what passes unread is put aside only as long as it may be wanted. */
import type { Readable } from 'node:stream';
import { invalidArgType, Qcow2Error } from '../errors.js';
import { destroyOnAbort } from './destroy-on-abort.js';
import { Spool, type SpoolOptions } from './spool.js';
import type { Storage } from './storage.js';

/** Bytes that were read last and can be read again, for what shares a sector with the next. */
const recentBytes = 4096;
const sectorBytes = 512;

export class StreamStorage implements Storage {
  readonly name = 'the stream';
  readonly readOnly = true;
  /** Whether bytes that are passed over are put aside. */
  keepSkipped = true;
  /** Whether bytes that are read are put aside, too. */
  keepRead = true;
  readonly #chunks: AsyncIterator<unknown>;
  readonly #spool: Spool;
  readonly #signal: AbortSignal | undefined;
  readonly #unfollow: () => void;
  /** Chunks that were passed last, up to the head. */
  #recent: { start: number; bytes: Uint8Array }[] = [];
  /** What has come and was not passed yet; it begins at the head. */
  #pending: Uint8Array = new Uint8Array(0);
  #head = 0;
  #ended = false;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(
    readable: Readable | AsyncIterable<Uint8Array>,
    options: SpoolOptions & { signal?: AbortSignal },
  ) {
    this.#chunks = readable[Symbol.asyncIterator]();
    this.#spool = new Spool(options);
    this.#signal = options.signal;
    this.#unfollow = destroyOnAbort(readable, options.signal);
  }

  /** Where the next byte of the stream belongs. */
  get head(): number {
    return this.#head;
  }

  /** Bytes put aside so far. */
  get spooled(): number {
    return this.#spool.bytes;
  }

  /**
   * Fills `buffer`; fewer bytes only where the stream ends.
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` for bytes that have passed and were not put aside; what the stream fails with
   */
  read(buffer: Uint8Array, position: number): Promise<number> {
    const turn = this.#turn.then(() => this.#read(buffer, position));
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /**
   * The next bytes of the stream as they came, without a copy: as many as are there, a multiple of `unit` and at most `most`,
   * or null when that is less than `least`, or they are not the next ones, or are to be put aside. They stay as they are.
   */
  view(position: number, most: number, least: number, unit: number): Promise<Uint8Array | null> {
    const turn = this.#turn.then(() => this.#view(position, most, least, unit));
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** The length, once the stream has ended; until then more than any image has. */
  size(): Promise<number> {
    return Promise.resolve(this.#ended ? this.#head : Number.MAX_SAFE_INTEGER);
  }

  /** Puts the last sector before the head aside: compressed data that is not known yet may begin in it. */
  async keepLastSector(): Promise<void> {
    const start = Math.max(this.#spool.end, this.#head - sectorBytes);
    const bytes = new Uint8Array(Math.max(0, this.#head - start));
    if (bytes.length > 0 && this.#readRecent(bytes, start)) await this.#spool.keep(bytes, start);
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
      if (!this.#ended) await this.#chunks.return?.();
    } finally {
      await this.#spool.close();
    }
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
    while (this.#head < position) {
      if (!(await this.#fetch())) return 0;
      const skipped = this.#pending.subarray(0, Math.min(this.#pending.length, position - this.#head));
      await this.#pass(skipped, this.keepSkipped);
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
    this.#recent.push({ start: this.#head, bytes });
    this.#head += bytes.length;
    this.#pending = this.#pending.subarray(bytes.length);
    for (let [first, second] = this.#recent; second !== undefined; [first, second] = this.#recent) {
      if (first === undefined || second.start > this.#head - recentBytes) break;
      this.#recent.shift();
    }
  }

  /** Sees to it that something is pending; false at the end. */
  async #fetch(): Promise<boolean> {
    while (this.#pending.length === 0 && !this.#ended) {
      this.#signal?.throwIfAborted();
      const next = await this.#chunks.next();
      if (next.done === true) this.#ended = true;
      else if (next.value instanceof Uint8Array) this.#pending = next.value;
      else throw invalidArgType('readable', 'a stream of bytes', next.value);
    }
    return this.#pending.length > 0;
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
