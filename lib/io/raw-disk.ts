/** A raw image as a disk: guest offsets are file offsets, and holes in the file are zeros. */
import type { Readable } from 'node:stream';
import type { ByteRange, Extent, ExtentQuery, Op, WritableDisk } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import { toBytes } from '../format/units.js';
import { Busy } from '../storage/busy.js';
import { failed } from '../storage/settle.js';
import { readPadded, writeZeros, type Storage } from '../storage/storage.js';
import { alreadyDone, mayBeAtOnce, readAtOnce } from './at-once.js';
import { checkRange, createReadStream, nextData, nextHole, queryRange } from './disk-queries.js';
import { turn } from './turn.js';

export class RawDisk implements WritableDisk {
  #size: number;
  /** Where the bytes are. */
  readonly storage: Storage;
  readonly #owned: boolean;
  /** Reads that wait for their turn. */
  readonly #busy = new Busy();

  /**
   * A disk of `size` bytes, the first ones of the storage.
   * @param owned whether closing the disk closes the storage
   */
  constructor(storage: Storage, size: number, owned: boolean) {
    this.storage = storage;
    this.#size = size;
    this.#owned = owned;
  }

  get size(): number {
    return this.#size;
  }

  get writable(): boolean {
    return !this.storage.readOnly;
  }

  /** Cuts or extends (with zeros) the file to `size` bytes. Not durable before the next {@link flush}. */
  async resize(size: number | bigint): Promise<void> {
    const bytes = toBytes('size', size);
    this.#assertWritable();
    await this.storage.truncate(bytes);
    this.#size = bytes;
  }

  read(buffer: Uint8Array, position: number | bigint, { signal }: Op = {}): Promise<void> {
    try {
      signal?.throwIfAborted();
      const { start } = checkRange(this.#size, position, buffer.length);
      if (!mayBeAtOnce(this.storage, buffer.length)) return readPadded(this.storage, buffer, start);
      if (!turn.begin()) return this.#busy.during(() => this.#readLater(buffer, start, signal));
      return readAtOnce(this.storage, buffer, start) ? alreadyDone : readPadded(this.storage, buffer, start);
    } catch (error) {
      return failed(error);
    }
  }

  /** Reads in another turn of the event loop. */
  async #readLater(buffer: Uint8Array, start: number, signal: AbortSignal | undefined): Promise<void> {
    await turn.next();
    signal?.throwIfAborted();
    if (!readAtOnce(this.storage, buffer, start)) await readPadded(this.storage, buffer, start);
  }

  /** Like {@link read}, at once: false when that would take waiting; then there may be anything in `buffer`. */
  readNow(buffer: Uint8Array, position: number | bigint): boolean {
    const { start } = checkRange(this.#size, position, buffer.length);
    return readAtOnce(this.storage, buffer, start);
  }

  /** Writes all of `data` from `position` on; durable after {@link flush}. */
  async write(data: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    op.signal?.throwIfAborted();
    const { start } = checkRange(this.size, position, data.length);
    this.#assertWritable();
    await this.storage.write(data, start);
  }

  async writeZeroes(position: number | bigint, length: number | bigint, op: Op = {}): Promise<void> {
    const { start, end } = checkRange(this.size, position, length);
    this.#assertWritable();
    if (start === end || (await this.storage.punch?.(start, end - start)) === true) return;
    await writeZeros(this.storage, start, end - start, op.signal);
  }

  /** Gives the space of a range back to the file system, so that it reads as zeros, or leaves it alone. */
  async discard(position: number | bigint, length: number | bigint): Promise<void> {
    const { start, end } = checkRange(this.size, position, length);
    this.#assertWritable();
    if (start < end) await this.storage.punch?.(start, end - start);
  }

  async flush(): Promise<void> {
    await this.storage.flush();
  }

  async *extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    const { start, end } = queryRange(this.size, query);
    const { origin = 0 } = this.storage;
    let at = start;
    while (at < end) {
      query.signal?.throwIfAborted();
      const data = Math.min((await this.#nextData(at)) ?? end, end);
      if (data > at) yield { start: at, length: data - at, type: 'zero', depth: 0, hostOffset: origin + at };
      if (data >= end) return;
      const hole = Math.min(await this.#nextHole(data), end);
      yield { start: data, length: hole - data, type: 'data', depth: 0, hostOffset: origin + data };
      at = hole;
    }
  }

  nextData(position: number | bigint, op?: Op): Promise<number | null> {
    return nextData(this, position, op);
  }

  nextHole(position: number | bigint, op?: Op): Promise<number> {
    return nextHole(this, position, op);
  }

  createReadStream(range?: ByteRange & Op): Readable {
    return createReadStream(this, range);
  }

  /** Waits for what is under way and closes it. Safe to call twice. */
  async close(): Promise<void> {
    await this.#busy.idle();
    if (this.#owned) await this.storage.close();
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #nextData(at: number): Promise<number | null> {
    return this.storage.nextData === undefined ? at : this.storage.nextData(at);
  }

  async #nextHole(at: number): Promise<number> {
    return this.storage.nextHole === undefined ? this.size : this.storage.nextHole(at);
  }

  #assertWritable(): void {
    if (!this.storage.readOnly) return;
    throw new Qcow2Error(
      'ERR_QCOW2_READ_ONLY',
      `${this.storage.name} is open read-only; open it with the mode 'r+'`,
    );
  }
}
