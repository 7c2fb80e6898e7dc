/** Giving guest ranges their clusters before anything is written to them. */
import { alignDown, alignUp, guestOffset, hostOffset, type HostOffset } from '../format/units.js';
import type { GuestImage } from '../io/guest-image.js';
import { native } from '../native.js';
import { pageBytes } from '../storage/page-bytes.js';
import { InFlight } from '../storage/settle.js';
import { writeZeros, type Storage } from '../storage/storage.js';
import type { PartedJob } from './jobs/parts.js';

/** What is written without looking whether to stop, bytes: a multiple of every cluster size. */
const fullChunkBytes = 64 * 1024 * 1024;

/** New tables on their way to the file at a time, and the bytes of them. */
const maxTablesInFlight = 16;
const maxTableBytes = 8 * 1024 * 1024;

export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';

/**
 * What the entries say of the clusters: data, which reads as zeros; zeros, whatever is in the clusters; or, with extended L2
 * entries, nothing, so that a backing file shows.
 */
export type PreallocatedAs = 'data' | 'zero' | 'nothing';

/** Guest bytes and the clusters they got. */
interface Placed {
  readonly at: number;
  readonly host: HostOffset;
  readonly length: number;
}

/**
 * Maps guest bytes [start, end), which nothing is mapped to yet, to clusters that hold zeros. `start` is a multiple of
 * the cluster size. The caller holds the exclusive lock on the range.
 * @throws the signal's reason, with a part of the range mapped
 */
export async function preallocate(
  guest: GuestImage,
  start: number,
  end: number,
  mode: Exclude<Preallocation, 'off'>,
  { signal, onProgress }: PartedJob,
  as: PreallocatedAs = 'data',
): Promise<void> {
  const { image } = guest;
  const { clusterSize, l2Coverage } = image.geometry;
  const fileEnd = await image.dataStorage.size();
  // The zeros in the file would be decrypted to noise.
  const entries = as === 'data' && guest.cipher !== null ? 'zero' : as;
  const tables = new NewTables(guest, entries);
  let highest = 0;
  const stop = alignUp(end, clusterSize);
  try {
    for (let at = start; at < stop;) {
      signal?.throwIfAborted();
      await image.committer.relieve();
      const tableEnd = Math.min(stop, alignDown(at, l2Coverage) + l2Coverage);
      const isNew = mode !== 'full' && image.mapping.tableAt(Math.floor(at / l2Coverage)) === 0;
      // Tables first, so that they lie before the data they describe, as in images made by QEMU.
      if (isNew) await tables.begin(at);
      const part = mode === 'full' ? Math.min(tableEnd - at, fullChunkBytes) : tableEnd - at;
      if (!isNew) await image.mapping.ensureTables(guestOffset(at), part, image.allocator, image.committer);
      for (const partEnd = at + part; at < partEnd;) {
        const placed = await place(guest, at, partEnd - at);
        await prepare(image.dataStorage, placed, mode, fileEnd);
        highest = Math.max(highest, placed.host + placed.length);
        if (isNew) tables.map(placed);
        else await mapIn(guest, placed, entries);
        at += placed.length;
      }
      if (isNew) await tables.end();
      onProgress?.({ done: at - start, total: stop - start });
    }
  } finally {
    await tables.finish();
  }
  if (highest > (await image.dataStorage.size())) await image.dataStorage.truncate(highest);
  image.committer.dataWritten();
}

async function place({ image }: GuestImage, at: number, length: number): Promise<Placed> {
  const { clusterSize } = image.geometry;
  if (image.hasDataFile) return { at, host: hostOffset(at), length };
  const { first, count } = await image.allocator.allocate(length / clusterSize);
  return { at, host: hostOffset(first * clusterSize), length: count * clusterSize };
}

/** What is behind the end of the file reads as zeros once the file grows; what is before may be left from something else. */
async function prepare(
  storage: Storage,
  { host, length }: Placed,
  mode: Exclude<Preallocation, 'off'>,
  fileEnd: number,
): Promise<void> {
  const old = Math.min(length, Math.max(0, fileEnd - host));
  if (mode === 'full') return writeZeros(storage, host, length);
  if (old > 0 && (await storage.punch?.(host, old)) !== true) await writeZeros(storage, host, old);
  if (mode === 'falloc' && (await storage.allocate?.(host, length)) !== true)
    await writeZeros(storage, host, length);
}

/** Maps what was placed in the range of an L2 table that is there. */
function mapIn(guest: GuestImage, { at, host, length }: Placed, as: PreallocatedAs): Promise<void> {
  const { mapping, allocator, committer } = guest.image;
  return mapping.modify(guestOffset(at), length, allocator, committer, (table, from, bytes, guestAt) =>
    setEntries(guest, table, from, bytes, host + (guestAt - at), as),
  );
}

function setEntries(
  { image }: GuestImage,
  table: Uint8Array,
  from: number,
  bytes: number,
  host: number,
  as: PreallocatedAs,
): void {
  const { l2Flags } = image.mapping;
  const { clusterBits, clusterSize, l2EntrySize } = image.geometry;
  native.l2SetData(table, l2Flags, clusterBits, from, bytes, host);
  if (as === 'zero') native.l2SetZero(table, l2Flags, clusterBits, from, bytes, true);
  if (as !== 'nothing') return;
  // The second half of an entry has the states of the subclusters.
  const [first, end] = [from / clusterSize, (from + bytes) / clusterSize];
  for (let i = first; i < end; i++) table.fill(0, i * l2EntrySize + l2EntrySize / 2, (i + 1) * l2EntrySize);
}

interface NewTable {
  /** Its L1 entry. */
  readonly index: number;
  readonly offset: HostOffset;
  readonly bytes: Uint8Array;
  readonly placed: Placed[];
}

/**
 * L2 tables that are made as a whole: each is in the file before its L1 entry is set, so that none goes through the cache.
 */
class NewTables {
  readonly #guest: GuestImage;
  readonly #as: PreallocatedAs;
  readonly #spare: Uint8Array[] = [];
  #present: NewTable | undefined;
  #inFlight = new InFlight();

  constructor(guest: GuestImage, as: PreallocatedAs) {
    this.#guest = guest;
    this.#as = as;
  }

  /** Begins the table for guest offset `at`, which has none. */
  async begin(at: number): Promise<void> {
    const { allocator, geometry } = this.#guest.image;
    const { first } = await allocator.allocate(1);
    const bytes = this.#spare.pop()?.fill(0) ?? pageBytes(geometry.clusterSize);
    const index = Math.floor(at / geometry.l2Coverage);
    this.#present = { index, offset: hostOffset(first * geometry.clusterSize), bytes, placed: [] };
  }

  map(placed: Placed): void {
    if (this.#present === undefined) return;
    const from = placed.at % this.#guest.image.geometry.l2Coverage;
    setEntries(this.#guest, this.#present.bytes, from, placed.length, placed.host, this.#as);
    this.#present.placed.push(placed);
  }

  /** The table is complete. */
  async end(): Promise<void> {
    if (this.#present === undefined) return;
    this.#inFlight.add(this.#write(this.#present));
    this.#present = undefined;
    const { clusterSize } = this.#guest.image.geometry;
    const most = Math.max(1, Math.min(maxTablesInFlight, maxTableBytes / clusterSize));
    if (this.#inFlight.count >= most) await this.#settle();
  }

  /** Waits for all of them; gives back what was taken for one that was not completed. */
  async finish(): Promise<void> {
    if (this.#present !== undefined) this.#giveBack(this.#present);
    await this.#settle();
  }

  #settle(): Promise<void> {
    const inFlight = this.#inFlight;
    this.#inFlight = new InFlight();
    return inFlight.settled();
  }

  async #write(table: NewTable): Promise<void> {
    const { storage, mapping, committer } = this.#guest.image;
    try {
      await storage.write(table.bytes, table.offset);
    } catch (error) {
      this.#giveBack(table);
      throw error;
    }
    committer.dataWritten();
    mapping.adoptTable(table.index, table.offset);
    this.#spare.push(table.bytes);
  }

  #giveBack({ offset, placed }: NewTable): void {
    const { committer, geometry, hasDataFile } = this.#guest.image;
    committer.freeLater(offset, geometry.clusterSize, false);
    if (hasDataFile) return;
    for (const { host, length } of placed) committer.freeLater(host, length, false);
  }
}
