/** Finds what of an image's disk the layers below it decide, down to those that another disk has as well. */
import { alignDown, alignUp, guestOffset } from '../../format/units.js';
import type { Range } from '../../io/disk-queries.js';
import type { GuestImage } from '../../io/guest-image.js';
import { invalidRun } from '../../metadata/run.js';
import { RunKind } from '../../native.js';
import { layersOf } from '../layers.js';

interface ShownLayer {
  readonly guest: GuestImage | null;
  readonly size: number;
}

/** A range being looked at. */
interface Looking {
  readonly found: Range[];
  /** Told of the layer that has a table which is not in memory. */
  missing: GuestImage | null;
}

export class ShownRanges {
  readonly #layers: readonly ShownLayer[];
  readonly #hasShared: boolean;
  readonly #clusterSize: number;

  /**
   * @param guest an image whose chain consists of this package's own disks
   * @param shared how far below it the first layer is that is left out with all below; Infinity when there is none
   */
  constructor(guest: GuestImage, shared: number) {
    const own = { guest, size: guest.image.header.size };
    const below = guest.backing === null ? [] : layersOf(guest.backing);
    this.#layers = [own, ...below.slice(0, shared - 1)];
    this.#hasShared = shared !== Infinity;
    this.#clusterSize = guest.image.geometry.clusterSize;
  }

  /**
   * The ranges of guest bytes [start, end), whole clusters of the image, in order and joined.
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` for entries that no guest read may follow
   */
  async within(start: number, end: number): Promise<Range[]> {
    const looking: Looking = { found: [], missing: null };
    for (let at = start; at < end;) {
      at = this.#visit(looking, 0, at, end);
      const loading = at < end ? looking.missing?.image.mapping.load(guestOffset(at)) : undefined;
      if (loading !== undefined) await loading;
    }
    return this.#joined(looking.found, end);
  }

  /** Looks at a layer and those below it as far as their tables are in memory; returns where the first one is missing, or `end`. */
  #visit(looking: Looking, index: number, start: number, end: number): number {
    const { found } = looking;
    const layer = this.#layers[index];
    if (layer === undefined) {
      if (!this.#hasShared) found.push({ start, end });
      return end;
    }
    const stop = Math.min(end, layer.size);
    if (layer.guest === null || start >= stop) {
      found.push({ start, end });
      return end;
    }
    const done = this.#visitImage(looking, layer.guest, index, start, stop);
    if (done < stop) return done;
    // Behind the end of a layer there are zeros, whatever those below have.
    if (stop < end) found.push({ start: stop, end });
    return end;
  }

  #visitImage(looking: Looking, guest: GuestImage, index: number, start: number, end: number): number {
    let looked = end;
    const reached = guest.image.mapping.visitCached(
      guestOffset(start),
      end,
      false,
      (kind, at, length, _host, aux) => {
        // Behind a table that is missing further down nothing is looked at yet.
        if (at >= looked) return;
        if (kind === RunKind.invalid) throw invalidRun(at, aux);
        const stop = at + length;
        if (kind === RunKind.unallocated || kind === RunKind.unallocatedInCluster) {
          const done = this.#visit(looking, index + 1, at, stop);
          if (done < stop) looked = done;
        } else if (index > 0) {
          looking.found.push({ start: at, end: stop });
        }
      },
    );
    if (looked <= reached) return looked;
    looking.missing = guest;
    return reached;
  }

  #joined(found: readonly Range[], limit: number): Range[] {
    const ranges: { start: number; end: number }[] = [];
    for (const range of found) {
      const start = alignDown(range.start, this.#clusterSize);
      const end = Math.min(alignUp(range.end, this.#clusterSize), limit);
      const last = ranges.at(-1);
      if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end);
      else ranges.push({ start, end });
    }
    return ranges;
  }
}
