/**
 * Requests and jobs on one open image: each is checked, waits for what must not run beside it, and is waited for when the
 * image is closed.
 */
import type { Op } from '../disk.js';
import { invalidArgType, Qcow2Error } from '../errors.js';
import { guestOffset } from '../format/units.js';
import { failed } from '../storage/settle.js';
import { alreadyDone } from './at-once.js';
import { assertChangeable, assertWritable } from './changeable.js';
import { writeCompressed } from './compressed-write.js';
import { isTraced, traced, type RequestEvent } from './channels.js';
import { checkRange } from './disk-queries.js';
import { Gate, type Pause } from './gate.js';
import type { GuestImage } from './guest-image.js';
import { readGuest } from './read.js';
import { readGuestNow } from './read-now.js';
import { RequestCounters, type RequestKind } from './statistics.js';
import { turn } from './turn.js';
import { writeGuest } from './write.js';
import { zeroGuest, type ZeroOptions } from './zero.js';

export interface WriteOptions extends Op {
  /** Stores whole clusters compressed: `true` or a level (zlib 1 to 12, zstd 1 to 22). */
  compress?: boolean | number;
}

export interface DiscardOptions extends Op {
  /**
   * Keeps the clusters of the range for it, as zeros without space on the medium, so that what is written there later does
   * not go to other places: against fragmentation. Not where they are shared with a snapshot, compressed, or in an image of
   * version 2; these are given up. Durable when it resolves.
   */
  keepAllocated?: boolean;
}

export class Requests {
  readonly #guest: GuestImage;
  readonly #gate = new Gate();
  readonly counters = new RequestCounters();
  #closed = false;

  constructor(guest: GuestImage) {
    this.#guest = guest;
  }

  /** Fills all of `buffer` with the guest's bytes from `position` on. */
  read(buffer: Uint8Array, position: number | bigint, op: Op): Promise<void> {
    return traced(
      () => this.#read(buffer, position, op),
      () => this.#event('read', position, buffer.length),
    );
  }

  /** A read costs no promise before there is something to wait for: most of those of what is in memory have nothing. */
  #read(buffer: Uint8Array, position: number | bigint, { signal }: Op): Promise<void> {
    let started: number | undefined;
    try {
      this.assertOpen();
      assertBytes('buffer', buffer);
      started = this.counters.begin('read');
      const { start, end } = checkRange(this.#guest.image.header.size, position, buffer.length);
      signal?.throwIfAborted();
      this.counters.bytes('read', buffer.length);
      const isTurn = turn.begin();
      if (!isTurn || !this.#guest.locks.isShareable(start, end)) {
        return this.#readLater(buffer, start, end, started, isTurn, signal);
      }
      const rest = readGuest(this.#guest, buffer, guestOffset(start));
      if (rest !== undefined) return this.#readRest(rest, start, end, started);
      this.counters.end('read', started);
      return alreadyDone;
    } catch (error) {
      if (started !== undefined) {
        this.counters.failed('read');
        this.counters.end('read', started);
      }
      return failed(error);
    }
  }

  /** Reads in another turn of the event loop, or when nobody changes the range any more. */
  async #readLater(
    buffer: Uint8Array,
    start: number,
    end: number,
    started: number,
    isTurn: boolean,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    await this.#underWay('read', started, async () => {
      if (!isTurn) await turn.next();
      const unlock = await this.#guest.locks.shared(start, end);
      try {
        signal?.throwIfAborted();
        await readGuest(this.#guest, buffer, guestOffset(start));
      } finally {
        unlock();
      }
    });
  }

  /** Waits for what a read began, of a range that nobody changes now. */
  async #readRest(rest: Promise<void>, start: number, end: number, started: number): Promise<void> {
    const locked = this.#guest.locks.shared(start, end);
    await this.#underWay('read', started, async () => {
      try {
        await rest;
      } finally {
        (await locked)();
      }
    });
  }

  /** Runs a request that changes nothing and has been counted. */
  async #underWay(kind: RequestKind, started: number, work: () => Promise<void>): Promise<void> {
    try {
      await this.#gate.during(work);
    } catch (error) {
      this.counters.failed(kind);
      throw error;
    } finally {
      this.counters.end(kind, started);
    }
  }

  /** Reads without waiting; false when that cannot be, with anything in `buffer`. */
  readNow(buffer: Uint8Array, position: number | bigint): boolean {
    this.assertOpen();
    assertBytes('buffer', buffer);
    const { start } = checkRange(this.#guest.image.header.size, position, buffer.length);
    if (isTraced() || !turn.begin()) return false;
    if (!readGuestNow(this.#guest, buffer, guestOffset(start))) return false;
    const started = this.counters.begin('read');
    this.counters.bytes('read', buffer.length);
    this.counters.end('read', started);
    return true;
  }

  write(data: Uint8Array, position: number | bigint, options: WriteOptions): Promise<void> {
    if (!(data instanceof Uint8Array)) return failed(invalidArgType('data', 'a Uint8Array or Buffer', data));
    const { compress = false } = options;
    return this.#change('write', position, data.length, options, (start) => {
      if (data.length === 0) return undefined;
      if (compress === false) return writeGuest(this.#guest, data, guestOffset(start));
      const level = compress === true ? undefined : compress;
      return writeCompressed(this.#guest, data, guestOffset(start), level);
    });
  }

  zero(
    position: number | bigint,
    length: number | bigint,
    op: Op,
    options: Pick<ZeroOptions, 'punch' | 'keepAllocated'>,
  ): Promise<void> {
    const kind = options.punch ? 'discard' : 'zero';
    return this.#change(kind, position, length, op, (start, end) =>
      zeroGuest(this.#guest, start, end, options),
    );
  }

  flush(): Promise<void> {
    return traced(
      async () => {
        this.assertOpen();
        await this.#underWay('flush', this.counters.begin('flush'), async () => {
          if (this.#guest.image.writable) await this.#guest.image.committer.flush();
        });
      },
      () => this.#event('flush', 0, 0),
    );
  }

  /** Runs a change of guest bytes [start, end) after all that has to come before one. */
  #change(
    kind: RequestKind,
    position: number | bigint,
    length: number | bigint,
    op: Op,
    work: (start: number, end: number) => Promise<void> | undefined,
  ): Promise<void> {
    return traced(
      () => this.#changeNow(kind, position, length, op, work),
      () => this.#event(kind, position, length),
    );
  }

  /** A change waits for nothing in vain, and costs one promise beside those of the work. */
  async #changeNow(
    kind: RequestKind,
    position: number | bigint,
    length: number | bigint,
    { signal }: Op,
    work: (start: number, end: number) => Promise<void> | undefined,
  ): Promise<void> {
    this.assertOpen();
    const started = this.counters.begin(kind);
    const entered = this.#gate.enter();
    try {
      if (entered !== undefined) await entered;
      assertWritable(this.#guest);
      const { image, bitmaps } = this.#guest;
      const { start, end } = checkRange(image.header.size, position, length);
      signal?.throwIfAborted();
      image.committer.assertSound();
      this.counters.bytes(kind, end - start);
      const told = bitmaps.changing(start, end);
      if (told !== undefined) await told;
      const relieved = image.committer.relieve();
      if (relieved !== undefined) await relieved;
      await work(start, end);
    } catch (error) {
      this.counters.failed(kind);
      throw error;
    } finally {
      this.#gate.leave();
      this.counters.end(kind, started);
    }
  }

  #event(kind: RequestKind, position: number | bigint, length: number | bigint): RequestEvent {
    return { image: this.#guest.image.storage.name, kind, position, length };
  }

  /** Runs what changes nothing. What was begun before {@link close}, that waits for. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.assertOpen();
    return this.#gate.during(work);
  }

  /** Runs a job that must be the only one to change the image. */
  async alone<T>(job: () => Promise<T>): Promise<T> {
    this.assertOpen();
    return this.#gate.alone(job);
  }

  /** Runs a job beside which requests go on, but no other job. For moments it can pause changes. */
  async beside<T>(job: (pause: Pause) => Promise<T>): Promise<T> {
    this.assertOpen();
    return this.#gate.beside(job);
  }

  /** Runs a job that changes the image and must be the only one to do so. */
  change<T>(job: () => Promise<T>): Promise<T> {
    return this.alone(async () => {
      assertChangeable(this.#guest.image);
      this.#guest.image.committer.assertSound();
      return job();
    });
  }

  /** Like {@link change}, of an image whose guest data is to change. */
  rewrite<T>(job: () => Promise<T>): Promise<T> {
    return this.alone(async () => {
      assertWritable(this.#guest);
      this.#guest.image.committer.assertSound();
      return job();
    });
  }

  /** Refuses what comes from now on, and resolves when nothing is under way. */
  close(): Promise<void> {
    this.#closed = true;
    return this.#gate.idle();
  }

  assertOpen(): void {
    if (!this.#closed) return;
    throw new Qcow2Error('ERR_QCOW2_CLOSED', `${this.#guest.image.storage.name} is closed`);
  }
}

function assertBytes(name: string, value: unknown): asserts value is Uint8Array {
  if (!(value instanceof Uint8Array)) throw invalidArgType(name, 'a Uint8Array or Buffer', value);
}
