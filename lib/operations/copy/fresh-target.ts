/**
 * A new image that nobody else uses: clusters are taken and mapped in the order of the disk, then the bytes follow. Entries
 * may run ahead of the bytes here, because the image counts for nothing before all of it is written.
 */
import { alignDown, alignUp, guestOffset, hostOffset } from '../../format/units.js';
import type { Range } from '../../io/disk-queries.js';
import type { GuestImage } from '../../io/guest-image.js';
import { storeData } from '../../io/store.js';
import { native } from '../../native.js';
import { settleAll } from '../../storage/settle.js';
import type { Storage } from '../../storage/storage.js';
import type { Chunk, CopyTarget } from './target.js';
import type { FileTarget } from '../files/transfer.js';
import { isPlainFile } from '../files/plain-file.js';
import { ReservedRoom } from './reserved-room.js';
import type { Turn } from '../jobs/turns.js';

/** Bytes of a chunk and where in the file they go. */
interface Placed extends Range {
  readonly host: number;
}

export class FreshTarget implements CopyTarget {
  readonly unit: number;
  readonly zeroUnit: number;
  readonly startsZero = true;
  readonly file?: FileTarget;
  readonly #guest: GuestImage;
  readonly #room: ReservedRoom;
  /** Of a plain file. */
  readonly #storage?: Storage;

  /** @param storage that the image is in */
  constructor(guest: GuestImage, storage: Storage) {
    this.#guest = guest;
    this.unit = guest.image.geometry.clusterSize;
    this.zeroUnit = guest.image.geometry.subclusterSize;
    this.#room = new ReservedRoom(guest);
    if (!isPlainFile(storage) || guest.cipher !== null || this.zeroUnit !== this.unit) return;
    this.file = { storage, room: this.#room, isCutInTheEnd: true };
    this.#storage = storage;
  }

  /** Gives back what was taken and not used: clusters, and space behind the end of the file, which the tables may need. */
  async finish(): Promise<void> {
    this.#room.giveBack();
    await this.#storage?.truncate(await this.#storage.size());
  }

  async write({ start, bytes, data }: Chunk, turn: Turn): Promise<void> {
    await turn.begins;
    const placed = await placeClusters(this.#guest, start, data);
    turn.end();
    await storePlaced(this.#guest, start, bytes, placed);
  }

  zero(): Promise<void> {
    return Promise.resolve();
  }
}

/** Takes clusters for `runs`, which are relative to `start`, and maps them. */
export async function placeClusters(
  { image }: GuestImage,
  start: number,
  runs: readonly Range[],
): Promise<Placed[]> {
  const { mapping, allocator, committer, geometry } = image;
  const { clusterSize, clusterBits, subclusterSize } = geometry;
  const placed: Placed[] = [];
  for (const group of clusterGroups(start, runs, clusterSize)) {
    for (let at = group.start; at < group.end;) {
      await committer.relieve();
      const { first, count } = await allocator.allocate((group.end - at) / clusterSize);
      const host = first * clusterSize;
      const stop = at + count * clusterSize;
      for (const run of group.runs) {
        const from = Math.max(start + run.start, at);
        const to = Math.min(start + run.end, stop);
        if (from >= to) continue;
        const base = at;
        const length = alignUp(to - from, subclusterSize);
        await mapping.modify(
          guestOffset(from),
          length,
          allocator,
          committer,
          (table, tableAt, part, guest) => {
            const place = host + alignDown(guest - base, clusterSize);
            native.l2SetData(table, mapping.l2Flags, clusterBits, tableAt, part, place);
          },
        );
        placed.push({ start: from - start, end: to - start, host: host + (from - at) });
      }
      at = stop;
    }
  }
  return placed;
}

/** Runs that share clusters or are neighbours, with the clusters they need, as positions on the disk. */
function clusterGroups(
  start: number,
  runs: readonly Range[],
  clusterSize: number,
): (Range & { readonly runs: Range[] })[] {
  const groups: { start: number; end: number; runs: Range[] }[] = [];
  for (const run of runs) {
    const from = alignDown(start + run.start, clusterSize);
    const to = alignUp(start + run.end, clusterSize);
    const last = groups.at(-1);
    if (last !== undefined && from <= last.end) {
      last.end = to;
      last.runs.push(run);
    } else {
      groups.push({ start: from, end: to, runs: [run] });
    }
  }
  return groups;
}

export async function storePlaced(
  guest: GuestImage,
  start: number,
  bytes: Uint8Array,
  placed: readonly Placed[],
): Promise<void> {
  await settleAll(
    placed.map((run) =>
      storeData(
        guest,
        [bytes.subarray(run.start, run.end)],
        guestOffset(start + run.start),
        hostOffset(run.host),
      ),
    ),
  );
}
