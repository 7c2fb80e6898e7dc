/** What a guest wrote and flushed, and when: tells which content a disk may have after a crash. */
import type { PlainDisk } from './plain-disk.js';

const sectorSize = 512;

interface Version {
  readonly data: Buffer;
  readonly begin: number;
  end: number;
}

interface Flush {
  readonly begin: number;
  readonly end: number;
}

export class GuestHistory {
  /** The disk when the log began, all of it durable. */
  readonly #initial: Buffer;
  /** Sector number -> what was written to it, in order. */
  readonly #versions = new Map<number, Version[]>();
  readonly #flushes: Flush[] = [];
  readonly #mark: () => number;

  /** @param mark gives each event a tick in the log that the crash states come from: `() => recording.mark()` */
  constructor(initial: PlainDisk, mark: () => number) {
    this.#initial = initial.read(0, initial.size);
    this.#mark = mark;
  }

  /** Bytes that are followed. */
  get size(): number {
    return this.#initial.length;
  }

  /** The disk when all that was begun has been done. */
  latest(): Buffer {
    const disk = Buffer.from(this.#initial);
    for (const [sector, versions] of this.#versions) {
      versions.at(-1)?.data.copy(disk, sector * sectorSize);
    }
    return disk;
  }

  /** Runs a guest write of whole sectors and notes it; zeros for a write-zeroes or a discard that promises them. */
  async writing(data: Uint8Array, position: number, run: () => Promise<void>): Promise<void> {
    const begin = this.#mark();
    const added: Version[] = [];
    for (let at = 0; at < data.length; at += sectorSize) {
      const version = { data: Buffer.from(data.subarray(at, at + sectorSize)), begin, end: Infinity };
      const sector = (position + at) / sectorSize;
      const versions = this.#versions.get(sector) ?? [];
      versions.push(version);
      this.#versions.set(sector, versions);
      added.push(version);
    }
    await run();
    for (const version of added) version.end = this.#mark();
  }

  /** Runs a guest flush and notes it when it succeeds. */
  async flushing(run: () => Promise<void>): Promise<void> {
    const begin = this.#mark();
    await run();
    this.#flushes.push({ begin, end: this.#mark() });
  }

  /**
   * Compares a disk after a crash, of which the crash may have been at any moment from `from` to `to`: every sector must
   * hold its last flushed value or one written since.
   * @returns the first sector that holds neither, or null
   */
  async firstProblem(
    read: (buffer: Buffer, position: number) => Promise<void>,
    moments: { from: number; to: number },
  ): Promise<string | null> {
    const disk = Buffer.alloc(this.#initial.length);
    await read(disk, 0);
    for (let position = 0; position < disk.length; position += sectorSize) {
      const found = disk.subarray(position, position + sectorSize);
      if (!this.#versions.has(position / sectorSize) && found.equals(this.#initialSector(position))) continue;
      for (const moment of [moments.from, moments.to]) {
        if (!this.#allowed(position, moment).some((value) => value.equals(found))) {
          const begin = found.subarray(0, 16).toString('hex');
          return `sector at ${position} holds ${begin}…, no value that a crash at tick ${moment} may leave`;
        }
      }
    }
    return null;
  }

  #allowed(position: number, moment: number): Buffer[] {
    const begun = (this.#versions.get(position / sectorSize) ?? []).filter(({ begin }) => begin <= moment);
    const flushes = this.#flushes.filter(({ end }) => end <= moment);
    const lastFlush = Math.max(-1, ...flushes.map(({ begin }) => begin));
    const lastFlushed = begun.findLastIndex(({ end }) => end < lastFlush);
    if (lastFlushed >= 0) return begun.slice(lastFlushed).map(({ data }) => data);
    return [this.#initialSector(position), ...begun.map(({ data }) => data)];
  }

  #initialSector(position: number): Buffer {
    return this.#initial.subarray(position, position + sectorSize);
  }
}
