/** A read-only image in memory that tells who tried to change it. */
import type { Storage } from '../../lib/index.js';

export class WatchedStorage implements Storage {
  readonly name = 'hostile.qcow2';
  readonly readOnly = true;
  readonly changes: string[] = [];
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    const from = Math.min(position, this.#bytes.length);
    const part = this.#bytes.subarray(from, Math.min(from + buffer.length, this.#bytes.length));
    buffer.set(part);
    return Promise.resolve(part.length);
  }

  size(): Promise<number> {
    return Promise.resolve(this.#bytes.length);
  }

  write(buffer: Uint8Array, position: number): Promise<void> {
    return this.#refuse(`write of ${buffer.length} bytes at ${position}`);
  }

  truncate(size: number): Promise<void> {
    return this.#refuse(`truncate to ${size}`);
  }

  punch(position: number, length: number): Promise<boolean> {
    return this.#refuse(`punch of ${length} bytes at ${position}`);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #refuse(what: string): Promise<never> {
    this.changes.push(what);
    return Promise.reject(new Error(`the image is read-only: ${what}`));
  }
}
