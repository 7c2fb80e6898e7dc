/** Copies a disk piece by piece: several pieces under way at once, in buffers that are used again and again. */
import type { Disk, Extent, Job } from '../../disk.js';
import type { Range } from '../../io/disk-queries.js';
import { alignDown, alignUp } from '../../format/units.js';
import { native, transferStride } from '../../native.js';
import { pageBytes } from '../../storage/page-bytes.js';
import type { Checkpoints } from '../jobs/checkpoint.js';
import { copyBatches, type DiskBatch } from '../files/batches.js';
import { FilePlan } from '../files/plan.js';
import { FileTransfer } from '../files/transfer.js';
import { defaultConcurrency } from '../jobs/in-order.js';
import { largestCluster } from '../layers.js';
import { Pace, type Paced } from '../jobs/pace.js';
import { copySpans, type Span, type Treatment } from './spans.js';
import type { CopyTarget } from './target.js';
import { Turns } from '../jobs/turns.js';

export interface CopyPlan {
  readonly source: Disk;
  readonly target: CopyTarget;
  readonly treat: (extent: Extent) => Treatment;
  /** Runs of zeros are looked for in blocks of this size, a multiple of the target's zero unit, bytes; 0: not at all. */
  readonly zeroBlock: number;
  /** Where to begin and when to tell how far it has come; null: at the beginning, and never. */
  readonly resumable: { readonly checkpoints: Checkpoints; readonly flush: () => Promise<void> } | null;
}

/** Bytes of a request, unless blocks are larger. */
const chunkBytes = 1024 * 1024;
/** Bytes of a unit of native work: long writes cost the file system less. */
const minUnit = 1024 * 1024;
const maxUnit = 2 * 1024 * 1024;

/** Copies everything. On failure it waits for what is under way and rejects; the target is incomplete then. */
export async function copyDisk(plan: CopyPlan, job: Job & Paced): Promise<void> {
  const copy = new Copy(plan, job);
  await copy.run();
}

/** From file to file, by native jobs. */
interface QuickWay {
  readonly plan: FilePlan;
  readonly unit: number;
  readonly transfer: FileTransfer;
}

class Copy {
  readonly #plan: CopyPlan;
  readonly #job: Job;
  readonly #chunkSize: number;
  readonly #concurrency: number;
  readonly #pace: Pace;
  readonly #turns = new Turns();
  readonly #idleBuffers: Uint8Array[] = [];
  readonly #underWay = new Set<Promise<void>>();
  #done = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(plan: CopyPlan, job: Job & Paced) {
    this.#plan = plan;
    this.#job = job;
    this.#pace = new Pace(job);
    this.#concurrency = job.concurrency ?? defaultConcurrency;
    const { unit } = plan.target;
    const block = alignUp(Math.max(plan.zeroBlock, unit), unit);
    this.#chunkSize = Math.max(block, alignDown(chunkBytes, block));
  }

  async run(): Promise<void> {
    const { source, target, treat } = this.#plan;
    const { signal } = this.#job;
    try {
      const quick = this.#plan.resumable === null ? this.#quickWay() : null;
      if (quick !== null) await this.#transfer(quick);
      else {
        const start = alignDown(this.#plan.resumable?.checkpoints.start ?? 0, target.unit);
        this.#done = start;
        for await (const span of copySpans(source, target.unit, treat, signal, start)) await this.#span(span);
      }
    } catch (error) {
      this.#fail(error);
    }
    await Promise.all(this.#underWay);
    if (this.#failure !== undefined) throw this.#failure.error as Error;
    signal?.throwIfAborted();
  }

  /** From file to file native jobs do the work. They look for zeros in blocks of a power of two. */
  #quickWay(): QuickWay | null {
    const { source, target, zeroBlock } = this.#plan;
    // A batch is too much to wait for at once.
    if (this.#pace.isLimited) return null;
    if (target.file === undefined || zeroBlock > maxUnit || !Number.isInteger(Math.log2(zeroBlock)))
      return null;
    // Where clusters are taken, they are what zeros are looked for in.
    if (target.file.room !== undefined && zeroBlock !== target.unit) return null;
    const unit = Math.max(minUnit, target.unit, zeroBlock, largestCluster(source));
    const plan = FilePlan.of(source, unit);
    if (plan === null) return null;
    return { plan, unit, transfer: new FileTransfer(target.file, zeroBlock, unit, this.#concurrency) };
  }

  /** While one batch is copied the next one is planned: after it has begun, as planning leaves it no turn. */
  async #transfer({ plan, unit, transfer }: QuickWay): Promise<void> {
    let last: Promise<void> = Promise.resolve();
    try {
      const { signal } = this.#job;
      for await (const batch of copyBatches(plan, unit, transfer.batchBytes, signal)) {
        await last;
        signal?.throwIfAborted();
        const { copied } = await transfer.begin(batch);
        last = this.#batch(batch, copied);
        // A failure is met at the next await.
        last.catch(() => undefined);
      }
    } finally {
      await last;
    }
  }

  async #batch(batch: DiskBatch, copied: Promise<boolean>): Promise<void> {
    if (!(await copied)) {
      // Piece by piece what is wrong is found and named, and the end of a file that is cut off is no trouble.
      for (let i = 0; i < batch.units.length; i += transferStride.unit) {
        const [start = 0, length = 0] = batch.units.subarray(i, i + transferStride.unit);
        await this.#copyRange({ start, end: start + length });
      }
      await Promise.all(this.#underWay);
      if (this.#failure !== undefined) throw this.#failure.error as Error;
    }
    this.#done = batch.done;
    this.#job.onProgress?.({ done: this.#done, total: this.#plan.source.size });
  }

  async #span(span: Span): Promise<void> {
    if (span.treatment === 'copy') {
      await this.#copyRange(span);
      return;
    }
    if (span.treatment === 'zero' && !this.#plan.target.startsZero) await this.#plan.target.zero(span);
    this.#progress(span);
    await this.#checkpoint(span);
  }

  async #copyRange({ start, end }: Range): Promise<void> {
    for (let at = start; at < end; at += this.#chunkSize) {
      const range = { start: at, end: Math.min(at + this.#chunkSize, end) };
      await this.#begin(range);
      await this.#checkpoint(range);
    }
  }

  /** Reports, when it is time, that everything up to the end of a range is durable. */
  async #checkpoint({ start, end }: Range): Promise<void> {
    const { resumable } = this.#plan;
    if (resumable?.checkpoints.isDue(end - start) !== true) return;
    await Promise.all(this.#underWay);
    if (this.#failure !== undefined) throw this.#failure.error as Error;
    await resumable.checkpoints.report(end, resumable.flush);
  }

  /** Begins a piece as soon as there is room for one more. */
  async #begin(range: Range): Promise<void> {
    while (this.#underWay.size >= this.#concurrency) await Promise.race(this.#underWay);
    await this.#pace.take(range.end - range.start, this.#job.signal);
    if (this.#failure !== undefined) throw this.#failure.error as Error;
    this.#job.signal?.throwIfAborted();
    const piece = this.#piece(range)
      .catch((error: unknown) => this.#fail(error))
      .finally(() => this.#underWay.delete(piece));
    this.#underWay.add(piece);
  }

  async #piece(range: Range): Promise<void> {
    const buffer = this.#idleBuffers.pop() ?? pageBytes(this.#chunkSize);
    const turn = this.#turns.next();
    try {
      const bytes = buffer.subarray(0, range.end - range.start);
      await this.#plan.source.read(bytes, range.start);
      const data = this.#findData(bytes);
      await this.#plan.target.write({ start: range.start, bytes, data }, turn);
      this.#progress(range);
    } finally {
      turn.end();
      this.#idleBuffers.push(buffer);
    }
  }

  #findData(bytes: Uint8Array): Range[] {
    const { zeroBlock } = this.#plan;
    if (zeroBlock === 0) return [{ start: 0, end: bytes.length }];
    const ends = new Float64Array(Math.ceil(bytes.length / zeroBlock) + 1);
    const count = native.zeroRuns(bytes, zeroBlock, ends);
    const runs: Range[] = [];
    for (let i = 0, start = 0; i < count; i += 2, start = ends[i - 1] ?? 0) {
      const end = ends[i] ?? 0;
      if (end > start) runs.push({ start, end });
    }
    return runs;
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
  }

  #progress({ start, end }: Range): void {
    this.#done += end - start;
    this.#job.onProgress?.({ done: this.#done, total: this.#plan.source.size });
  }
}
