/** Takes exact numbers of bytes out of a stream, holding little in advance. */
import type { Duplex } from 'node:stream';
import { ConnectionLost } from './endings.js';

/** So many bytes are taken from the stream before anyone asks for them. */
const readAhead = 256 * 1024;

export class ByteReader {
  readonly #stream: Duplex;
  readonly #chunks: Buffer[] = [];
  /** Bytes in #chunks. */
  #held = 0;
  /** Bytes of the first chunk that are taken already. */
  #taken = 0;
  #failure: Error | null = null;
  #ended = false;
  #isFilling = false;
  /** What is left to be filled, and how much of it was since that was asked. */
  #target: Buffer | null = null;
  #filled = 0;
  #wake: (() => void) | null = null;

  readonly #onData = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    if (this.#held >= readAhead) this.#stream.pause();
    this.#wake?.();
  };
  readonly #onEnd = (): void => {
    this.#ended = true;
    this.#wake?.();
  };
  readonly #onError = (error: Error): void => {
    this.#failure ??= error;
    this.#onEnd();
  };

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream
      .on('data', this.#onData)
      .on('end', this.#onEnd)
      .on('close', this.#onEnd)
      .on('error', this.#onError);
    if (stream.destroyed || stream.readableEnded) this.#ended = true;
  }

  /** Takes what has come into memory that is used again: it stays as it is until this returns. */
  feed(bytes: Uint8Array): void {
    const part = this.#target === null || this.#held > 0 ? 0 : Math.min(bytes.length, this.#target.length);
    if (this.#target !== null && part > 0) {
      this.#target.set(bytes.subarray(0, part));
      this.#target = this.#target.subarray(part);
      this.#filled += part;
    }
    if (part < bytes.length) this.#onData(Buffer.from(bytes.subarray(part)));
    else this.#wake?.();
  }

  /** Whether the rest of something that has begun is waited for. */
  get isStarved(): boolean {
    return this.#wake !== null && (this.#held > 0 || this.#isFilling);
  }

  /** `length` bytes if they have come already; null otherwise. */
  take(length: number): Buffer | null {
    if (this.#held < length) return null;
    const [first] = this.#chunks;
    if (first === undefined) return Buffer.alloc(0);
    if (first.length - this.#taken >= length) {
      const bytes = first.subarray(this.#taken, this.#taken + length);
      this.#consume(length);
      return bytes;
    }
    const bytes = Buffer.allocUnsafe(length);
    this.#moveInto(bytes, 0);
    return bytes;
  }

  /** `length` bytes, or null when the stream ends before the first of them. @throws ConnectionLost when it ends later */
  async next(length: number): Promise<Buffer | null> {
    while (this.#held < length) {
      if (this.#ended && this.#held === 0 && this.#failure === null) return null;
      await this.#more();
    }
    return this.take(length);
  }

  /** `length` bytes, few of them. @throws ConnectionLost */
  async read(length: number): Promise<Buffer> {
    const bytes = await this.next(length);
    if (bytes === null) throw new ConnectionLost('the connection was closed');
    return bytes;
  }

  /** Fills a buffer, however large. @throws ConnectionLost */
  async fill(buffer: Buffer): Promise<void> {
    this.#isFilling = true;
    for (let done = this.#moveInto(buffer, 0); done < buffer.length;) {
      this.#target = buffer.subarray(done);
      this.#filled = 0;
      try {
        await this.#more();
      } finally {
        this.#target = null;
      }
      done += this.#filled;
      done += this.#moveInto(buffer, done);
    }
    this.#isFilling = false;
  }

  /** Lets bytes pass unseen. @throws ConnectionLost */
  async skip(length: number): Promise<void> {
    this.#isFilling = true;
    for (let left = length; left > 0;) {
      if (this.#held === 0) await this.#more();
      const part = Math.min(left, (this.#chunks[0]?.length ?? 0) - this.#taken);
      this.#consume(part);
      left -= part;
    }
    this.#isFilling = false;
  }

  /** Makes this the end of the stream for the reader. */
  finish(): void {
    this.release();
    this.#chunks.length = 0;
    this.#held = 0;
    this.#onEnd();
  }

  /** Leaves the stream alone from now on. @returns whether nothing had come that was not read */
  release(): boolean {
    this.#stream.pause();
    this.#stream
      .off('data', this.#onData)
      .off('end', this.#onEnd)
      .off('close', this.#onEnd)
      .off('error', this.#onError);
    return this.#held === 0;
  }

  /** Moves what is there into a buffer from `at` on, as far as it fits. */
  #moveInto(buffer: Buffer, at: number): number {
    let end = at;
    while (end < buffer.length) {
      const [first] = this.#chunks;
      if (first === undefined) break;
      const part = Math.min(buffer.length - end, first.length - this.#taken);
      first.copy(buffer, end, this.#taken, this.#taken + part);
      this.#consume(part);
      end += part;
    }
    return end - at;
  }

  /** Drops bytes of the first chunk. */
  #consume(length: number): void {
    this.#taken += length;
    this.#held -= length;
    if (this.#taken === this.#chunks[0]?.length) {
      this.#chunks.shift();
      this.#taken = 0;
    }
    if (this.#held < readAhead && this.#stream.isPaused()) this.#stream.resume();
  }

  /** Waits until there is more, or fails because there never will be. */
  async #more(): Promise<void> {
    if (!this.#ended) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = null;
      return;
    }
    const reason = this.#failure === null ? 'the connection was closed' : this.#failure.message;
    throw new ConnectionLost(reason, { cause: this.#failure });
  }
}
