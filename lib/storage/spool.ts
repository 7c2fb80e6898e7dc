/** Bytes of a stream that are put aside until it is known what they are: in memory first, then in a temporary file. */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Qcow2Error } from '../errors.js';
import { FileStorage } from './file.js';
import { MemoryStorage } from './memory.js';
import type { Storage } from './storage.js';

export interface SpoolOptions {
  /** Where a temporary file may be made; the system's directory for these by default. */
  spoolDirectory?: string;
  /** Most bytes put aside, bytes; 64 GiB by default. */
  spoolLimit?: number;
}

const defaultLimit = 64 * 2 ** 30;
/** Bytes kept in memory before there is a file. */
const memoryBytes = 8 * 2 ** 20;

/** A run of bytes [start, end) that is kept, and where; zeros are nowhere. */
interface Kept {
  start: number;
  end: number;
  store: Storage | null;
}

export class Spool {
  readonly #directory: string;
  readonly #limit: number;
  readonly #memory = new MemoryStorage();
  /** In order, for bytes come in order. */
  readonly #kept: Kept[] = [];
  #file: FileStorage | null = null;
  #path: string | null = null;
  #bytes = 0;

  constructor({ spoolDirectory = tmpdir(), spoolLimit = defaultLimit }: SpoolOptions) {
    this.#directory = spoolDirectory;
    this.#limit = spoolLimit;
  }

  /** Bytes put aside so far. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Where the last of them end. */
  get end(): number {
    return this.#kept.at(-1)?.end ?? 0;
  }

  /**
   * Keeps bytes that lie behind all that were kept before.
   * @throws Qcow2Error `ERR_QCOW2_LIMIT` past the limit; system errors of the temporary file
   */
  async keep(bytes: Uint8Array, position: number): Promise<void> {
    if (bytes.length === 0) return;
    this.#bytes += bytes.length;
    if (this.#bytes > this.#limit) {
      throw new Qcow2Error(
        'ERR_QCOW2_LIMIT',
        `The stream has its data before the tables that tell what it is, more than spoolLimit, ${this.#limit} bytes: ` +
          'allow more, or write the stream to a file and open that',
        { offset: position, feature: 'spoolLimit' },
      );
    }
    const store = this.#bytes <= memoryBytes ? this.#memory : (this.#file ??= await this.#openFile());
    await store.write(bytes, position);
    this.#add(bytes.length, position, store);
  }

  /** The same for zeros, which take no room. */
  keepZeros(length: number, position: number): void {
    this.#add(length, position, null);
  }

  /** The file that keeps all of a range, at the same place; null when none does. */
  fileOf(position: number, length: number): FileStorage | null {
    const kept = this.#find(position);
    return kept !== undefined && kept.store === this.#file && position + length <= kept.end
      ? this.#file
      : null;
  }

  /** Fills `buffer` if all of it is kept; false, with garbage in it, when not. */
  async read(buffer: Uint8Array, position: number): Promise<boolean> {
    for (let at = 0; at < buffer.length;) {
      const kept = this.#find(position + at);
      if (kept === undefined) return false;
      const end = Math.min(buffer.length, kept.end - position);
      const part = buffer.subarray(at, end);
      if (kept.store === null) part.fill(0);
      else await kept.store.read(part, position + at);
      at = end;
    }
    return true;
  }

  async close(): Promise<void> {
    await this.#file?.close();
    // Where an open file cannot be removed.
    if (this.#path !== null)
      await (await import('node:fs/promises')).unlink(this.#path).catch(() => undefined);
  }

  #add(length: number, position: number, store: Storage | null): void {
    const last = this.#kept.at(-1);
    if (last?.end === position && last.store === store) last.end += length;
    else this.#kept.push({ start: position, end: position + length, store });
  }

  #find(position: number): Kept | undefined {
    let low = 0;
    let high = this.#kept.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#kept[middle]?.end ?? 0) <= position) low = middle + 1;
      else high = middle;
    }
    const found = this.#kept[low];
    return found !== undefined && found.start <= position ? found : undefined;
  }

  async #openFile(): Promise<FileStorage> {
    const [{ randomUUID }, { unlink }] = await Promise.all([
      import('node:crypto'),
      import('node:fs/promises'),
    ]);
    const path = join(this.#directory, `qcow2-spool-${randomUUID()}`);
    const file = await FileStorage.open(path, { mode: 'create', lock: false });
    // Without a name it is gone with the process, however that ends.
    this.#path = await unlink(path).then(
      () => null,
      () => path,
    );
    return file;
  }
}
