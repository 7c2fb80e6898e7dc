/** A store whose flushes wait: for a file that is worth nothing before all of it is written. */
import type { Storage } from './storage.js';

/**
 * Passes everything on to another store but `flush`, which resolves at once, and `close`, which is up to the owner of
 * that store. Whoever uses it flushes the inner store at the end, if the file is to be durable then.
 */
export class UnflushedStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  readonly identity?: string;
  readonly path?: string;
  readonly writev?: NonNullable<Storage['writev']>;
  readonly punch?: NonNullable<Storage['punch']>;
  readonly allocate?: NonNullable<Storage['allocate']>;
  readonly #inner: Storage;

  constructor(inner: Storage) {
    this.#inner = inner;
    this.name = inner.name;
    this.readOnly = inner.readOnly;
    if (inner.identity !== undefined) this.identity = inner.identity;
    if (inner.path !== undefined) this.path = inner.path;
    if (inner.writev !== undefined) this.writev = inner.writev.bind(inner);
    if (inner.punch !== undefined) this.punch = inner.punch.bind(inner);
    if (inner.allocate !== undefined) this.allocate = inner.allocate.bind(inner);
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#inner.read(buffer, position);
  }

  write(buffer: Uint8Array, position: number): Promise<void> {
    return this.#inner.write(buffer, position);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  size(): Promise<number> {
    return this.#inner.size();
  }

  truncate(size: number): Promise<void> {
    return this.#inner.truncate(size);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
