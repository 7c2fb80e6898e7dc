/** Blocks of something far away, kept within a byte budget: reads of one moment become few requests, with read-ahead. */

const blockBytes = 64 * 1024;
/** How far a reader that goes straight on is served in advance, blocks. */
const maxReadAhead = 16;

/** Fills a buffer from a position on. */
type Fetch = (buffer: Buffer, position: number) => Promise<void>;

interface Wanted {
  readonly index: number;
  readonly resolve: (block: Buffer) => void;
  readonly reject: (error: unknown) => void;
}

export class BlockCache {
  readonly #size: number;
  readonly #maxBlocks: number;
  readonly #maxRequestBlocks: number;
  readonly #fetch: Fetch;
  /** Block number -> the block, here or on its way; the ones used last are at the end. */
  readonly #blocks = new Map<number, Promise<Buffer>>();
  #wanted: Wanted[] = [];
  /** Where a reader that goes straight on would miss next, and how far it was served in advance. */
  #expected = -1;
  #ahead = 1;

  /** @param size bytes there are; `maxBytes` to keep; `maxRequestBytes` to ask for at once */
  constructor(size: number, maxBytes: number, maxRequestBytes: number, fetch: Fetch) {
    this.#size = size;
    this.#maxBlocks = Math.floor(maxBytes / blockBytes);
    this.#maxRequestBlocks = Math.max(1, Math.floor(maxRequestBytes / blockBytes));
    this.#fetch = fetch;
  }

  /** Fills a buffer from `position` on; all of it must be there. */
  async read(buffer: Buffer, position: number): Promise<void> {
    const first = Math.floor(position / blockBytes);
    const last = Math.floor((position + buffer.length - 1) / blockBytes);
    const blocks: Promise<Buffer>[] = [];
    for (let index = first; index <= last; index += 1) blocks.push(this.#block(index));
    const found = await Promise.all(blocks);
    found.forEach((block, index) => {
      const start = (first + index) * blockBytes;
      const from = Math.max(0, position - start);
      block.copy(buffer, Math.max(0, start - position), from, position + buffer.length - start);
    });
  }

  #block(index: number): Promise<Buffer> {
    const known = this.#blocks.get(index);
    if (known !== undefined) {
      this.#blocks.delete(index);
      this.#blocks.set(index, known);
      return known;
    }
    this.#ahead = index === this.#expected ? Math.min(2 * this.#ahead, maxReadAhead) : 1;
    const block = this.#want(index);
    // What is read ahead fails for nobody; whoever needs it later asks again.
    for (let next = index + 1; next < index + this.#ahead; next += 1) {
      if (next * blockBytes < this.#size && !this.#blocks.has(next)) this.#want(next).catch(() => undefined);
    }
    this.#expected = index + this.#ahead;
    return block;
  }

  /** Puts a block on the list of the next requests. */
  #want(index: number): Promise<Buffer> {
    if (this.#wanted.length === 0) setImmediate(() => this.#request());
    const block = new Promise<Buffer>((resolve, reject) => this.#wanted.push({ index, resolve, reject }));
    this.#blocks.set(index, block);
    block.catch(() => {
      if (this.#blocks.get(index) === block) this.#blocks.delete(index);
    });
    return block;
  }

  /** Asks for all wanted blocks, neighbours together. */
  #request(): void {
    const wanted = this.#wanted.sort((a, b) => a.index - b.index);
    this.#wanted = [];
    let group: Wanted[] = [];
    for (const each of wanted) {
      const last = group.at(-1);
      if (last !== undefined && (last.index + 1 !== each.index || group.length === this.#maxRequestBlocks)) {
        void this.#fetchGroup(group);
        group = [];
      }
      group.push(each);
    }
    void this.#fetchGroup(group);
    this.#evict();
  }

  async #fetchGroup(group: readonly Wanted[]): Promise<void> {
    const start = (group[0]?.index ?? 0) * blockBytes;
    const length = Math.min(group.length * blockBytes, this.#size - start);
    try {
      const bytes = Buffer.allocUnsafeSlow(length);
      await this.#fetch(bytes, start);
      // Each block has memory of its own, so that dropping one frees it.
      group.forEach(({ resolve }, index) =>
        resolve(
          group.length === 1
            ? bytes
            : Buffer.from(bytes.subarray(index * blockBytes, (index + 1) * blockBytes)),
        ),
      );
    } catch (error) {
      for (const { reject } of group) reject(error);
    }
  }

  #evict(): void {
    for (const index of this.#blocks.keys()) {
      if (this.#blocks.size <= this.#maxBlocks) return;
      this.#blocks.delete(index);
    }
  }
}
