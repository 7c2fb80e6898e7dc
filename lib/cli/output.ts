/** Standard output and standard error of a command. */
import { fstatSync, writeSync } from 'node:fs';
import { BrokenPipe, Failure } from './failure.js';
import { visible } from '../format/text.js';
import { coloured, type Style } from './terminal.js';

const flushAt = 64 * 1024;

/** Where text goes: all that is written, at once. */
export interface Sink {
  readonly isTerminal: boolean;
  /** @throws BrokenPipe when nobody reads any more */
  write(bytes: Uint8Array): void;
}

/** A file descriptor of the process. Writing waits for the reader. */
export class Descriptor implements Sink {
  readonly #fd: number;
  /** A terminal is a character device; asking so costs less than loading `node:tty`. */
  readonly isTerminal: boolean;

  constructor(fd: number) {
    this.#fd = fd;
    this.isTerminal = isCharacterDevice(fd);
  }

  write(bytes: Uint8Array): void {
    writeFully(this.#fd, bytes);
  }
}

function isCharacterDevice(fd: number): boolean {
  try {
    return fstatSync(fd).isCharacterDevice();
  } catch {
    // It is closed: writing will say so.
    return false;
  }
}

/**
 * Collects output and writes it in large pieces, so that a long output takes no more memory than one piece; it does so
 * without the streams of `process.stdout`, whose loading a short command would feel.
 */
export class Output {
  #pending = '';
  readonly #sink: Sink;
  readonly #isColoured: boolean;

  /** @param isColoured whether {@link styled} gives text its colour */
  constructor(sink: Sink, isColoured = false) {
    this.#sink = sink;
    this.#isColoured = isColoured;
  }

  /** Text of this program's own, in colour where a person sees it. */
  styled(style: Style, text: string): string {
    return this.#isColoured ? coloured(style, text) : text;
  }

  get isTerminal(): boolean {
    return this.#sink.isTerminal;
  }

  /** @throws BrokenPipe when nobody reads any more */
  write(text: string): void {
    this.#pending += text;
    if (this.#pending.length >= flushAt) this.flush();
  }

  /** Writes bytes that are no text, behind what was collected. @throws as {@link flush} */
  writeBytes(bytes: Uint8Array): void {
    this.flush();
    this.#send(bytes);
  }

  /** Writes what was collected. @throws BrokenPipe; Failure when the output cannot be written for another reason */
  flush(): void {
    const bytes = Buffer.from(this.#pending);
    this.#pending = '';
    this.#send(bytes);
  }

  #send(bytes: Uint8Array): void {
    try {
      this.#sink.write(bytes);
    } catch (cause) {
      if (cause instanceof BrokenPipe) throw cause;
      throw new Failure(`Could not write the output: ${(cause as Error).message}`, { cause });
    }
  }

  /**
   * Text that an image or a file name brought along, fit to be shown: a terminal would obey it, and names inside an image are
   * anybody's. Elsewhere it stays as it is, since programs compare names.
   */
  foreign(text: string): string {
    return this.isTerminal ? visible(text) : text;
  }
}

function writeFully(fd: number, bytes: Uint8Array): void {
  let at = 0;
  while (at < bytes.length) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : null;
      if (code === 'EPIPE') throw new BrokenPipe();
      if (code !== 'EAGAIN') throw error;
      // Someone made the descriptor non-blocking: wait a little for its reader.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
}
