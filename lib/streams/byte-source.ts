/** A Readable over a generator of bytes, whose length is known before its first byte. */
import { Readable } from 'node:stream';

/** Bytes that wait for a slow consumer. */
const highWaterMark = 1024 * 1024;

/** What the generator behind a stream learns and tells before it yields anything. */
export type Announce = (length: number) => void;

/** A stream with a length, such as an upload wants to announce. */
export class SizedStream extends Readable {
  /** Bytes of the whole stream; null until that is known, which it is before the first byte comes. */
  length: number | null = null;
  readonly #bytes: AsyncGenerator<Uint8Array>;
  readonly #sized: Promise<number>;
  #resolveSized: (length: number) => void = () => undefined;
  #rejectSized: (reason: unknown) => void = () => undefined;
  #emitted = 0;
  readonly #abort = new AbortController();
  readonly #onEmitted: ((done: number, total: number) => void) | undefined;

  /**
   * @param make makes the generator; it calls `announce` before it yields. Its signal is aborted when the stream is destroyed
   * @param signal aborting it destroys the stream with its reason
   */
  constructor(
    make: (announce: Announce, signal: AbortSignal) => AsyncGenerator<Uint8Array>,
    signal: AbortSignal | undefined,
    onEmitted?: (done: number, total: number) => void,
  ) {
    super({ highWaterMark });
    this.#onEmitted = onEmitted;
    this.#sized = new Promise<number>((resolve, reject) => {
      this.#resolveSized = resolve;
      this.#rejectSized = reject;
    });
    // Whoever does not ask for the length hears of failures from the stream.
    this.#sized.catch(() => undefined);
    this.#bytes = make((length) => {
      this.length = length;
      this.#resolveSized(length);
    }, this.#abort.signal);
    this.#follow(signal);
  }

  /**
   * The length in bytes, as soon as it is known: before the first byte, whether anyone reads or not.
   * @throws what the stream fails with, when that comes first; its `error` event needs no listener then
   */
  sized(): Promise<number> {
    const heard = (): void => undefined;
    this.on('error', heard);
    this.#sized.then(
      () => this.off('error', heard),
      () => undefined,
    );
    // Reading into the buffer begins the work.
    this.read(0);
    return this.#sized;
  }

  /** @internal */

  override _read(): void {
    this.#bytes.next().then(
      ({ done, value }) => {
        if (done === true) this.push(null);
        else {
          this.#emitted += value.length;
          this.push(value);
          this.#onEmitted?.(this.#emitted, this.length ?? this.#emitted);
        }
      },
      (error: unknown) => this.destroy(asError(error)),
    );
  }

  /** @internal */

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    const reason = error ?? new Error('The stream was destroyed before its length was known');
    this.#rejectSized(reason);
    this.#abort.abort(reason);
    // Waits for reads under way; what they fail with now is of no interest.
    this.#bytes.return(undefined).then(
      () => callback(error),
      () => callback(error),
    );
  }

  #follow(signal: AbortSignal | undefined): void {
    if (signal === undefined) return;
    const stop = (): void => void this.destroy(asError(signal.reason));
    if (signal.aborted) stop();
    else {
      signal.addEventListener('abort', stop, { once: true });
      this.once('close', () => signal.removeEventListener('abort', stop));
    }
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
