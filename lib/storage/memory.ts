/** A store in memory, sparse and paged: for tests, for small images, and for building one before it is sent on. */
import { Qcow2Error } from '../errors.js';
import { alignDown, toBytes } from '../format/units.js';
import type { Storage } from './storage.js';

const pageSize = 64 * 1024;
let created = 0;

export class MemoryStorage implements Storage {
  readonly name: string;
  /** Never: it can always be written. */
  readonly readOnly = false;
  readonly identity: string;
  /** Page number -> its bytes; a page that is not there reads as zeros. */
  readonly #pages = new Map<number, Uint8Array>();
  /** The keys of #pages in order, or null when they have changed since. */
  #pageOrder: number[] | null = null;
  #size = 0;
  #changes = 0;
  #closed = false;

  /**
   * Empty, or with a first content.
   * @param initial the first content; it is copied
   */
  constructor(initial?: Uint8Array) {
    created += 1;
    this.identity = `memory:${created}`;
    this.name = `memory storage ${created}`;
    if (initial !== undefined) this.#write(initial, 0);
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#do(() => this.#read(buffer, toBytes('position', position)));
  }

  write(buffer: Uint8Array, position: number): Promise<void> {
    return this.#do(() => this.#write(buffer, toBytes('position', position)));
  }

  state(): Promise<string> {
    return this.#do(() => `${this.identity}:${this.#changes}`);
  }

  flush(): Promise<void> {
    return this.#do(() => undefined);
  }

  size(): Promise<number> {
    return this.#do(() => this.#size);
  }

  truncate(size: number): Promise<void> {
    return this.#do(() => {
      const bytes = toBytes('size', size);
      this.#changes += 1;
      if (bytes < this.#size) this.#drop(bytes, this.#size);
      this.#size = bytes;
    });
  }

  /** Waits for what is under way and closes it. Safe to call twice. */
  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }

  punch(position: number, length: number): Promise<boolean> {
    return this.#do(() => {
      const end = Math.min(toBytes('position', position) + toBytes('length', length), this.#size);
      if (position < end) this.#drop(position, end);
      return true;
    });
  }

  allocate(position: number, length: number): Promise<boolean> {
    return this.#do(() => {
      this.#grow(toBytes('position', position) + toBytes('length', length));
      return true;
    });
  }

  nextData(position: number): Promise<number | null> {
    return this.#do(() => this.#nextData(toBytes('position', position)));
  }

  nextHole(position: number): Promise<number> {
    return this.#do(() => {
      let page = Math.floor(toBytes('position', position) / pageSize);
      while (this.#pages.has(page)) page += 1;
      return Math.max(position, Math.min(page * pageSize, this.#size));
    });
  }

  allocatedSize(): Promise<number> {
    return this.#do(() => this.#pages.size * pageSize);
  }

  /** A copy of the whole content. Works on a closed store too. */
  toBuffer(): Buffer {
    const buffer = Buffer.alloc(this.#size);
    this.#read(buffer, 0);
    return buffer;
  }

  /** An independent store with the same content; holes stay holes. Works on a closed store too. */
  clone(): MemoryStorage {
    const copy = new MemoryStorage();
    for (const [index, page] of this.#pages) copy.#pages.set(index, page.slice());
    copy.#size = this.#size;
    return copy;
  }

  /** Runs the operation now; whatever it throws becomes a rejection. */
  #do<T>(operation: () => T): Promise<T> {
    return new Promise((resolve) => {
      if (this.#closed) throw new Qcow2Error('ERR_QCOW2_CLOSED', `${this.name} is closed`);
      resolve(operation());
    });
  }

  #read(buffer: Uint8Array, position: number): number {
    const length = Math.max(0, Math.min(buffer.length, this.#size - position));
    for (let done = 0; done < length;) {
      const { page, start, count } = this.#span(position + done, length - done);
      if (page === undefined) buffer.fill(0, done, done + count);
      else buffer.set(page.subarray(start, start + count), done);
      done += count;
    }
    return length;
  }

  #write(buffer: Uint8Array, position: number): void {
    this.#changes += 1;
    this.#grow(position + buffer.length);
    for (let done = 0; done < buffer.length;) {
      const { index, page, start, count } = this.#span(position + done, buffer.length - done);
      const target = page ?? this.#addPage(index);
      target.set(buffer.subarray(done, done + count), start);
      done += count;
    }
  }

  /** Makes [position, end) zeros and gives whole pages back. */
  #drop(position: number, end: number): void {
    this.#changes += 1;
    const first = Math.floor(position / pageSize);
    const last = Math.floor((end - 1) / pageSize);
    // Whichever is shorter: the pages that exist, or the range.
    const touched = last - first < this.#pages.size ? range(first, last) : [...this.#pages.keys()];
    for (const index of touched) {
      const page = this.#pages.get(index);
      if (page === undefined || index < first || index > last) continue;
      const start = Math.max(position - index * pageSize, 0);
      // Bytes of a page that lie past the end of the store are zeros anyway.
      const wholeToEnd = end >= Math.min((index + 1) * pageSize, this.#size);
      if (start === 0 && wholeToEnd) this.#removePage(index);
      else page.fill(0, start, Math.min(end - index * pageSize, pageSize));
    }
  }

  #nextData(position: number): number | null {
    if (position >= this.#size) return null;
    this.#pageOrder ??= [...this.#pages.keys()].sort((a, b) => a - b);
    const order = this.#pageOrder;
    const wanted = Math.floor(position / pageSize);
    let low = 0;
    let high = order.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((order[middle] ?? 0) < wanted) low = middle + 1;
      else high = middle;
    }
    const page = order[low];
    return page === undefined ? null : Math.max(position, page * pageSize);
  }

  #grow(end: number): void {
    this.#size = Math.max(this.#size, toBytes('position + length', end));
  }

  /** The part of one page that a range of at most `length` bytes at `position` begins with. */
  #span(position: number, length: number) {
    const start = position - alignDown(position, pageSize);
    const index = (position - start) / pageSize;
    return { index, page: this.#pages.get(index), start, count: Math.min(length, pageSize - start) };
  }

  #addPage(index: number): Uint8Array {
    const page = new Uint8Array(pageSize);
    this.#pages.set(index, page);
    this.#pageOrder = null;
    return page;
  }

  #removePage(index: number): void {
    this.#pages.delete(index);
    this.#pageOrder = null;
  }
}

function* range(first: number, last: number): Generator<number> {
  for (let index = first; index <= last; index += 1) yield index;
}
