/** Clusters of a new image for a batch of compressed data: which of them streams share, and which hold a cluster as it is. */
import { guestOffset, hostOffset } from '../../format/units.js';
import type { GuestImage } from '../../io/guest-image.js';
import { blocksAhead, native, PackingArea, transferStride } from '../../native.js';
import type { TargetRoom } from '../files/transfer.js';
import { ReservedRoom } from './reserved-room.js';

export class CompressedRoom implements TargetRoom {
  /** Where the native jobs pack streams. */
  readonly area = new Float64Array(PackingArea.length);
  readonly #guest: GuestImage;
  readonly #room: ReservedRoom;
  /** Clusters that streams had got before the last job. */
  #streamClusters = 0;

  constructor(guest: GuestImage) {
    this.#guest = guest;
    this.#room = new ReservedRoom(guest);
  }

  reserve(bytes: number, units: Float64Array): Promise<number[]> {
    return this.#room.reserve(bytes + blocksAhead * this.#guest.image.geometry.clusterSize, units);
  }

  /** Each cluster that was reserved has a refcount of 1, which is the first stream's in it. */
  async use(runs: Float64Array): Promise<void> {
    const { clusterSize } = this.#guest.image.geometry;
    const streamClusters = this.area[PackingArea.blocks] ?? 0;
    let used = streamClusters - this.#streamClusters;
    this.#streamClusters = streamClusters;
    for (let first = 0; first < runs.length;) {
      let next = first;
      for (
        let end = runs[first] ?? 0;
        next < runs.length && runs[next] === end;
        next += transferStride.placed
      ) {
        const length = runs[next + 1] ?? 0;
        if (length >= clusterSize) used += length / clusterSize;
        end += Math.max(length, clusterSize);
      }
      await this.#map(runs.subarray(first, next));
      first = next;
    }
    this.#room.drop(used);
    await this.#share(runs);
  }

  /** Frees what is left, also of what streams have ahead. */
  giveBack(): void {
    const { committer, geometry } = this.#guest.image;
    this.#room.giveBack();
    const next = Math.ceil((this.area[PackingArea.next] ?? 0) / geometry.clusterSize) * geometry.clusterSize;
    const end = this.area[PackingArea.end] ?? 0;
    if (next < end) committer.freeLater(hostOffset(next), end - next, false);
    this.area.fill(0);
  }

  /** Maps runs that follow one another on the disk. */
  async #map(runs: Float64Array): Promise<void> {
    const { mapping, allocator, committer, geometry } = this.#guest.image;
    const { clusterSize, clusterBits } = geometry;
    const start = runs[0] ?? 0;
    const last = runs.length - transferStride.placed;
    const end = (runs[last] ?? 0) + Math.max(runs[last + 1] ?? 0, clusterSize);
    let index = 0;
    await mapping.modify(guestOffset(start), end - start, allocator, committer, (table, at, part, from) => {
      for (; index < runs.length; index += transferStride.placed) {
        const guest = runs[index] ?? 0;
        const length = runs[index + 1] ?? 0;
        const host = runs[index + 2] ?? 0;
        if (guest >= from + part) break;
        if (length < clusterSize) {
          const entry = (at + (guest - from)) / clusterSize;
          native.l2SetCompressed(table, mapping.l2Flags, clusterBits, entry, hostOffset(host), length);
          continue;
        }
        const begin = Math.max(guest, from);
        const stop = Math.min(guest + length, from + part);
        const place = host + (begin - guest);
        native.l2SetData(table, mapping.l2Flags, clusterBits, at + (begin - from), stop - begin, place);
        // The rest belongs to the next table.
        if (guest + length > stop) break;
      }
    });
  }

  /** Adds the references of streams that begin in a cluster in which others are already. */
  async #share(runs: Float64Array): Promise<void> {
    const { refcounts, committer, geometry } = this.#guest.image;
    const { clusterSize } = geometry;
    let cluster = 0;
    let count = 0;
    for (let i = 0; i < runs.length; i += transferStride.placed) {
      const host = runs[i + 2] ?? 0;
      if ((runs[i + 1] ?? 0) >= clusterSize || host % clusterSize === 0) continue;
      const begin = Math.floor(host / clusterSize);
      if (begin !== cluster && count > 0) await refcounts.add(cluster, 1, count);
      if (begin !== cluster) count = 0;
      cluster = begin;
      count += 1;
    }
    if (count > 0) await refcounts.add(cluster, 1, count);
    await committer.relieve();
  }
}
