/** Copies between plain files by native jobs of many megabytes, following a plan made here. */
import { availableParallelism } from 'node:os';
import { alignUp } from '../../format/units.js';
import { blocksAhead, Content, native, spareBuffers, transferStride, type Codec } from '../../native.js';
import { pageBytes } from '../../storage/page-bytes.js';
import { settleAll } from '../../storage/settle.js';
import type { Batch } from './batches.js';
import { withDescriptors, type PlainFile } from './plain-file.js';

/** A target that is one plain file. */
export interface FileTarget {
  readonly storage: PlainFile;
  /** Undefined where everything has its place already. */
  readonly room?: TargetRoom;
  readonly compression?: TargetCompression;
  /** What is copied; by default zeros are left out. */
  readonly content?: Content;
  /** Whether space past what is written may stay reserved: it is cut off when the file is complete. */
  readonly isCutInTheEnd?: boolean;
}

/** Clusters of a target for data that comes in the order of the disk. */
export interface TargetRoom {
  /**
   * Room for `bytes` or more of the units of a batch, in the order in which it will be used, as host position and length.
   */
  reserve(bytes: number, units: Float64Array): Promise<number[]>;
  /** Told which of the room was used for what: guest position, length, host position of each run, and of what is hidden. */
  use(runs: Float64Array): Promise<void>;
}

export interface TargetCompression {
  readonly codec: Codec;
  readonly level: number;
  /** Streams that may touch one cluster. */
  readonly maxShares: number;
  /** Where streams are packed, as {@link NativeCore.transfer} keeps it. */
  readonly area: Float64Array;
}

const none = new Float64Array(0);
const noBytes = new Uint8Array(0);
const maxWorkers = 4;
const MiB = 1024 * 1024;

export class FileTransfer {
  /** Bytes of a job: enough that its beginning and end do not count, few enough to stop soon. */
  readonly batchBytes: number;
  readonly #target: FileTarget;
  readonly #granularity: number;
  readonly #workers: number;
  readonly #scratch: Uint8Array;
  #placed = none;

  /** @param unit longest unit, bytes, a multiple of `granularity` */
  constructor(target: FileTarget, granularity: number, unit: number, concurrency: number) {
    this.#target = target;
    this.#granularity = granularity;
    this.#workers = Math.min(concurrency, maxWorkers, availableParallelism());
    const { compression } = target;
    this.batchBytes = compression === undefined ? 256 * MiB : 64 * MiB;
    const needsMore = compression !== undefined || this.#content === Content.differing;
    this.#scratch = pageBytes((this.#workers + spareBuffers) * (needsMore ? 2 : 1) * unit);
  }

  get #content(): Content {
    return this.#target.content ?? Content.data;
  }

  /** Copies a batch. False when the files are not as planned: nothing of the batch counts then. */
  async copy(batch: Batch): Promise<boolean> {
    const { copied } = await this.begin(batch);
    return copied;
  }

  /** Begins to copy a batch: when this resolves native jobs are at work, and `copied` tells what {@link copy} does. */
  async begin(batch: Batch): Promise<{ readonly copied: Promise<boolean> }> {
    const { units, pieces, files, isLast, memory = noBytes } = batch;
    if (units.length === 0) return { copied: Promise.resolve(true) };
    const { room, compression, storage, isCutInTheEnd = false } = this.#target;
    const bytes = this.#bytesOf(units);
    const places = (await room?.reserve(batch.roomBytes ?? bytes, units)) ?? [];
    this.#makeRoomFor(bytes / this.#granularity + places.length);
    const results = withDescriptors([storage, ...files], async ([target = -1, ...sources]) => {
      const work = native.transfer(
        target,
        Float64Array.from(sources),
        units,
        pieces,
        Float64Array.from(places),
        this.#granularity,
        this.#scratch,
        this.#placed,
        this.#workers,
        compression === undefined
          ? none
          : Float64Array.of(
              compression.codec,
              compression.level,
              compression.maxShares,
              isLast ? 1 : blocksAhead,
            ),
        compression?.area ?? none,
        this.#content,
        memory,
        isCutInTheEnd,
      );
      await settleAll(work);
      return Promise.all(work);
    });
    return { copied: this.#finish(results) };
  }

  async #finish(work: Promise<number[]>): Promise<boolean> {
    const results = await work;
    if (results.includes(-1)) return false;
    await this.#target.room?.use(this.#placed.subarray(0, Math.max(...results) * transferStride.placed));
    return true;
  }

  #makeRoomFor(runs: number): void {
    if (this.#target.room === undefined || this.#placed.length >= runs * transferStride.placed) return;
    this.#placed = new Float64Array(runs * transferStride.placed);
  }

  #bytesOf(units: Float64Array): number {
    let bytes = 0;
    const stride = this.#content === Content.differing ? transferStride.differingUnit : transferStride.unit;
    for (let i = 1; i < units.length; i += stride) {
      bytes += alignUp(units[i] ?? 0, this.#granularity);
    }
    return bytes;
  }
}
