/** Finds free host clusters and takes them, making refcount blocks and a larger refcount table where they are missing. */
import { Qcow2Error } from '../errors.js';
import { maxRefcountTableBytes, tableEntrySize, type Geometry } from '../format/geometry.js';
import { tableView, writeRefcountTableEntry } from '../format/table-entry.js';
import { alignUp, hostCluster, hostOffset, type HostCluster } from '../format/units.js';
import { log } from '../log.js';
import { native } from '../native.js';
import type { Storage } from '../storage/storage.js';
import type { Committer } from './commit.js';
import { Mutex } from './mutex.js';
import type { Refcounts } from './refcounts.js';
import type { Reserved } from './reserved.js';

/** Contiguous host clusters. */
export interface ClusterRun {
  first: HostCluster;
  count: number;
}

type PatchHeader = (fields: { refcountTableOffset: number; refcountTableClusters: number }) => Promise<void>;

export class Allocator {
  readonly #storage: Storage;
  readonly #geometry: Geometry;
  readonly #refcounts: Refcounts;
  readonly #reserved: Reserved;
  readonly #committer: Committer;
  readonly #patchHeader: PatchHeader;
  /** Fails when something refers to what is counted past the end of the file. */
  #refuseCutFile: () => Promise<void> = () => Promise.resolve();
  #endIsKnown = false;
  readonly #mutex = new Mutex();
  /** Clusters taken so far, and given back. */
  allocated = 0;
  freed = 0;
  /** No cluster below this one is free. */
  #hint = 0;
  /** The lowest cluster freed since the search under way began, which may have passed it by. */
  #freedMeanwhile = Infinity;

  constructor(
    storage: Storage,
    geometry: Geometry,
    refcounts: Refcounts,
    reserved: Reserved,
    committer: Committer,
    patchHeader: PatchHeader,
  ) {
    this.#storage = storage;
    this.#geometry = geometry;
    this.#refcounts = refcounts;
    this.#reserved = reserved;
    this.#committer = committer;
    this.#patchHeader = patchHeader;
    committer.onFreed((first, count) => {
      this.freed += count;
      this.#free(first);
    });
  }

  /** Says how to find out whether a file that ends before what its refcounts count was cut; it fails when it was. */
  onShortFile(refuseCutFile: () => Promise<void>): void {
    this.#refuseCutFile = refuseCutFile;
  }

  /** Says that refcounts changed in other ways than through this allocator and the committer. */
  rescan(): void {
    this.#free(0);
  }

  /** Takes up to `max` contiguous clusters, at least one, giving each the refcount 1. */
  allocate(max: number): Promise<ClusterRun> {
    return this.#whenSafe(async () => {
      for (;;) {
        this.#freedMeanwhile = Infinity;
        const { first, count } = await this.#refcounts.take(this.#hint, max);
        this.#hint = Math.min(first + count, this.#freedMeanwhile);
        if (count > 0) return this.#checked(first, count);
        await this.#addBlocks(first, 1, first);
      }
    });
  }

  /**
   * Takes up to `max` contiguous clusters, all of them below `limit`, giving each the refcount 1; null when none is free
   * there.
   */
  allocateBelow(limit: HostCluster, max: number): Promise<ClusterRun | null> {
    return this.#whenSafe(async () => {
      for (;;) {
        this.#freedMeanwhile = Infinity;
        const { first, count } = await this.#refcounts.take(this.#hint, max, limit);
        this.#hint = Math.max(this.#hint, first + count);
        this.#hint = Math.min(this.#hint, this.#freedMeanwhile);
        if (count > 0) return this.#checked(first, count);
        if (first >= limit) return null;
        await this.#addBlocks(first, 1, first);
      }
    });
  }

  /** Takes up to `max` contiguous clusters, at least one, all of them at or behind `start`. */
  allocateFrom(start: HostCluster, max: number): Promise<ClusterRun> {
    return this.#whenSafe(async () => {
      for (;;) {
        const { first, count } = await this.#refcounts.take(start, max);
        if (count > 0) return this.#checked(first, count);
        await this.#addBlocks(first, 1, first);
      }
    });
  }

  /** Takes `count` clusters one behind the other, all below `limit` and in blocks that exist; null where there are none. */
  allocateContiguousBelow(limit: HostCluster, count: number): Promise<HostCluster | null> {
    return this.#whenSafe(async () => {
      const first = await this.#refcounts.findFree(this.#hint, count, limit);
      if (first + count > limit || this.#missing(first, count) > 0) return null;
      await this.#refcounts.set(first, count, 1);
      return this.#checked(first, count).first;
    });
  }

  /** Takes `count` clusters one behind the other, for a table. */
  allocateContiguous(count: number): Promise<HostCluster> {
    return this.#whenSafe(async () => {
      for (;;) {
        // Missing refcount blocks are placed right behind the run, so the free run must hold them, too.
        let wanted = count;
        let first = await this.#refcounts.findFree(this.#hint, wanted);
        for (;;) {
          const needed = count + this.#missing(first, wanted);
          if (needed <= wanted) break;
          wanted = needed;
          first = await this.#refcounts.findFree(this.#hint, wanted);
        }
        if (first + wanted > this.#refcounts.capacity) {
          await this.#growTable(first + wanted);
          continue;
        }
        if (wanted > count) await this.#addBlocks(first, wanted, first + count);
        await this.#refcounts.set(first, count, 1);
        return this.#checked(first, count).first;
      }
    });
  }

  /** Tries to take the very cluster `cluster`; false when it is in use. */
  allocateAt(cluster: HostCluster): Promise<boolean> {
    return this.#whenSafe(async () => {
      if (this.#refcounts.blockOffset(cluster) === 0 || (await this.#refcounts.get(cluster)) !== 0)
        return false;
      await this.#refcounts.set(cluster, 1, 1);
      this.#checked(cluster, 1);
      return true;
    });
  }

  /** Runs one allocation at a time, none of them in a file that was cut. */
  #whenSafe<T>(work: () => Promise<T>): Promise<T> {
    return this.#mutex.run(async () => {
      if (!this.#endIsKnown) await this.#lookPastEnd();
      return work();
    });
  }

  async #lookPastEnd(): Promise<void> {
    const inFile = Math.ceil((await this.#storage.size()) / this.#geometry.clusterSize);
    if (await this.#refcounts.isUsedFrom(inFile)) await this.#refuseCutFile();
    this.#endIsKnown = true;
  }

  #free(first: number): void {
    this.#hint = Math.min(this.#hint, first);
    this.#freedMeanwhile = Math.min(this.#freedMeanwhile, first);
  }

  #missing(first: number, count: number): number {
    return this.#refcounts.missingBlocks(first, first + count).length;
  }

  /** Makes the blocks that [first, first + count) lacks, placing them from cluster `place` on. */
  async #addBlocks(first: number, count: number, place: number): Promise<void> {
    if (first + count > this.#refcounts.capacity) {
      await this.#growTable(first + count);
      return;
    }
    const missing = this.#refcounts.missingBlocks(first, first + count);
    this.#checked(place, missing.length);
    // What cannot be read is to fail before anything changes.
    for (let i = 0; i < missing.length; i++) await this.#refcounts.get(place + i);
    // Between a block's entry and its own refcount there is a read where that refcount is in another block.
    await this.#committer.undisturbed(async () => {
      missing.forEach((index, i) => {
        this.#refcounts.addBlock(index, place + i);
        this.#reserved.addTable(hostOffset((place + i) * this.#geometry.clusterSize));
      });
      await this.#refcounts.set(place, missing.length, 1);
    });
  }

  /**
   * Moves the refcount table behind everything it describes today, large enough for `clusters` and then half as many again.
   * Order: new blocks, new table | header | free the old table.
   */
  async #growTable(clusters: number): Promise<void> {
    const { clusterSize, refcountBlockEntries, refcountOrder } = this.#geometry;
    await this.#committer.afterCommit(async () => {
      const first = this.#refcounts.capacity;
      const { tableClusters, blocks } = this.#planTable(first, clusters);
      this.#checked(first, tableClusters + blocks);
      const table = new Uint8Array(tableClusters * clusterSize);
      table.set(this.#refcounts.tableBytes);
      const view = tableView(table);
      const content = new Uint8Array(blocks * clusterSize);
      for (let i = 0; i < blocks; i++) {
        const index = Math.floor(first / refcountBlockEntries) + i;
        writeRefcountTableEntry(view, index, (first + i) * clusterSize);
        const start = index * refcountBlockEntries;
        const end = Math.min(start + refcountBlockEntries, first + blocks + tableClusters);
        const block = content.subarray(i * clusterSize, (i + 1) * clusterSize);
        native.refcountSet(
          block,
          refcountOrder,
          Math.max(first, start) - start,
          end - Math.max(first, start),
          1,
        );
      }
      const offset = hostOffset((first + blocks) * clusterSize);
      const old = { offset: this.#refcounts.tableOffset, length: this.#refcounts.tableBytes.length };
      await this.#storage.write(content, first * clusterSize);
      await this.#storage.write(table, offset);
      await this.#committer.barrier();
      await this.#committer.decisive(async () => {
        await this.#patchHeader({ refcountTableOffset: offset, refcountTableClusters: tableClusters });
        await this.#committer.barrier();
      });
      this.#refcounts.replaceTable(table, offset);
      log(
        '%s: the refcount table moved to offset %d, for %d clusters',
        this.#storage.name,
        offset,
        this.#refcounts.capacity,
      );
      for (let i = 0; i < blocks; i++) this.#reserved.addTable(hostOffset((first + i) * clusterSize));
      this.#reserved.setArea('refcount table', offset, table.length);
      this.#committer.freeLater(old.offset, old.length, false);
    });
  }

  /** How many clusters a table for `clusters` host clusters and for itself takes, and how many new blocks it needs at once. */
  #planTable(first: number, clusters: number): { tableClusters: number; blocks: number } {
    const { clusterSize, refcountBlockEntries } = this.#geometry;
    let blocks = 1;
    let tableClusters = 1;
    for (;;) {
      const covered = Math.max(clusters, first + blocks + tableClusters);
      const entries = Math.ceil(Math.ceil(covered / refcountBlockEntries) * 1.5);
      const bytes = Math.min(alignUp(entries * tableEntrySize, clusterSize), maxRefcountTableBytes);
      const nextTable = bytes / clusterSize;
      const nextBlocks =
        Math.ceil((first + blocks + nextTable) / refcountBlockEntries) - first / refcountBlockEntries;
      if ((bytes / tableEntrySize) * refcountBlockEntries < covered) {
        throw new Qcow2Error(
          'ERR_QCOW2_LIMIT',
          `The image file would need more than ${covered * clusterSize} bytes, past what a refcount table of ` +
            `${maxRefcountTableBytes} bytes can count; use larger clusters or narrower refcounts`,
          { feature: 'refcount table' },
        );
      }
      if (nextTable === tableClusters && nextBlocks === blocks) return { tableClusters, blocks };
      tableClusters = Math.max(tableClusters, nextTable);
      blocks = Math.max(blocks, nextBlocks);
    }
  }

  /** Refuses clusters that hold metadata whatever their refcount says: handing them out would destroy the image. */
  #checked(first: number, count: number): ClusterRun {
    const { clusterSize } = this.#geometry;
    const taken = this.#reserved.overlap(first * clusterSize, count * clusterSize);
    if (taken !== undefined) {
      throw new Qcow2Error(
        'ERR_QCOW2_CORRUPT',
        `The refcounts say that the cluster at offset ${first * clusterSize} is free, but it holds the ${taken}. ` +
          'Nothing was written; repair the image',
        { offset: first * clusterSize, feature: 'refcount' },
      );
    }
    this.allocated += count;
    return { first: hostCluster(first), count };
  }
}
