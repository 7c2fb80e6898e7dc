/** A file of Xen Orchestra's accessors as a store that is read. */
import { Qcow2Error } from '../errors.js';
import type { Storage } from './storage.js';

/** What of such an accessor is used. */
export interface Accessor {
  read(file: number, buffer: Buffer, position: number): Promise<{ bytesRead: number }>;
  getSize(path: string): Promise<number>;
}

export class AccessorStorage implements Storage {
  readonly name: string;
  readonly readOnly = true;
  readonly #accessor: Accessor;
  readonly #descriptor: number;
  #size: Promise<number> | undefined;

  /** @param descriptor of the open file, which stays the caller's */
  constructor(accessor: Accessor, path: string, descriptor: number) {
    this.name = path;
    this.#accessor = accessor;
    this.#descriptor = descriptor;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    // Not every remote reads past the end as a file does.
    const there = Math.min(buffer.length, Math.max(0, (await this.size()) - position));
    let done = 0;
    while (done < there) {
      const part = Buffer.from(buffer.buffer, buffer.byteOffset + done, there - done);
      const { bytesRead } = await this.#accessor.read(this.#descriptor, part, position + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return done;
  }

  size(): Promise<number> {
    this.#size ??= this.#accessor.getSize(this.name);
    return this.#size;
  }

  write(): Promise<void> {
    return Promise.reject(new Qcow2Error('ERR_QCOW2_READ_ONLY', `${this.name} is read-only`));
  }

  truncate(): Promise<void> {
    return this.write();
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
