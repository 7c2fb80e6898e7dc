/** Clusters of a new image that are taken for a whole batch of copies, before it is known how many of them it needs. */
import { alignUp, guestOffset, hostCluster, hostOffset } from '../../format/units.js';
import type { GuestImage } from '../../io/guest-image.js';
import type { ClusterRun } from '../../metadata/allocator.js';
import { native, transferStride } from '../../native.js';
import type { TargetRoom } from '../files/transfer.js';

export class ReservedRoom implements TargetRoom {
  readonly #guest: GuestImage;
  /** In the order in which they will be used. */
  #runs: ClusterRun[] = [];
  /** Guest bytes from here on have no L2 tables yet. */
  #tablesEnd = 0;

  constructor(guest: GuestImage) {
    this.#guest = guest;
  }

  /** Host position and length of runs with `bytes` or more, for units of the disk. */
  async reserve(bytes: number, units: Float64Array): Promise<number[]> {
    const { allocator, committer, geometry } = this.#guest.image;
    await this.makeTables(units, 0);
    let missing = bytes / geometry.clusterSize - this.#runs.reduce((sum, { count }) => sum + count, 0);
    while (missing > 0) {
      await committer.relieve();
      const run = await allocator.allocate(missing);
      this.#runs.push({ ...run });
      missing -= run.count;
    }
    return this.#runs.flatMap(({ first, count }) => [
      first * geometry.clusterSize,
      count * geometry.clusterSize,
    ]);
  }

  /** Maps what was used: guest position, length, host position of each run, taken from the front. */
  async use(runs: Float64Array): Promise<void> {
    const { mapping, allocator, committer, geometry } = this.#guest.image;
    for (let i = 0; i < runs.length; i += transferStride.placed) {
      const [guest = 0, length = 0, host = 0] = runs.subarray(i, i + transferStride.placed);
      // First of all: were it given back when mapping a part of it fails, entries would refer to free clusters.
      this.drop(length / geometry.clusterSize);
      await mapping.modify(guestOffset(guest), length, allocator, committer, (table, at, part, from) => {
        const place = host + (from - guest);
        native.l2SetData(table, mapping.l2Flags, geometry.clusterBits, at, part, place);
      });
    }
  }

  /**
   * Makes the tables for ranges in order, whose rows begin with guest position and length. They come before the room that is not used yet,
   * so that what is given back is at the end of the file.
   * @param used how many clusters of the room, from the front, will be used all the same
   */
  async makeTables(rows: Float64Array, used: number): Promise<void> {
    const { mapping, allocator, committer, geometry } = this.#guest.image;
    for (let i = 0; i < rows.length; i += transferStride.unit) {
      const [start = 0, length = 0] = rows.subarray(i, i + transferStride.unit);
      if (start + length <= this.#tablesEnd) continue;
      if (this.#runs.length > 0 && !mapping.ownsTables(guestOffset(start), length)) {
        this.#giveBackBehind(used);
        await committer.settle();
      }
      await mapping.ensureTables(guestOffset(start), length, allocator, committer);
      this.#tablesEnd = alignUp(start + length, geometry.l2Coverage);
    }
  }

  /** Frees what is left. */
  giveBack(): void {
    this.#giveBackBehind(0);
  }

  /** Frees all but `count` clusters from the front. */
  #giveBackBehind(count: number): void {
    const { committer, geometry } = this.#guest.image;
    const all = this.#runs;
    this.#runs = [];
    let kept = count;
    for (const run of all) {
      const part = Math.min(kept, run.count);
      kept -= part;
      if (part > 0) this.#runs.push({ first: run.first, count: part });
      const rest = run.count - part;
      if (rest === 0) continue;
      const start = (run.first + part) * geometry.clusterSize;
      committer.freeLater(hostOffset(start), rest * geometry.clusterSize, false);
    }
  }

  /** Says that `count` clusters from the front are in use now. */
  drop(count: number): void {
    let rest = count;
    for (let run = this.#runs[0]; run !== undefined && rest > 0; [run] = this.#runs) {
      const part = Math.min(rest, run.count);
      rest -= part;
      if (part === run.count) this.#runs.shift();
      else this.#runs[0] = { first: hostCluster(run.first + part), count: run.count - part };
    }
  }
}
