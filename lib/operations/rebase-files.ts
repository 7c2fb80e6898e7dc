/** The copying of a safe rebase by native jobs: which clusters differ, and then these, many at a time. */
import type { Range } from '../io/disk-queries.js';
import type { GuestImage } from '../io/guest-image.js';
import { transferStride } from '../native.js';
import { FileComparison } from './compare-files.js';
import type { Comparable } from './compare.js';
import { FilePlan } from './file-plan.js';
import { FileTransfer, type TargetRoom } from './file-transfer.js';
import { ImageRoom } from './image-room.js';
import { defaultConcurrency } from './in-order.js';
import { largestCluster } from './layers.js';
import { isPlainFile, withDescriptors } from './plain-file.js';
import { RowTable } from './row-table.js';
import { UnitRows } from './unit-rows.js';

/** Bytes of a unit that is copied, unless clusters are larger. */
const minUnit = 1024 * 1024;
/**
 * Bytes of the units of a job. There is room for all of a unit where one cluster of it has to be copied, and what is left of
 * the room leaves refcount blocks behind.
 */
const jobBytes = 32 * 1024 * 1024;

/** What was looked at, up to `end`. */
export interface Rebased {
  readonly end: number;
  /** Ranges that have to be zeros of the image's own. */
  readonly zeros: Range[];
  /** Ranges that could not be read as planned. */
  readonly left: Range[];
}

export class RebaseFiles {
  readonly #old: FilePlan;
  readonly #comparison: FileComparison;
  readonly #transfer: FileTransfer;
  readonly #room: WatchedRoom;
  readonly #size: number;
  readonly #unit: number;

  private constructor(
    guest: GuestImage,
    parts: { old: FilePlan; next: FilePlan; room: WatchedRoom; transfer: FileTransfer },
    concurrency: number,
  ) {
    const { clusterSize } = guest.image.geometry;
    this.#old = parts.old;
    this.#comparison = new FileComparison(parts.old, parts.next, clusterSize, concurrency);
    this.#transfer = parts.transfer;
    this.#room = parts.room;
    this.#size = guest.image.header.size;
    this.#unit = Math.max(minUnit, clusterSize);
  }

  /** Null where not all is in plain files, or clusters of the image are not what is compared and stored as a whole. */
  static of(
    guest: GuestImage,
    old: Comparable,
    next: Comparable,
    concurrency = defaultConcurrency,
  ): RebaseFiles | null {
    const { storage, hasDataFile, geometry } = guest.image;
    const { clusterSize, subclusterSize } = geometry;
    if (!isPlainFile(storage) || hasDataFile || guest.cipher !== null || subclusterSize !== clusterSize)
      return null;
    if (Math.max(largestCluster(old), largestCluster(next)) > clusterSize) return null;
    const inOld = FilePlan.of(old, clusterSize);
    const inNext = FilePlan.of(next, clusterSize);
    if (inOld === null || inNext === null) return null;
    const room = new WatchedRoom(guest);
    const transfer = new FileTransfer(
      { storage, room },
      clusterSize,
      Math.max(minUnit, clusterSize),
      concurrency,
    );
    return new RebaseFiles(guest, { old: inOld, next: inNext, room, transfer }, concurrency);
  }

  /**
   * Copies what differs in `ranges` between the old and the next backing disk: whole clusters that the image has nothing for.
   * Zeros are left to the caller.
   */
  async *copy(ranges: AsyncIterable<Range>, signal: AbortSignal | undefined): AsyncGenerator<Rebased> {
    try {
      for await (const { end, suspects, isRead } of this.#comparison.compare(ranges, signal)) {
        const differing = joined(suspects);
        const copied = isRead && (await this.#copyOld(differing));
        yield copied
          ? { end, zeros: this.#room.without(differing), left: [] }
          : { end, zeros: [], left: differing };
      }
    } finally {
      this.#room.giveBack();
    }
  }

  async #copyOld(ranges: readonly Range[]): Promise<boolean> {
    this.#room.begin();
    const { files } = this.#old;
    let rows = new UnitRows(this.#unit, this.#size);
    for (const { start, end } of ranges) {
      const stop = Math.min(end, this.#old.size);
      for (let at = start; at < stop;) {
        const [from, units] = [at, rows];
        at = await withDescriptors(files, (fds) => this.#old.planWindow(units, from, stop, fds));
        if (rows.units.count * this.#unit < jobBytes) continue;
        if (!(await this.#copyUnits(rows))) return false;
        rows = new UnitRows(this.#unit, this.#size);
      }
    }
    return this.#copyUnits(rows);
  }

  #copyUnits({ units, pieces }: UnitRows): Promise<boolean> {
    const { files } = this.#old;
    return this.#transfer.copy({ done: 0, isLast: false, units: units.rows, pieces: pieces.rows, files });
  }
}

/** Room that remembers what was used of it. */
class WatchedRoom implements TargetRoom {
  readonly #room: ImageRoom;
  #used = new RowTable(transferStride.placed);

  constructor(guest: GuestImage) {
    this.#room = new ImageRoom(guest);
  }

  begin(): void {
    this.#used = new RowTable(transferStride.placed);
  }

  reserve(bytes: number, units: Float64Array): Promise<number[]> {
    return this.#room.reserve(bytes, units);
  }

  async use(runs: Float64Array): Promise<void> {
    this.#used.append(runs);
    await this.#room.use(runs);
  }

  giveBack(): void {
    this.#room.giveBack();
  }

  /** The parts of `ranges` that were not used for data. */
  without(ranges: readonly Range[]): Range[] {
    const left: Range[] = [];
    const used = this.#used.rows;
    let next = 0;
    for (const { start, end } of ranges) {
      let at = start;
      for (; (used[next] ?? Infinity) < end; next += transferStride.placed) {
        const from = used[next] ?? end;
        if (from > at) left.push({ start: at, end: from });
        at = from + (used[next + 1] ?? 0);
      }
      if (at < end) left.push({ start: at, end });
    }
    return left;
  }
}

function joined(ranges: readonly Range[]): Range[] {
  const whole: { start: number; end: number }[] = [];
  for (const { start, end } of ranges) {
    const last = whole.at(-1);
    if (last?.end === start) last.end = end;
    else whole.push({ start, end });
  }
  return whole;
}
