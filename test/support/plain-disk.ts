/** A model of a virtual disk that is too simple to be wrong: pages of plain bytes, no format, no cache. */
import { open } from 'node:fs/promises';

const pageSize = 4096;

export class PlainDisk {
  /** Page number -> bytes; absent pages are zeros. */
  readonly #pages = new Map<number, Buffer>();
  #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  get size(): number {
    return this.#size;
  }

  read(position: number, length: number): Buffer {
    this.#checkRange(position, length);
    const result = Buffer.alloc(length);
    this.#eachPage(position, length, (index, start, count, done) => {
      this.#pages.get(index)?.copy(result, done, start, start + count);
    });
    return result;
  }

  write(data: Uint8Array, position: number): void {
    this.#checkRange(position, data.length);
    this.#eachPage(position, data.length, (index, start, count, done) => {
      this.#page(index).set(data.subarray(done, done + count), start);
    });
  }

  zero(position: number, length: number): void {
    this.#checkRange(position, length);
    this.#clear(position, position + length);
  }

  /** Zeros the whole units of `granularity` bytes in a range; the disk's last unit counts as whole where the disk ends. */
  discard(position: number, length: number, granularity: number): void {
    const end = position + length;
    const first = Math.ceil(position / granularity) * granularity;
    const last = end === this.#size ? end : Math.floor(end / granularity) * granularity;
    if (first < last) this.zero(first, last - first);
  }

  resize(size: number): void {
    this.#clear(size, Infinity);
    this.#size = size;
  }

  clone(): PlainDisk {
    const copy = new PlainDisk(this.#size);
    for (const [index, page] of this.#pages) copy.#pages.set(index, Buffer.from(page));
    return copy;
  }

  /**
   * Compares with a disk that is read: all of it when it is small, else what was ever written here, with a page on
   * either side.
   * @returns what differs first, or null
   */
  async firstDifference(
    read: (buffer: Buffer, position: number) => Promise<void>,
    wholeUpTo = 2 ** 26,
  ): Promise<string | null> {
    for (const [position, length] of this.#rangesToCompare(wholeUpTo)) {
      const got = Buffer.alloc(length, 0xcd);
      await read(got, position);
      const expected = this.read(position, length);
      if (!got.equals(expected)) {
        const at = expected.findIndex((byte, i) => byte !== got[i]);
        const bytes = (buffer: Buffer): string => buffer.subarray(at, at + 16).toString('hex');
        return `at ${position + at}: expected ${bytes(expected)}…, got ${bytes(got)}…`;
      }
    }
    return null;
  }

  /** Writes the content to a sparse raw file, for qemu-img to compare with. */
  async saveAs(path: string): Promise<void> {
    const file = await open(path, 'w');
    try {
      await file.truncate(this.#size);
      for (const [index, page] of this.#pages) {
        const at = index * pageSize;
        await file.write(page, 0, Math.min(pageSize, this.#size - at), at);
      }
    } finally {
      await file.close();
    }
  }

  *#rangesToCompare(wholeUpTo: number): Generator<[position: number, length: number]> {
    const chunk = 2 ** 20;
    if (this.#size <= wholeUpTo) {
      for (let at = 0; at < this.#size; at += chunk) yield [at, Math.min(chunk, this.#size - at)];
      return;
    }
    const near = new Set<number>([0, Math.floor((this.#size - 1) / pageSize)]);
    for (const index of this.#pages.keys()) for (const by of [-1, 0, 1]) near.add(index + by);
    for (const index of [...near].sort((a, b) => a - b)) {
      const at = index * pageSize;
      if (at >= 0 && at < this.#size) yield [at, Math.min(pageSize, this.#size - at)];
    }
  }

  #clear(position: number, end: number): void {
    for (const [index, page] of this.#pages) {
      const at = index * pageSize;
      const from = Math.max(position - at, 0);
      const to = Math.min(end - at, pageSize);
      if (from === 0 && to === pageSize) this.#pages.delete(index);
      else if (from < to) page.fill(0, from, to);
    }
  }

  #eachPage(
    position: number,
    length: number,
    visit: (index: number, start: number, count: number, done: number) => void,
  ): void {
    let done = 0;
    while (done < length) {
      const start = (position + done) % pageSize;
      const count = Math.min(pageSize - start, length - done);
      visit(Math.floor((position + done) / pageSize), start, count, done);
      done += count;
    }
  }

  #page(index: number): Buffer {
    const page = this.#pages.get(index) ?? Buffer.alloc(pageSize);
    this.#pages.set(index, page);
    return page;
  }

  #checkRange(position: number, length: number): void {
    if (position < 0 || length < 0 || position + length > this.#size) {
      throw new RangeError(
        `[${position}, ${position + length}) is outside the model, which has ${this.#size} bytes`,
      );
    }
  }
}
