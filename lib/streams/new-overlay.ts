/** A new image on a backing file that is not open: takes whole (sub)clusters, which need nothing of that file. */
import { alignUp, guestOffset } from '../format/units.js';
import type { Range } from '../io/disk-queries.js';
import type { GuestImage } from '../io/guest-image.js';
import { writeGuest } from '../io/write.js';
import { native } from '../native.js';
import type { Chunk, CopyTarget } from '../operations/copy/target.js';
import type { Turn } from '../operations/jobs/turns.js';

export class NewOverlay implements CopyTarget {
  readonly unit: number;
  readonly zeroUnit: number;
  readonly startsZero = false;
  readonly #guest: GuestImage;

  constructor(guest: GuestImage) {
    this.#guest = guest;
    this.unit = guest.image.geometry.subclusterSize;
    this.zeroUnit = this.unit;
  }

  async write({ start, bytes }: Chunk, turn: Turn): Promise<void> {
    await turn.begins;
    await this.#guest.image.committer.relieve();
    await writeGuest(this.#guest, bytes, guestOffset(start));
  }

  /** Hides what the backing file may have there. */
  async zero({ start, end }: Range): Promise<void> {
    const { mapping, allocator, committer, geometry } = this.#guest.image;
    const stop = alignUp(end, this.unit);
    for (let at = start; at < stop;) {
      await committer.relieve();
      const next = Math.min(stop, mapping.sliceEnd(guestOffset(at)));
      await mapping.modify(guestOffset(at), next - at, allocator, committer, (table, first, length) => {
        native.l2SetZero(table, mapping.l2Flags, geometry.clusterBits, first, length, false);
      });
      at = next;
    }
  }
}
