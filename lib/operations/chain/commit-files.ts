/**
 * The copying of a commit by native jobs: data for which the file below has clusters of its own goes there, whole clusters go
 * into new ones, and what is neither is left to the caller.
 */
import type { Disk } from '../../disk.js';
import type { Range } from '../../io/disk-queries.js';
import { Content } from '../../native.js';
import { settleAll } from '../../storage/settle.js';
import { CommitPlan, type CommitBatch, type CommitTarget, type Stretch } from './commit-plan.js';
import { FilePlan } from '../files/plan.js';
import { FileTransfer } from '../files/transfer.js';
import { ImageRoom } from '../copy/image-room.js';
import { largestCluster, layersOf } from '../layers.js';
import { isPlainFile, type PlainFile } from '../files/plain-file.js';

/** What was copied, up to `end`. */
export interface Committed {
  readonly end: number;
  /** Data, bytes, with what of it is left. */
  readonly bytes: number;
  /** What is to be done piece by piece: zeros, and data that could not be copied so. */
  readonly left: readonly Stretch[];
}

/** Bytes of a unit, unless clusters are larger. */
const minUnit = 1024 * 1024;
const maxBatch = 32 * 1024 * 1024;

export class CommitFiles {
  readonly #plan: CommitPlan;
  readonly #source: FilePlan;
  readonly #target: CommitTarget;
  readonly #batchBytes: number;
  readonly #own: FileTransfer;
  readonly #fresh: FileTransfer | null = null;
  readonly #room: ImageRoom | null = null;

  private constructor(
    source: FilePlan,
    target: CommitTarget & { readonly file: PlainFile },
    unit: number,
    { concurrency, batchBytes }: { concurrency: number; batchBytes: number },
  ) {
    const { guest, file: storage } = target;
    this.#source = source;
    this.#target = target;
    this.#plan = new CommitPlan(source, target, unit);
    this.#batchBytes = Math.min(maxBatch, batchBytes);
    this.#own = new FileTransfer({ storage, content: Content.read }, 1, unit, concurrency);
    if (guest === null) return;
    const room = new ImageRoom(guest);
    const { clusterSize } = guest.image.geometry;
    this.#room = room;
    this.#fresh = new FileTransfer({ storage, room, content: Content.read }, clusterSize, unit, concurrency);
  }

  /**
   * Null where not all is in plain files that hold bytes as they are.
   * @param top what is committed: nobody changes it meanwhile, nor `target`
   * @param depth how many layers are above the target
   * @param options `batchBytes`: about the most to copy before telling of it
   */
  static of(
    top: Disk,
    depth: number,
    target: Disk,
    options: { concurrency: number; batchBytes: number },
  ): CommitFiles | null {
    const [layer] = layersOf(target);
    if (layer === undefined || !isPlainFile(layer.dataStorage)) return null;
    const { guest, dataStorage: file } = layer;
    if (guest !== null && (guest.cipher !== null || guest.image.hasDataFile)) return null;
    const unit = Math.max(minUnit, largestCluster(top));
    const source = FilePlan.ofUppermost(top, depth, unit);
    return source && new CommitFiles(source, { guest, size: target.size, file }, unit, options);
  }

  /** Copies what of `stretches` it can. While one batch is copied the next one is planned. */
  async *copy(stretches: AsyncIterable<Stretch>, signal: AbortSignal | undefined): AsyncGenerator<Committed> {
    let underWay: Promise<Committed> | null = null;
    try {
      for await (const batch of this.#plan.batches(stretches, this.#batchBytes)) {
        if (underWay !== null) yield await underWay;
        signal?.throwIfAborted();
        const jobs = await this.#begin(batch);
        underWay = this.#finish(batch, jobs);
        // A failure is met at the next await.
        underWay.catch(() => undefined);
      }
      if (underWay !== null) yield await underWay;
    } finally {
      await underWay?.catch(() => undefined);
      this.#room?.giveBack();
    }
  }

  /** When it resolves native jobs are at work; each tells whether all was as planned. */
  async #begin({ data, own, fresh }: CommitBatch): Promise<Promise<boolean>[]> {
    const { files } = this.#source;
    for (const { start, end } of data) await this.#target.guest?.bitmaps.changing(start, end);
    const jobs: Promise<boolean>[] = [];
    try {
      for (const [transfer, { units, pieces }] of [
        [this.#own, own] as const,
        [this.#fresh, fresh] as const,
      ]) {
        const batch = { isLast: false, units: units.rows, pieces: pieces.rows, files };
        const { copied = Promise.resolve(true) } = (await transfer?.begin(batch)) ?? {};
        copied.catch(() => undefined);
        jobs.push(copied);
      }
      return jobs;
    } catch (error) {
      await Promise.allSettled(jobs);
      throw error;
    }
  }

  async #finish(batch: CommitBatch, jobs: readonly Promise<boolean>[]): Promise<Committed> {
    const { end, bytes, data, left } = batch;
    try {
      await settleAll(jobs);
    } finally {
      // Not before: a commit that began meanwhile would take it for its own.
      this.#target.guest?.image.committer.dataWritten();
    }
    const isCopied = (await Promise.all(jobs)).every(Boolean);
    return { end, bytes, left: isCopied ? left : inOrderOf([...left, ...data.map(asData)]) };
  }
}

const asData = ({ start, end }: Range): Stretch => ({ start, end, zero: false });

const inOrderOf = (stretches: Stretch[]): Stretch[] => stretches.sort((a, b) => a.start - b.start);
