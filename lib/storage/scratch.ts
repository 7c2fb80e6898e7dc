/** A store for what is thrown away when it is closed: bounded, and never flushed. */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FileStorage } from './file.js';
import { MemoryStorage } from './memory.js';
import type { Storage } from './storage.js';

export interface ScratchOptions {
  /** Keeps everything in memory instead of in a file. */
  memory?: boolean;
  /** Where to make the file; the system's directory for temporary files by default. */
  directory?: string;
  /** Bytes; writing past them fails with `ENOSPC`. By default 256 MiB in memory, else half of what the directory has free. */
  maxBytes?: number;
}

const defaultMemoryBytes = 256 * 1024 * 1024;

export class ScratchStorage implements Storage {
  readonly name: string;
  readonly readOnly = false;
  readonly #inner: Storage;
  readonly #maxBytes: number;
  readonly #remove: () => Promise<void>;

  private constructor(inner: Storage, maxBytes: number, remove: () => Promise<void>) {
    this.name = inner.name;
    this.#inner = inner;
    this.#maxBytes = maxBytes;
    this.#remove = remove;
  }

  /** Makes an empty one. */
  static async create(options: ScratchOptions = {}): Promise<ScratchStorage> {
    const { memory = false, directory = tmpdir(), maxBytes } = options;
    if (memory) {
      return new ScratchStorage(new MemoryStorage(), maxBytes ?? defaultMemoryBytes, () => Promise.resolve());
    }
    const { mkdtemp, rm, statfs } = await import('node:fs/promises');
    const own = await mkdtemp(join(directory, 'qcow2-scratch-'));
    const remove = (): Promise<void> => rm(own, { recursive: true, force: true });
    try {
      const { bavail, bsize } = await statfs(own);
      const file = await FileStorage.open(join(own, 'scratch'), { mode: 'create', lock: false });
      // Without a name it goes away however this process ends. Where an open file keeps its name, closing removes it.
      if (process.platform !== 'win32') await remove();
      return new ScratchStorage(file, maxBytes ?? (bavail * bsize) / 2, remove);
    } catch (error) {
      await remove();
      throw error;
    }
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#inner.read(buffer, position);
  }

  readCached(buffer: Uint8Array, position: number): boolean {
    return this.#inner.readCached?.(buffer, position) ?? false;
  }

  async write(buffer: Uint8Array, position: number): Promise<void> {
    this.#refusePast(position + buffer.length);
    await this.#inner.write(buffer, position);
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  size(): Promise<number> {
    return this.#inner.size();
  }

  async truncate(size: number): Promise<void> {
    this.#refusePast(size);
    await this.#inner.truncate(size);
  }

  async punch(position: number, length: number): Promise<boolean> {
    return (await this.#inner.punch?.(position, length)) ?? false;
  }

  async close(): Promise<void> {
    await this.#inner.close();
    await this.#remove();
  }

  #refusePast(end: number): void {
    if (end <= this.#maxBytes) return;
    const message = `ENOSPC: ${this.name} may have ${this.#maxBytes} bytes at most`;
    throw Object.assign(new Error(message), { code: 'ENOSPC', syscall: 'write' });
  }
}
