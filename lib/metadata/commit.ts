/**
 * The order in which changed metadata reaches storage. Changes gather in memory; a commit copies all of them at one
 * moment and writes the copies as
 *
 *   data, refcounts | refcount table | L2 tables | L1 table | free what was dropped        (`|` is a barrier)
 *
 * so nothing durable ever refers to a cluster whose refcount or content is not. Guest data is always written before the
 * L2 entry for it changes in memory, so the copy never runs ahead of the data.
 */
import { Qcow2Error } from '../errors.js';
import type { Geometry } from '../format/geometry.js';
import type { HostOffset } from '../format/units.js';
import { isLogging, log } from '../log.js';
import { settleAll } from '../storage/settle.js';
import { writeAll, type Storage } from '../storage/storage.js';
import type { Mapping } from './mapping.js';
import { Mutex } from './mutex.js';
import { PendingFrees, type FreeRun } from './pending-frees.js';
import type { Refcounts } from './refcounts.js';
import type { Reserved } from './reserved.js';
import type { DirtyPiece } from './table-cache.js';

/** Bytes to be written somewhere, copied from memory. */
interface Piece {
  readonly bytes: Uint8Array;
  readonly position: number;
}

/** Everything one commit has to write. */
interface Batch {
  readonly refcounts: DirtyPiece[];
  readonly refcountTable: Piece | undefined;
  readonly l2: DirtyPiece[];
  readonly l1: Piece | undefined;
  readonly frees: FreeRun[];
  readonly data: boolean;
}

export interface CommitterParts {
  readonly storage: Storage;
  /** Where guest data goes; the same as `storage` without an external data file. */
  readonly dataStorage: Storage;
  readonly geometry: Geometry;
  readonly refcounts: Refcounts;
  readonly mapping: Mapping;
  readonly reserved: Reserved;
  /** Lazy refcounts: sets the image's DIRTY bit, so that refcounts may be written late. Absent otherwise. */
  readonly markDirty?: () => Promise<void>;
}

export type FreedListener = (firstCluster: number, count: number) => void;

/** Dropped clusters that may wait before a commit is due on their account. */
const maxPendingFrees = 4096;

export class Committer {
  readonly #parts: CommitterParts;
  readonly #dirtyLimit: number;
  readonly #mutex = new Mutex();
  readonly #frees = new PendingFrees();
  #next: Promise<void> | undefined;
  readonly #freeingListeners: FreedListener[] = [];
  readonly #freedListeners: FreedListener[] = [];
  #dataWritten = false;
  #failure: unknown;

  /** @param dirtyLimit bytes of changed metadata in memory that make {@link relieve} commit */
  constructor(parts: CommitterParts, dirtyLimit: number) {
    this.#parts = parts;
    this.#dirtyLimit = dirtyLimit;
  }

  /** Tells `listener` of every run of clusters that lost a reference and may be free now. */
  onFreed(listener: FreedListener): void {
    this.#freedListeners.push(listener);
  }

  /** Tells `listener` of every run of clusters that is about to lose a reference. */
  onFreeing(listener: FreedListener): void {
    this.#freeingListeners.push(listener);
  }

  /** Says that guest data was written, so that the next commit must make it durable. */
  dataWritten(): void {
    this.#dataWritten = true;
  }

  /**
   * Drops one reference, or more, of each cluster that [offset, offset + length) touches, once nothing durable refers to
   * them.
   */
  freeLater(offset: HostOffset, length: number, punch: boolean, times = 1): void {
    const { clusterSize } = this.#parts.geometry;
    const first = Math.floor(offset / clusterSize);
    this.#frees.add({ first, count: Math.ceil((offset + length) / clusterSize) - first, times, punch });
  }

  /** Tells of clusters whose last reference, which nothing durable has, is about to go, and gives their space back. */
  async giveUp(first: number, count: number): Promise<void> {
    for (const listener of this.#freeingListeners) listener(first, count);
    await this.#giveBack(first, count, true);
    for (const listener of this.#freedListeners) listener(first, count);
  }

  /** Resolves once everything done before the call is durable. A commit serves all who ask before it begins. */
  flush(): Promise<void> {
    this.#next ??= this.#mutex.run(async () => {
      this.#next = undefined;
      await this.#commit(false);
    });
    return this.#next;
  }

  /** Commits when so much has gathered that memory or free space would suffer; else undefined. Call it holding no lock. */
  relieve(): Promise<void> | undefined {
    const { mapping, refcounts } = this.#parts;
    const dirty = mapping.cache.dirtyBytes + refcounts.cache.dirtyBytes;
    return dirty > this.#dirtyLimit || this.#frees.clusters > maxPendingFrees ? this.flush() : undefined;
  }

  /**
   * Commits everything, late refcounts too, then runs `work` while no other commit can begin. `work` must not allocate
   * clusters: that may commit. What changes the header or a directory in it belongs into {@link decisive}.
   */
  afterCommit<T>(work: () => Promise<T>): Promise<T> {
    return this.#mutex.run(async () => {
      await this.#commit(true);
      return work();
    });
  }

  /** {@link afterCommit} with work that is {@link decisive} as a whole. */
  exclusive(work: () => Promise<void>): Promise<void> {
    return this.afterCommit(() => this.decisive(work));
  }

  /** Runs `work` while no commit can begin, so that none sees it half done. `work` must be short and allocate nothing. */
  undisturbed<T>(work: () => Promise<T>): Promise<T> {
    return this.#mutex.run(work);
  }

  /** Writes everything, late refcounts and freed clusters included, so that the image is clean. */
  settle(): Promise<void> {
    return this.#mutex.run(async () => {
      await this.#commit(true);
      // What the first commit freed changed refcounts again.
      if (this.#parts.refcounts.cache.hasDirty) await this.#commit(true);
    });
  }

  /** A durable point for everything written to the image file before. A failure is remembered: see rule 3 of the design. */
  async barrier(): Promise<void> {
    this.assertSound();
    try {
      await this.#parts.storage.flush();
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  /**
   * Runs a change of what the header or a directory refers to. When that fails nobody knows whether the file has the old
   * or the new, and what is done next on the strength of one may destroy the other: the failure is remembered.
   */
  async decisive(change: () => Promise<void>): Promise<void> {
    this.assertSound();
    try {
      await change();
    } catch (error) {
      this.#failure ??= error;
      throw error;
    }
  }

  /** Whether it is known what the file has: no barrier and no decisive change failed. */
  get isSound(): boolean {
    return this.#failure === undefined;
  }

  /** Throws when an earlier barrier or decisive change failed. */
  assertSound(): void {
    if (this.#failure === undefined) return;
    throw new Qcow2Error(
      'ERR_QCOW2_FAILED',
      'An earlier flush or change of the header of this image failed, so what was written since may be lost. ' +
        'Close it, check the file and open it again',
      { cause: this.#failure },
    );
  }

  async #commit(everything: boolean): Promise<void> {
    this.assertSound();
    const batch = this.#take(everything);
    const started = isLogging() ? performance.now() : 0;
    try {
      await this.#write(batch);
    } catch (error) {
      this.#putBack(batch);
      throw error;
    }
    const { refcounts, mapping } = this.#parts;
    refcounts.cache.written(batch.refcounts);
    mapping.cache.written(batch.l2);
    if (isLogging()) this.#tell(batch, performance.now() - started);
    await this.#free(batch.frees);
  }

  #tell({ l2, l1, refcounts, refcountTable, frees, data }: Batch, milliseconds: number): void {
    const tables =
      l2.length + refcounts.length + Number(l1 !== undefined) + Number(refcountTable !== undefined);
    if (!data && tables + frees.length === 0) return;
    const bytesOf = (pieces: DirtyPiece[]): number =>
      pieces.reduce((sum, { bytes }) => sum + bytes.length, 0);
    log(
      'committed %s in %s ms: %s, L2 tables %d bytes, L1 table %d, refcounts %d, clusters given up %d',
      this.#parts.storage.name,
      milliseconds.toFixed(1),
      data ? 'data' : 'no data',
      bytesOf(l2),
      l1?.bytes.length ?? 0,
      bytesOf(refcounts),
      frees.reduce((sum, { count }) => sum + count, 0),
    );
  }

  #take(everything: boolean): Batch {
    const { refcounts, mapping, markDirty } = this.#parts;
    const late = markDirty !== undefined && !everything && refcounts.cache.dirtyBytes < this.#dirtyLimit;
    const data = this.#dataWritten;
    this.#dataWritten = false;
    return {
      refcounts: late ? [] : refcounts.cache.takeDirty(),
      refcountTable: late
        ? undefined
        : copy(refcounts.tableBytes, refcounts.tableOffset, refcounts.dirtyTable.take()),
      l2: mapping.cache.takeDirty(),
      l1: copy(mapping.l1Bytes, mapping.l1Offset, mapping.dirtyL1.take()),
      frees: this.#frees.take(),
      data,
    };
  }

  async #write(batch: Batch): Promise<void> {
    const { storage, dataStorage, markDirty } = this.#parts;
    const mapsChange = batch.l2.length > 0 || batch.l1 !== undefined;
    if (mapsChange) await markDirty?.();
    await writePieces(storage, batch.refcounts);
    if (batch.data && dataStorage !== storage) await this.#flushData(dataStorage);
    const mainChanged = (batch.data && dataStorage === storage) || batch.refcounts.length > 0;
    if (mainChanged || mapsChange || batch.refcountTable !== undefined) await this.barrier();
    for (const pieces of [batch.refcountTable, batch.l2, batch.l1]) {
      const list = pieces === undefined ? [] : Array.isArray(pieces) ? pieces : [pieces];
      if (list.length === 0) continue;
      await writePieces(storage, list);
      await this.barrier();
    }
  }

  async #flushData(dataStorage: Storage): Promise<void> {
    try {
      await dataStorage.flush();
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  #putBack(batch: Batch): void {
    const { refcounts, mapping } = this.#parts;
    refcounts.cache.putBack(batch.refcounts);
    mapping.cache.putBack(batch.l2);
    if (batch.refcountTable !== undefined)
      putBackRange(refcounts.dirtyTable, batch.refcountTable, refcounts.tableOffset);
    if (batch.l1 !== undefined) putBackRange(mapping.dirtyL1, batch.l1, mapping.l1Offset);
    this.#frees.putBack(batch.frees);
    this.#dataWritten ||= batch.data;
  }

  /** Nothing durable refers to these clusters any more. Holes are punched while the refcount still keeps others away. */
  async #free(runs: readonly FreeRun[]): Promise<void> {
    const { storage, refcounts } = this.#parts;
    for (const [index, run] of runs.entries()) {
      try {
        await this.#freeRun(run);
      } catch (error) {
        // Nobody can tell how much of this run was done: at worst it leaks.
        this.#frees.putBack(runs.slice(index + 1));
        throw error;
      }
    }
    if (runs.length === 0 || this.#parts.markDirty !== undefined) return;
    const pieces = refcounts.cache.takeDirty();
    try {
      await writePieces(storage, pieces);
      refcounts.cache.written(pieces);
    } catch (error) {
      refcounts.cache.putBack(pieces);
      throw error;
    }
  }

  async #freeRun({ first, count, times, punch }: FreeRun): Promise<void> {
    const { refcounts } = this.#parts;
    for (const listener of this.#freeingListeners) listener(first, count);
    // Those that lose their last reference.
    for (const run of await refcounts.runsWith(first, count, times))
      await this.#giveBack(run.first, run.count, punch);
    await refcounts.add(first, count, -times);
    for (const listener of this.#freedListeners) listener(first, count);
  }

  async #giveBack(first: number, count: number, punch: boolean): Promise<void> {
    const { storage, reserved, geometry } = this.#parts;
    const { clusterSize } = geometry;
    reserved.removeTables(first * clusterSize, count * clusterSize);
    if (punch) await storage.punch?.(first * clusterSize, count * clusterSize);
  }
}

function copy(
  table: Uint8Array,
  offset: HostOffset,
  range: { start: number; end: number } | undefined,
): Piece | undefined {
  if (range === undefined) return undefined;
  return { bytes: table.slice(range.start, range.end), position: offset + range.start };
}

function putBackRange(
  dirty: { add: (start: number, end: number) => void },
  piece: Piece,
  offset: HostOffset,
): void {
  dirty.add(piece.position - offset, piece.position - offset + piece.bytes.length);
}

/** Writes pieces sorted by position, neighbours together, a few requests at a time. */
async function writePieces(storage: Storage, pieces: readonly Piece[]): Promise<void> {
  const maxInFlight = 8;
  const maxRequest = 1024 * 1024;
  let inFlight: Promise<void>[] = [];
  let at = 0;
  while (at < pieces.length) {
    const group: Uint8Array[] = [];
    const position = pieces[at]?.position ?? 0;
    let end = position;
    for (let piece = pieces[at]; piece !== undefined && piece.position === end; piece = pieces[++at]) {
      group.push(piece.bytes);
      end += piece.bytes.length;
      if (end - position >= maxRequest) {
        at++;
        break;
      }
    }
    inFlight.push(writeAll(storage, group, position));
    if (inFlight.length === maxInFlight) {
      await settleAll(inFlight);
      inFlight = [];
    }
  }
  await settleAll(inFlight);
}
