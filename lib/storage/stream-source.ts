/** The bytes of a stream, as they come or put together. */
import type { Readable } from 'node:stream';
import { invalidArgType } from '../errors.js';
import { DescriptorStream } from './descriptor-stream.js';

export type StreamInput = Readable | AsyncIterable<Uint8Array>;

export class StreamSource {
  readonly #chunks: AsyncIterator<unknown>;
  readonly #descriptor: DescriptorStream | null;
  readonly #signal: AbortSignal | undefined;
  /** What has come and was not taken yet. */
  #rest: Uint8Array = new Uint8Array(0);
  #ended = false;

  constructor(input: StreamInput, signal: AbortSignal | undefined) {
    this.#chunks = input[Symbol.asyncIterator]();
    this.#descriptor = input instanceof DescriptorStream ? input : null;
    this.#signal = signal;
  }

  /** The next bytes as they come; null at the end. */
  async next(): Promise<Uint8Array | null> {
    await this.#fetch();
    if (this.#rest.length === 0) return null;
    const chunk = this.#rest;
    this.#rest = new Uint8Array(0);
    return chunk;
  }

  /** Gives bytes back that were taken last. */
  putBack(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#rest = bytes;
  }

  /** Fills `buffer`; resolves with fewer bytes only at the end. */
  async fill(buffer: Uint8Array): Promise<number> {
    let done = this.#take(buffer);
    while (done < buffer.length) {
      this.#signal?.throwIfAborted();
      if (this.#descriptor !== null) {
        done += await this.#descriptor.fill(buffer.subarray(done));
        this.#signal?.throwIfAborted();
        break;
      }
      await this.#fetch();
      if (this.#rest.length === 0) break;
      done += this.#take(buffer.subarray(done));
    }
    return done;
  }

  /** Lets go of the stream, which is destroyed unless it has ended. */
  async close(): Promise<void> {
    await this.#descriptor?.close();
    if (!this.#ended) await this.#chunks.return?.();
  }

  #take(buffer: Uint8Array): number {
    const part = this.#rest.subarray(0, buffer.length);
    buffer.set(part);
    this.#rest = this.#rest.subarray(part.length);
    return part.length;
  }

  async #fetch(): Promise<void> {
    while (this.#rest.length === 0 && !this.#ended) {
      this.#signal?.throwIfAborted();
      const next = await this.#chunks.next();
      this.#signal?.throwIfAborted();
      if (next.done === true) this.#ended = true;
      else if (next.value instanceof Uint8Array) this.#rest = next.value;
      else throw invalidArgType('readable', 'a stream of bytes', next.value);
    }
  }
}
