/** Packs compressed clusters into host clusters, one behind the other, byte by byte. */
import { alignUp, hostCluster, hostOffset, type HostCluster, type HostOffset } from '../format/units.js';
import type { Image } from '../metadata/image.js';
import { Mutex } from '../metadata/mutex.js';

export class CompressedSpace {
  readonly #image: Image;
  readonly #mutex = new Mutex();
  /** Where the next compressed cluster may begin, in a host cluster that has room left; undefined where none has. */
  #next: number | undefined;

  constructor(image: Image) {
    this.#image = image;
    image.committer.onFreeing((first, count) => this.#forget(first, count));
  }

  /**
   * Takes `length` bytes, at most a cluster. Every host cluster they touch counts one reference more.
   * @throws Qcow2Error `ERR_QCOW2_LIMIT` when the file has no room
   */
  take(length: number): Promise<HostOffset> {
    return this.#mutex.run(async () => (await this.#takeBehind(length)) ?? (await this.#takeNew(length)));
  }

  /** The same where all of it must lie below host cluster `limit`; null when there is no room. */
  takeBelow(limit: HostCluster, length: number): Promise<HostOffset | null> {
    return this.#mutex.run(async () => {
      const { clusterSize } = this.#image.geometry;
      const fits = this.#next !== undefined && this.#next + length <= limit * clusterSize;
      const behind = fits ? await this.#takeBehind(length) : undefined;
      if (behind !== undefined) return behind;
      const run = await this.#image.allocator.allocateBelow(limit, 1);
      return run === null ? null : this.#begin(run.first, length);
    });
  }

  /** Goes on behind the last compressed cluster, into the next host cluster if that one is free. */
  async #takeBehind(length: number): Promise<HostOffset | undefined> {
    const { refcounts, allocator, committer, geometry } = this.#image;
    const start = this.#next;
    if (start === undefined) return undefined;
    const cluster = Math.floor(start / geometry.clusterSize);
    const room = (cluster + 1) * geometry.clusterSize - start;
    const count = await refcounts.get(cluster);
    if (count === 0 || count >= geometry.maxRefcount) return undefined;
    if (length > room && !(await allocator.allocateAt(hostCluster(cluster + 1)))) return undefined;
    // Meanwhile the cluster may have been freed, and even given to someone else.
    if (!(await refcounts.share(cluster, () => this.#next === start))) {
      if (length > room) committer.freeLater(hostOffset(start + room), length - room, false);
      return undefined;
    }
    this.#setNext(start + length);
    return hostOffset(start);
  }

  async #takeNew(length: number): Promise<HostOffset> {
    const { first } = await this.#image.allocator.allocate(1);
    return this.#begin(first, length);
  }

  #begin(cluster: HostCluster, length: number): HostOffset {
    const start = cluster * this.#image.geometry.clusterSize;
    this.#setNext(start + length);
    return hostOffset(start);
  }

  #setNext(next: number): void {
    this.#next = alignUp(next, this.#image.geometry.clusterSize) === next ? undefined : next;
  }

  /** Room in a cluster that is being freed is not ours any more. */
  #forget(first: number, count: number): void {
    if (this.#next === undefined) return;
    const cluster = Math.floor(this.#next / this.#image.geometry.clusterSize);
    if (cluster >= first && cluster < first + count) this.#next = undefined;
  }
}
