/** What comes through a descriptor that cannot seek, in large pieces. */
import { Qcow2Error } from '../errors.js';
import { native, OsResult } from '../native.js';

/** Bytes of a piece that is handed on by itself. */
const pieceBytes = 1024 * 1024;
/** Between two looks at an input that says nothing: no thread of the pool is kept meanwhile. Milliseconds. */
const [leastPause, mostPause] = [1, 20];

/**
 * Standard input, a pipe or a socket, for {@link fromQcow2Stream}: native code reads it by megabytes, where a stream of Node.js
 * takes 64 KiB at a time. The descriptor is the caller's to close, after `close` of whoever reads this has resolved. Not on Windows.
 */
export class DescriptorStream implements AsyncIterable<Uint8Array> {
  readonly #fd: number;
  readonly #signal: AbortSignal | undefined;
  /** Its byte is 1 when the input has ended. */
  readonly #ended = new Uint8Array(1);
  #isClosed = false;
  #last: Promise<number> = Promise.resolve(0);

  /**
   * Reads nothing yet.
   * @param signal aborting it ends a read that waits, within a tenth of a second
   */
  constructor(fd: number, { signal }: { signal?: AbortSignal } = {}) {
    this.#fd = fd;
    this.#signal = signal;
  }

  /**
   * Resolves with the bytes read: fewer than there is room for only at the end, or when this is closed.
   * @throws the signal's reason; system errors; Qcow2Error `ERR_QCOW2_UNSUPPORTED` on Windows
   */
  fill(buffer: Uint8Array): Promise<number> {
    this.#last = this.#fill(buffer);
    return this.#last;
  }

  /** The same in pieces, for those who read it as a stream. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    try {
      for (;;) {
        const piece = Buffer.allocUnsafeSlow(pieceBytes);
        const got = await this.fill(piece);
        if (got > 0) yield piece.subarray(0, got);
        if (got < pieceBytes) return;
      }
    } finally {
      await this.close();
    }
  }

  /** Reads no more, and waits for a read that is under way. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#last.catch(() => undefined);
  }

  async #fill(buffer: Uint8Array): Promise<number> {
    let done = 0;
    for (let pause = leastPause; done < buffer.length && !this.#isOver();) {
      this.#signal?.throwIfAborted();
      const got = await native.readPipe(this.#fd, buffer.subarray(done), this.#ended);
      if (got === OsResult.unsupported) {
        throw new Qcow2Error(
          'ERR_QCOW2_UNSUPPORTED',
          'Descriptors cannot be read like this on this platform',
        );
      }
      done += got;
      if (got > 0) pause = leastPause;
      else if (!this.#isOver()) {
        await new Promise((resolve) => setTimeout(resolve, pause));
        pause = Math.min(2 * pause, mostPause);
      }
    }
    this.#signal?.throwIfAborted();
    return done;
  }

  #isOver(): boolean {
    return this.#isClosed || this.#ended[0] !== 0;
  }
}
