/** The copying of a safe rebase by native jobs: they read both backing disks, and copy what differs into clusters of the image. */
import type { Range } from '../../io/disk-queries.js';
import type { GuestImage } from '../../io/guest-image.js';
import { Content, hiddenHost, transferStride } from '../../native.js';
import type { Comparable } from '../compare.js';
import { FilePlan } from '../files/plan.js';
import { FileTransfer, type TargetRoom } from '../files/transfer.js';
import { ImageRoom } from '../copy/image-room.js';
import { defaultConcurrency } from '../jobs/in-order.js';
import { largestCluster } from '../layers.js';
import { isPlainFile, type PlainFile } from '../files/plain-file.js';
import { RebasePlan, type RebaseBatch } from './rebase-plan.js';
import { RowTable } from '../files/row-table.js';
import { ShownRanges } from '../files/shown-ranges.js';

/** Bytes of a unit, unless clusters are larger. */
const minUnit = 1024 * 1024;

/** What was looked at, up to `end`. */
export interface Rebased {
  readonly end: number;
  /** Ranges that have to be zeros of the image's own. */
  readonly zeros: readonly Range[];
  /** Ranges that could not be read as planned. */
  readonly left: readonly Range[];
}

export class RebaseFiles {
  readonly #plan: RebasePlan;
  readonly #files: readonly PlainFile[];
  readonly #transfer: FileTransfer;
  readonly #room: DifferingRoom;

  private constructor(
    plan: RebasePlan,
    files: readonly PlainFile[],
    transfer: FileTransfer,
    room: DifferingRoom,
  ) {
    this.#plan = plan;
    this.#files = files;
    this.#transfer = transfer;
    this.#room = room;
  }

  /**
   * Null where not all is in plain files, or clusters of the image are not what is compared and stored as a whole.
   * @param old the old backing disk, null for none; `next` the new one
   * @param shared how far below the image the first layer is that the new disk has as well; Infinity when there is none
   */
  static of(
    guest: GuestImage,
    { old, next }: { old: Comparable | null; next: Comparable | null },
    shared: number,
    concurrency = defaultConcurrency,
  ): RebaseFiles | null {
    const { storage, hasDataFile, geometry, header } = guest.image;
    const { clusterSize, subclusterSize } = geometry;
    if (!isPlainFile(storage) || hasDataFile || guest.cipher !== null || subclusterSize !== clusterSize)
      return null;
    const unit = Math.max(minUnit, clusterSize);
    const inOld = planOf(old, clusterSize, unit);
    const inNext = planOf(next, clusterSize, unit);
    if (inOld === null || inNext === null) return null;
    const room = new DifferingRoom(guest);
    const transfer = new FileTransfer(
      { storage, room, content: Content.differing },
      clusterSize,
      unit,
      concurrency,
    );
    const parts = { shown: new ShownRanges(guest, shared), old: inOld, next: inNext };
    const plan = new RebasePlan(parts, header.size, clusterSize, unit);
    return new RebaseFiles(plan, [...inOld.files, ...inNext.files], transfer, room);
  }

  /**
   * Copies what differs between the old and the new backing disk: whole clusters that the image has nothing for. While one batch
   * is copied the next one is planned, and while the caller does what is left of one the next one is copied.
   */
  async *copy(signal: AbortSignal | undefined): AsyncGenerator<Rebased> {
    let underWay: Begun | null = null;
    try {
      for (let batch = await this.#plan.next(signal); batch !== null || underWay !== null;) {
        const before: Begun | null = underWay;
        underWay = null;
        const done = await before?.done;
        signal?.throwIfAborted();
        underWay = batch === null ? null : await this.#begin(batch);
        if (done !== undefined) yield done;
        if (batch !== null) batch = await this.#plan.next(signal);
      }
    } finally {
      await underWay?.done.catch(() => undefined);
      this.#room.giveBack();
    }
  }

  /** When it resolves a native job is at work. */
  async #begin({ end, ranges, rows }: RebaseBatch): Promise<Begun> {
    if (rows === null) return { done: Promise.resolve({ end, zeros: [], left: ranges }) };
    const { copied } = await this.#transfer.begin({
      isLast: false,
      units: rows.units.rows,
      pieces: rows.pieces.rows,
      files: this.#files,
      roomBytes: rows.roomBytes,
    });
    const done = this.#finish(copied, end, ranges);
    // A failure is met when it is awaited.
    done.catch(() => undefined);
    return { done };
  }

  async #finish(copied: Promise<boolean>, end: number, ranges: readonly Range[]): Promise<Rebased> {
    let isCopied = false;
    try {
      isCopied = await copied;
    } catch (error) {
      // What cannot be read is found and named by reading it piece by piece, after what comes before it.
      if (!isReadFailure(error)) throw error;
    }
    return isCopied ? { end, zeros: this.#room.takeHidden(), left: [] } : { end, zeros: [], left: ranges };
  }
}

/** A job under way. */
interface Begun {
  readonly done: Promise<Rebased>;
}

/** Room for data that differs, which remembers what has to be zeros. */
class DifferingRoom implements TargetRoom {
  readonly #room: ImageRoom;
  #hidden: Range[] = [];

  constructor(guest: GuestImage) {
    this.#room = new ImageRoom(guest);
  }

  reserve(bytes: number): Promise<number[]> {
    // Tables are made once it is known which are needed.
    return this.#room.reserve(bytes, new Float64Array(0));
  }

  async use(runs: Float64Array): Promise<void> {
    const data = new RowTable(transferStride.placed);
    const hidden: Range[] = [];
    for (let i = 0; i < runs.length; i += transferStride.placed) {
      const [start = 0, length = 0, host = 0] = runs.subarray(i, i + transferStride.placed);
      if (host === hiddenHost) hidden.push({ start, end: start + length });
      else data.add(start, length, host);
    }
    this.#hidden = hidden;
    await this.#room.useWithTables(data.rows);
  }

  /** What has to be zeros of the image's own, of what was used last. */
  takeHidden(): Range[] {
    const hidden = this.#hidden;
    this.#hidden = [];
    return hidden;
  }

  giveBack(): void {
    this.#room.giveBack();
  }
}

const isReadFailure = (error: unknown): boolean =>
  error instanceof Error && 'syscall' in error && error.syscall === 'read';

/** Null for a disk that is not all in plain files, or has clusters larger than those it is copied into. */
function planOf(disk: Comparable | null, clusterSize: number, unit: number): FilePlan | null {
  if (disk === null) return FilePlan.ofNothing();
  return largestCluster(disk) > clusterSize ? null : FilePlan.of(disk, unit);
}
