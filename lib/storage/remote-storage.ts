/** A read-only store whose bytes come from far away, range by range: asked for in few requests, and kept for a while. */
import { outOfRange, Qcow2Error } from '../errors.js';
import { toBytes } from '../format/units.js';
import { BlockCache } from './block-cache.js';
import { RequestSlots } from './request-slots.js';
import { PassingFailure, retrying, type RetryOptions } from './retry.js';
import type { Storage } from './storage.js';

export interface RemoteOptions extends RetryOptions {
  /** Memory for what has been read, bytes; 32 MiB by default. */
  cacheBytes?: number;
  /** Requests under way at once; 6 by default. */
  concurrency?: number;
  /** The longest range asked for in one request, bytes; 4 MiB by default. */
  maxRequestBytes?: number;
  /** Milliseconds for one request with its answer; 30000 by default. */
  timeout?: number;
  /** Aborting it ends everything that is under way, and every later read. */
  signal?: AbortSignal;
}

/** Fills `buffer` with the bytes from `position` on. @throws PassingFailure for what may be tried again */
export type FetchRange = (buffer: Buffer, position: number, signal: AbortSignal) => Promise<void>;

/** Reads from so many bytes on are not kept: they are guest data, which is rarely read twice. */
const directBytes = 256 * 1024;

export class RemoteStorage implements Storage {
  readonly name: string;
  /** Always: nothing is written to the server. */
  readonly readOnly = true;
  readonly identity: string;
  readonly #size: number;
  readonly #options: RemoteOptions;
  readonly #maxRequestBytes: number;
  readonly #fetch: FetchRange;
  readonly #slots: RequestSlots;
  readonly #cache: BlockCache;
  readonly #closing = new AbortController();
  readonly #signal: AbortSignal;
  readonly #underWay = new Set<Promise<unknown>>();

  protected constructor(
    name: string,
    identity: string,
    size: number,
    fetch: FetchRange,
    options: RemoteOptions,
  ) {
    const { concurrency = 6, maxRequestBytes = 4 * 1024 * 1024, cacheBytes = 32 * 1024 * 1024 } = options;
    this.name = name;
    this.identity = identity;
    this.#size = size;
    this.#fetch = fetch;
    this.#options = options;
    this.#maxRequestBytes = atLeast('maxRequestBytes', maxRequestBytes, 4096);
    this.#slots = new RequestSlots(atLeast('concurrency', concurrency, 1));
    const { signal } = this.#closing;
    this.#signal = options.signal === undefined ? signal : AbortSignal.any([signal, options.signal]);
    this.#cache = new BlockCache(
      size,
      atLeast('cacheBytes', cacheBytes, 0),
      this.#maxRequestBytes,
      (buffer, at) => this.#request(buffer, at),
    );
  }

  /**
   * Fills `buffer` from `position` on; resolves to the bytes read, fewer than asked only at the end.
   * @throws Qcow2Error `ERR_QCOW2_CHANGED`, `ERR_QCOW2_REMOTE`, `ERR_QCOW2_CLOSED`; the signal's reason
   */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    const start = toBytes('position', position);
    const length = Math.max(0, Math.min(buffer.length, this.#size - start));
    this.#signal.throwIfAborted();
    const target = Buffer.from(buffer.buffer, buffer.byteOffset, length);
    if (length >= directBytes) await this.#readDirectly(target, start);
    else if (length > 0) await this.#cache.read(target, start);
    return length;
  }

  write(): Promise<void> {
    return Promise.reject(this.#readOnly());
  }

  truncate(): Promise<void> {
    return Promise.reject(this.#readOnly());
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  size(): Promise<number> {
    return Promise.resolve(this.#size);
  }

  /** Ends what is under way. */
  async close(): Promise<void> {
    this.#closing.abort(new Qcow2Error('ERR_QCOW2_CLOSED', `${this.name} is closed`));
    await Promise.allSettled(this.#underWay);
  }

  /** In pieces of equal size, several at once. */
  async #readDirectly(buffer: Buffer, position: number): Promise<void> {
    const pieces = Math.ceil(buffer.length / this.#maxRequestBytes);
    const length = Math.ceil(buffer.length / pieces);
    const requests = Array.from({ length: pieces }, (_, index) =>
      this.#request(buffer.subarray(index * length, (index + 1) * length), position + index * length),
    );
    // All have to end before the caller has its buffer back.
    const outcomes = await Promise.allSettled(requests);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason as Error;
  }

  async #request(buffer: Buffer, position: number): Promise<void> {
    const request = this.#slots.run(() =>
      retrying(this.#options, this.#signal, () => this.#fetch(buffer, position, this.#signal)),
    );
    this.#underWay.add(request);
    try {
      await request;
    } catch (error) {
      this.#signal.throwIfAborted();
      if (!(error instanceof PassingFailure)) throw error;
      throw new Qcow2Error(
        'ERR_QCOW2_REMOTE',
        `${this.name} could not be read at offset ${position}: ${error.message}`,
        { offset: position, cause: error.cause ?? error },
      );
    } finally {
      this.#underWay.delete(request);
    }
  }

  #readOnly(): Qcow2Error {
    return new Qcow2Error('ERR_QCOW2_READ_ONLY', `${this.name} can only be read`);
  }
}

function atLeast(name: string, value: number, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw outOfRange(name, `an integer from ${least} on`, value);
}
