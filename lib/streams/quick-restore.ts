/**
 * Restores what comes through a stream by native jobs: each decodes, looks for zeros in and writes what one window of the stream
 * holds, while the next window is read. What a job cannot do, or does not find as it should be, is done piece by piece.
 */
import { alignDown } from '../format/units.js';
import { codecs } from '../io/codec.js';
import type { GuestImage } from '../io/guest-image.js';
import { native } from '../native.js';
import type { CopyTarget } from '../operations/copy/target.js';
import { FileTransfer, type FileTarget } from '../operations/files/transfer.js';
import { defaultConcurrency } from '../operations/jobs/in-order.js';
import type { StreamStorage, StreamWindow } from '../storage/stream.js';
import { sharedSector, type Raw, type StreamWalk } from './pieces.js';
import type { QueuedRun } from './run-queue.js';
import { plannedUnits, type PlannedRun } from './planned-units.js';

/** Bytes of a unit of native work, unless clusters are larger. */
const usualUnit = 1024 * 1024;
/** Of one job: compressed data may become a thousand times as long. */
const maxJobBytes = 64 * 1024 * 1024;
const maxJobRuns = 16 * 1024;

export interface QuickRestoreOptions {
  readonly guest: GuestImage;
  readonly storage: StreamStorage;
  readonly walk: StreamWalk;
  readonly target: CopyTarget & { readonly file: FileTarget };
  /** Zeros are left out in blocks of this many bytes, a power of two that the clusters of the stream are multiples of. */
  readonly zeroBlock: number;
  /** Stores a piece without a job. */
  readonly store: (raw: Raw) => Promise<void>;
  /** Told how many bytes of the disk are done. */
  readonly onDone: (bytes: number) => void;
  readonly signal: AbortSignal | undefined;
}

/** Whether native jobs can restore a stream into this target. */
export function isQuickTarget(
  target: CopyTarget,
  { image, cipher }: GuestImage,
  zeroBlock: number,
): target is CopyTarget & { readonly file: FileTarget } {
  const { file, unit, startsZero } = target;
  if (file === undefined || !startsZero || cipher !== null) return false;
  if (!Number.isInteger(Math.log2(zeroBlock)) || !native.codecs[codecs[image.header.compressionType].name])
    return false;
  // Where clusters are taken, they are what zeros are looked for in.
  return image.geometry.subclusterSize % zeroBlock === 0 && (file.room === undefined || zeroBlock === unit);
}

export class QuickRestore {
  readonly #options: QuickRestoreOptions;
  readonly #transfer: FileTransfer;
  readonly #unit: number;
  readonly #clusterSize: number;
  readonly #subclusterSize: number;
  /** Of the job that is planned, and the window that it needs. */
  #runs: PlannedRun[] = [];
  #bytes = 0;
  #window: StreamWindow | null = null;
  /** The job that is under way. */
  #last: Promise<void> = Promise.resolve();

  constructor(options: QuickRestoreOptions) {
    this.#options = options;
    const { guest, target, zeroBlock } = options;
    const { clusterSize, subclusterSize } = guest.image.geometry;
    this.#clusterSize = clusterSize;
    this.#subclusterSize = subclusterSize;
    this.#unit = Math.max(usualUnit, clusterSize);
    this.#transfer = new FileTransfer(target.file, zeroBlock, this.#unit, defaultConcurrency);
  }

  /** Goes through all of the stream. When it rejects nothing is under way any more. */
  async run(): Promise<void> {
    const { storage, walk } = this.#options;
    try {
      storage.keepRead = false;
      await storage.useWindows();
      this.#zeros(walk.gaps());
      for (;;) {
        if (walk.tableIsNext()) {
          this.#zeros(await walk.expandTable());
          continue;
        }
        const run = walk.pop();
        if (run === undefined) break;
        await this.#take(run);
      }
      await this.#begin(true);
      await walk.end();
      await this.#last;
    } finally {
      await Promise.allSettled([this.#last]);
    }
  }

  #zeros(runs: Iterable<QueuedRun>): void {
    for (const { length } of runs) this.#options.onDone(length);
  }

  async #take(run: QueuedRun): Promise<void> {
    const { host, length, packed } = run;
    // Whoever shares these bytes comes next in the queue, and finds them put aside.
    const isShared = this.#options.walk.nextHost < host + (packed || length) - sharedSector;
    for (let at = 0; at < length;) {
      const rest = { ...run, host: host + at, guest: run.guest + at, length: length - at };
      const taken = isShared ? 0 : await this.#plan(rest);
      if (taken === 0) await this.#storeNow(rest);
      at += taken === 0 ? rest.length : taken;
    }
  }

  /** Plans a run, or its beginning; returns how many bytes of the disk, 0 when no job can have them. */
  async #plan(run: QueuedRun): Promise<number> {
    const { storage, walk } = this.#options;
    const { host, length, packed } = run;
    if (host > storage.head) await storage.pass(host);
    const least = packed || Math.min(length, this.#clusterSize);
    const aside =
      host < storage.head ? storage.putAside(host, packed || Math.min(length, storage.head - host)) : null;
    if (aside !== null) {
      const part = packed > 0 ? length : this.#whole(run, storage.head - host);
      if (part > 0) await this.#add({ ...run, length: part, position: host, file: aside });
      return part;
    }
    if (storage.reach(host) < least) {
      await this.#begin(false);
      await storage.gather(host + least);
    }
    const part = packed > 0 ? length : this.#whole(run, storage.reach(host));
    if (part === 0) return 0;
    const position = storage.locate(host, packed || part);
    if (position < 0) return 0;
    await this.#add({ ...run, length: part, position, file: null });
    await walk.keepShared(run);
    return part;
  }

  /** As much of a run as there is, in whole subclusters. */
  #whole({ length }: QueuedRun, there: number): number {
    return there >= length ? length : Math.max(0, alignDown(there, this.#subclusterSize));
  }

  async #add(run: PlannedRun): Promise<void> {
    const { storage } = this.#options;
    const isElsewhere = run.file === null && this.#window !== null && !storage.isCurrent(this.#window);
    if (isElsewhere || this.#bytes >= maxJobBytes || this.#runs.length >= maxJobRuns)
      await this.#begin(false);
    if (run.file === null) this.#window ??= storage.hold();
    this.#runs.push(run);
    this.#bytes += run.length;
  }

  /** Begins the job that was planned, as soon as the one before is done. */
  async #begin(isLast: boolean): Promise<void> {
    const { storage, guest, signal } = this.#options;
    const runs = this.#runs;
    const window = this.#window;
    if (runs.length === 0) return;
    this.#runs = [];
    this.#bytes = 0;
    this.#window = null;
    try {
      await this.#last;
      signal?.throwIfAborted();
      const { codec } = codecs[guest.image.header.compressionType];
      const units = plannedUnits(runs, this.#unit, this.#clusterSize, codec);
      const memory = window === null ? {} : { memory: window.bytes };
      const { copied } = await this.#transfer.begin({ ...units, ...memory, isLast });
      this.#last = this.#finish(runs, window, copied);
      // A failure is met at the next await.
      this.#last.catch(() => undefined);
    } catch (error) {
      if (window !== null) storage.release(window);
      throw error;
    }
  }

  async #finish(
    runs: readonly PlannedRun[],
    window: StreamWindow | null,
    copied: Promise<boolean>,
  ): Promise<void> {
    const { storage, store, onDone } = this.#options;
    try {
      const isDone = await copied;
      for (const run of runs) {
        // One by one what is wrong is found and named.
        if (!isDone) await store({ run, bytes: await this.#bytesOf(run, window) });
        onDone(run.length);
      }
    } finally {
      if (window !== null) storage.release(window);
    }
  }

  async #bytesOf(
    { file, position, length, packed }: PlannedRun,
    window: StreamWindow | null,
  ): Promise<Uint8Array> {
    const stored = packed || length;
    if (file === null) return window?.bytes.subarray(position, position + stored) ?? new Uint8Array(0);
    const bytes = new Uint8Array(stored);
    await this.#options.storage.read(bytes, position);
    return bytes;
  }

  async #storeNow(run: QueuedRun): Promise<void> {
    const { walk, store, onDone } = this.#options;
    await this.#begin(false);
    await this.#last;
    for await (const raw of walk.read(run)) {
      await store(raw);
      onDone(raw.run.length);
    }
  }
}
