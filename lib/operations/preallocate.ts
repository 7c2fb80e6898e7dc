/** Giving guest ranges their clusters before anything is written to them. */
import { alignUp, guestOffset, hostOffset } from '../format/units.js';
import type { GuestImage } from '../io/guest-image.js';
import { native } from '../native.js';
import { writeZeros, type Storage } from '../storage/storage.js';
import type { PartedJob } from './job-parts.js';

/** What is written without looking whether to stop, bytes: a multiple of every cluster size. */
const fullChunkBytes = 64 * 1024 * 1024;

export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';

/**
 * Maps guest bytes [start, end), which nothing is mapped to yet, to clusters that read as zeros. `start` is a multiple of
 * the cluster size. The caller holds the exclusive lock on the range.
 * @throws the signal's reason, with a part of the range mapped
 */
export async function preallocate(
  guest: GuestImage,
  start: number,
  end: number,
  mode: Exclude<Preallocation, 'off'>,
  { signal, onProgress }: PartedJob,
): Promise<void> {
  const { image } = guest;
  const { clusterSize, clusterBits, l2Coverage } = image.geometry;
  const fileEnd = await image.dataStorage.size();
  let highest = 0;
  const stop = alignUp(end, clusterSize);
  for (let at = start; at < stop;) {
    signal?.throwIfAborted();
    await image.committer.relieve();
    // Tables first, so that they lie before the data they describe, as in images made by QEMU.
    const tableEnd = Math.min(stop, at - (at % l2Coverage) + l2Coverage);
    const part = mode === 'full' ? Math.min(tableEnd - at, fullChunkBytes) : tableEnd - at;
    await image.mapping.ensureTables(guestOffset(at), part, image.allocator, image.committer);
    const run = await place(guest, at, part / clusterSize);
    const length = run.count * clusterSize;
    await prepare(image.dataStorage, run.host, length, mode, fileEnd);
    highest = Math.max(highest, run.host + length);
    await image.mapping.modify(
      guestOffset(at),
      length,
      image.allocator,
      image.committer,
      (table, from, bytes, guestAt) => {
        const { l2Flags } = image.mapping;
        native.l2SetData(table, l2Flags, clusterBits, from, bytes, run.host + (guestAt - at));
        // The zeros in the file would be decrypted to noise.
        if (guest.cipher !== null) native.l2SetZero(table, l2Flags, clusterBits, from, bytes, true);
      },
    );
    at += length;
    onProgress?.({ done: at - start, total: stop - start });
  }
  if (highest > (await image.dataStorage.size())) await image.dataStorage.truncate(highest);
  image.committer.dataWritten();
}

async function place(guest: GuestImage, at: number, count: number): Promise<{ host: number; count: number }> {
  if (guest.image.hasDataFile) return { host: at, count };
  const { first, count: got } = await guest.image.allocator.allocate(count);
  return { host: hostOffset(first * guest.image.geometry.clusterSize), count: got };
}

/** What is behind the end of the file reads as zeros once the file grows; what is before may be left from something else. */
async function prepare(
  storage: Storage,
  host: number,
  length: number,
  mode: Exclude<Preallocation, 'off'>,
  fileEnd: number,
): Promise<void> {
  const old = Math.min(length, Math.max(0, fileEnd - host));
  if (mode === 'full') return writeZeros(storage, host, length);
  if (old > 0 && (await storage.punch?.(host, old)) !== true) await writeZeros(storage, host, old);
  if (mode === 'falloc' && (await storage.allocate?.(host, length)) !== true)
    await writeZeros(storage, host, length);
}
