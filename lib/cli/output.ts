/** Standard output and standard error of a command. */
import { fstatSync, writeSync } from 'node:fs';
import { BrokenPipe, Failure } from './failure.js';

const flushAt = 64 * 1024;
const stdout = 1;
const stderr = 2;

/**
 * Collects output and writes it in large pieces. Writing waits for the reader, so that a long output takes no more memory
 * than one piece; it does so without the streams of `process.stdout`, whose loading a short command would feel.
 */
export class Output {
  #pending = '';
  /** A terminal is a character device; asking so costs less than loading `node:tty`. */
  readonly #isTerminal = fstatSync(stdout).isCharacterDevice();

  /** @throws BrokenPipe when nobody reads any more */
  write(text: string): void {
    this.#pending += text;
    if (this.#pending.length >= flushAt) this.flush();
  }

  /** Writes what was collected. @throws BrokenPipe; Failure when the output cannot be written for another reason */
  flush(): void {
    const bytes = Buffer.from(this.#pending);
    this.#pending = '';
    try {
      writeFully(stdout, bytes);
    } catch (cause) {
      if (cause instanceof BrokenPipe) throw cause;
      throw new Failure(`Could not write the output: ${(cause as Error).message}`, { cause });
    }
  }

  /** Text that an image or a file name brought along, fit to be shown. */
  foreign(text: string): string {
    return this.#isTerminal ? visible(text) : text;
  }
}

/**
 * Control characters as `\xHH`: a terminal would obey them, and names inside an image are anybody's. Elsewhere they stay,
 * since programs compare names.
 */
function visible(text: string): string {
  return text.replaceAll(
    /(?!\n)\p{Cc}/gu,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}

/** Writes a message to standard error; when that is closed there is nobody to tell. */
export function say(text: string): void {
  try {
    const shown = fstatSync(stderr).isCharacterDevice() ? visible(text) : text;
    writeFully(stderr, Buffer.from(shown));
  } catch {
    // Nobody listens.
  }
}

function writeFully(fd: number, bytes: Buffer): void {
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
