/** What the parts of a compaction share: the image, below which cluster everything is to go, and how far it has come. */
import type { Job } from '../../disk.js';
import { hostCluster, type HostCluster } from '../../format/units.js';
import type { Pause } from '../../io/gate.js';
import type { GuestImage } from '../../io/guest-image.js';
import type { ClusterRun } from '../../metadata/allocator.js';
import type { Image } from '../../metadata/image.js';

/** Bytes moved at once, while requests for them wait. */
export const batchBytes = 4 * 1024 * 1024;

/** How an image is compacted. */
export interface CompactOptions extends Omit<Job, 'concurrency'> {
  /**
   * `guest`: also sorts the clusters of the active disk by their guest offset, so that who reads the disk from end to end reads
   * the file from end to end. What is compressed or shared with snapshots stays. Everything else is moved twice, unless it
   * is in order already; the file is up to twice as long meanwhile, but takes no more space where it can have holes.
   */
  order?: 'guest';
  /** Also looks for clusters of the active disk that hold nothing but zeros, and drops them. */
  detectZeroes?: boolean;
}

/** What compacting came to. */
export interface CompactReport {
  /** Bytes that were moved. */
  copied: number;
  /** References to clusters that were changed on that account. */
  updated: number;
  /** Length of the image file before and after, bytes. */
  oldSize: number;
  /** Length of the file afterwards, bytes. */
  newSize: number;
}

export class CompactJob {
  readonly guest: GuestImage;
  /** Clusters from this one on are to go below it. */
  limit: HostCluster = hostCluster(0);
  copied = 0;
  updated = 0;
  readonly #pause: Pause;
  readonly #signal: AbortSignal | undefined;
  readonly #onProgress: CompactOptions['onProgress'];
  #total = 0;
  /** While clusters go behind the end of the file instead: from which one on, and where the next goes. */
  #away: { readonly from: number; next: number } | null = null;

  constructor(guest: GuestImage, pause: Pause, { signal, onProgress }: CompactOptions) {
    this.guest = guest;
    this.#pause = pause;
    this.#signal = signal;
    this.#onProgress = onProgress;
  }

  get image(): Image {
    return this.guest.image;
  }

  get clusterSize(): number {
    return this.image.geometry.clusterSize;
  }

  /** Clusters of a batch. */
  get batchClusters(): number {
    return Math.max(1, batchBytes / this.clusterSize);
  }

  get aborted(): boolean {
    return this.#signal?.aborted === true;
  }

  /** Whether a host cluster is to be moved. */
  isToMove(host: number): boolean {
    const { clusterSize } = this;
    return this.#away === null ? host >= this.limit * clusterSize : host < this.#away.from * clusterSize;
  }

  /** Takes up to `max` neighbouring clusters where what is moved is to go; null when there is no room. */
  async allocate(max: number): Promise<ClusterRun | null> {
    const { allocator } = this.image;
    if (this.#away === null) return allocator.allocateBelow(this.limit, max);
    const run = await allocator.allocateFrom(hostCluster(this.#away.next), max);
    this.#away.next = run.first + run.count;
    return run;
  }

  /** Runs work that moves what lies before cluster `from`, compressed data excepted, behind it. */
  async awayFrom(from: HostCluster, work: () => Promise<unknown>): Promise<void> {
    this.#away = { from, next: from };
    try {
      await work();
    } finally {
      this.#away = null;
    }
  }

  /** Whether compressed data is to be moved. */
  get movesStreams(): boolean {
    return this.#away === null;
  }

  /** Runs work while no one else changes the image and nothing waits in memory. Reads go on. */
  quietly<T>(work: () => Promise<T>): Promise<T> {
    return this.#pause(async () => {
      await this.image.committer.settle();
      return work();
    });
  }

  /** Announces bytes that will be moved. */
  expect(bytes: number): void {
    this.#total = this.copied + bytes;
  }

  moved(bytes: number, references: number): void {
    this.copied += bytes;
    this.updated += references;
    this.#onProgress?.({ done: this.copied, total: Math.max(this.#total, this.copied) });
  }

  throwIfAborted(): void {
    this.#signal?.throwIfAborted();
  }

  /** Between two batches, with no lock held: stops when told to, and lets requests that have been waiting go first. */
  async between(): Promise<void> {
    this.throwIfAborted();
    await this.image.committer.relieve();
    await this.letOthersIn();
  }

  /** Lets requests that have been waiting begin. */
  async letOthersIn(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
  }
}
