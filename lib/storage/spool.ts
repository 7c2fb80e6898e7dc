/** Bytes of a stream that are put aside until it is known what they are: in memory first, then in a temporary file. */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Qcow2Error } from '../errors.js';
import { FileStorage } from './file.js';

export interface SpoolOptions {
  /** Where a temporary file may be made; the system's directory for these by default. */
  spoolDirectory?: string;
  /** Most that is put aside, bytes, of which each run of bytes or zeros by itself costs 4096 more; 64 GiB by default. */
  spoolLimit?: number;
}

const defaultLimit = 64 * 2 ** 30;
/** Bytes kept in memory before there is a file. */
const memoryBytes = 8 * 2 ** 20;
/** What a run counts for beside its bytes: about what it takes of the file. It bounds the list of them, too. Bytes. */
const runCost = 4096;

/** Where the bytes of a run are: zeros are nowhere, the file has them at the same place, memory at an offset from 0 on. */
const [nowhere, inFile] = [-1, -2];

/** Numbers of a row: where a run begins and ends in the stream, and where its bytes are. */
const stride = 3;
const [startColumn, endColumn, placeColumn] = [0, 1, 2];

export class Spool {
  readonly #directory: string;
  readonly #limit: number;
  /** Bytes one behind the other, however far apart they were. */
  #memory: Uint8Array = new Uint8Array(64 * 1024);
  #inMemory = 0;
  /** Runs, a row for each, in order, for bytes come in order. */
  #rows = new Float64Array(64 * stride);
  #count = 0;
  #file: FileStorage | null = null;
  #path: string | null = null;
  /** Counts towards the limit. */
  #cost = 0;

  constructor({ spoolDirectory = tmpdir(), spoolLimit = defaultLimit }: SpoolOptions) {
    this.#directory = spoolDirectory;
    this.#limit = spoolLimit;
  }

  /** Where the last bytes put aside end. */
  get end(): number {
    return this.#at(this.#count - 1, endColumn);
  }

  /**
   * Keeps bytes that lie behind all that were kept before.
   * @throws Qcow2Error `ERR_QCOW2_LIMIT` past the limit; system errors of the temporary file
   */
  async keep(bytes: Uint8Array, position: number): Promise<void> {
    if (bytes.length === 0) return;
    const fits = this.#file === null && this.#inMemory + bytes.length <= memoryBytes;
    const place = fits ? this.#inMemory : inFile;
    this.#charge(bytes.length, position, place);
    if (fits) this.#remember(bytes);
    else await (this.#file ??= await this.#openFile()).write(bytes, position);
    this.#add(bytes.length, position, place);
  }

  /**
   * The same for zeros, of which only the place is kept.
   * @throws Qcow2Error `ERR_QCOW2_LIMIT` past the limit
   */
  keepZeros(length: number, position: number): void {
    this.#charge(0, position, nowhere);
    this.#add(length, position, nowhere);
  }

  /** The file that keeps all of a range, at the same place; null when none does. */
  fileOf(position: number, length: number): FileStorage | null {
    const row = this.#find(position);
    return this.#at(row, placeColumn) === inFile && position + length <= this.#at(row, endColumn)
      ? this.#file
      : null;
  }

  /** Fills `buffer` if all of it is kept; false, with garbage in it, when not. */
  async read(buffer: Uint8Array, position: number): Promise<boolean> {
    for (let at = 0; at < buffer.length;) {
      const row = this.#find(position + at);
      if (row < 0) return false;
      const end = Math.min(buffer.length, this.#at(row, endColumn) - position);
      const part = buffer.subarray(at, end);
      const place = this.#at(row, placeColumn);
      if (place === nowhere) part.fill(0);
      else if (place === inFile) await this.#file?.read(part, position + at);
      else {
        const from = place + position + at - this.#at(row, startColumn);
        part.set(this.#memory.subarray(from, from + part.length));
      }
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

  #remember(bytes: Uint8Array): void {
    const end = this.#inMemory + bytes.length;
    if (end > this.#memory.length) {
      const larger = new Uint8Array(Math.min(memoryBytes, Math.max(end, 2 * this.#memory.length)));
      larger.set(this.#memory.subarray(0, this.#inMemory));
      this.#memory = larger;
    }
    this.#memory.set(bytes, this.#inMemory);
    this.#inMemory = end;
  }

  #charge(bytes: number, position: number, place: number): void {
    this.#cost += bytes + (this.#continuesLast(position, place) ? 0 : runCost);
    if (this.#cost <= this.#limit) return;
    throw new Qcow2Error(
      'ERR_QCOW2_LIMIT',
      `The stream has its data before the tables that tell what it is, more than spoolLimit, ${this.#limit} bytes, of which ` +
        `each of ${this.#count + 1} pieces costs ${runCost} by itself: allow more, or write the stream to a file and open that`,
      { offset: position, feature: 'spoolLimit' },
    );
  }

  /** What is next in the stream is next in memory, too. */
  #continuesLast(position: number, place: number): boolean {
    const last = this.#count - 1;
    if (last < 0 || this.#at(last, endColumn) !== position) return false;
    const lastPlace = this.#at(last, placeColumn);
    return place < 0 ? lastPlace === place : lastPlace >= 0;
  }

  #add(length: number, position: number, place: number): void {
    if (this.#continuesLast(position, place)) {
      this.#rows[(this.#count - 1) * stride + endColumn] = position + length;
      return;
    }
    if ((this.#count + 1) * stride > this.#rows.length) {
      const larger = new Float64Array(this.#rows.length * 2);
      larger.set(this.#rows);
      this.#rows = larger;
    }
    this.#rows.set([position, position + length, place], this.#count * stride);
    this.#count += 1;
  }

  #at(row: number, column: number): number {
    return row < 0 ? 0 : (this.#rows[row * stride + column] ?? 0);
  }

  /** The run in which a position is; -1 when it is in none. */
  #find(position: number): number {
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#at(middle, endColumn) <= position) low = middle + 1;
      else high = middle;
    }
    return low < this.#count && this.#at(low, startColumn) <= position ? low : -1;
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
