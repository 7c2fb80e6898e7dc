/** Clusters of an image in use for a batch of copies: data comes before the entries that refer to it. */
import { guestOffset } from '../../format/units.js';
import type { GuestImage } from '../../io/guest-image.js';
import { releaseRuns } from '../../io/release.js';
import type { Run } from '../../metadata/run.js';
import { transferStride } from '../../native.js';
import type { TargetRoom } from '../files/transfer.js';
import { ReservedRoom } from './reserved-room.js';

export class ImageRoom implements TargetRoom {
  readonly #guest: GuestImage;
  readonly #room: ReservedRoom;

  constructor(guest: GuestImage) {
    this.#guest = guest;
    this.#room = new ReservedRoom(guest);
  }

  reserve(bytes: number, units: Float64Array): Promise<number[]> {
    return this.#room.reserve(bytes, units);
  }

  /** Maps what was used, whole clusters, and lets go of what the image had for them. */
  async use(runs: Float64Array): Promise<void> {
    const { mapping, committer } = this.#guest.image;
    committer.dataWritten();
    const replaced: Run[] = [];
    for (let i = 0; i < runs.length; i += transferStride.placed) {
      const [guest = 0, length = 0] = runs.subarray(i, i + transferStride.placed);
      for (const run of await mapping.collect(guestOffset(guest), guest + length)) replaced.push(run);
    }
    await this.#room.use(runs);
    releaseRuns(this.#guest, replaced, false);
    await committer.relieve();
  }

  /** The same where tables may be missing. */
  async useWithTables(runs: Float64Array): Promise<void> {
    let bytes = 0;
    for (let i = 1; i < runs.length; i += transferStride.placed) bytes += runs[i] ?? 0;
    await this.#room.makeTables(runs, bytes / this.#guest.image.geometry.clusterSize);
    await this.use(runs);
  }

  /** Frees what was reserved and not used. */
  giveBack(): void {
    this.#room.giveBack();
  }
}
