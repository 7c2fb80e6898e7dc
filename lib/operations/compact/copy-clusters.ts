/** Copying host clusters within an image file: neighbours together, and encrypted data made what it must be at its new place. */
import { cryptSectorSize } from '../../io/encryption/crypt-sector.js';
import type { GuestImage } from '../../io/guest-image.js';
import { settleAll } from '../../storage/settle.js';
import { readPadded } from '../../storage/storage.js';

/** Reads under way at once. */
const maxInFlight = 16;

/**
 * Copies the cluster at host offset `from[i]` to `to[i]`, for all i; nothing of it is durable yet. What the end of the file
 * cuts off of a cluster counts as zeros.
 */
export async function copyClusters(guest: GuestImage, from: Float64Array, to: Float64Array): Promise<void> {
  if (from.length === 0) return;
  const { storage, committer, geometry } = guest.image;
  const { clusterSize } = geometry;
  const buffer = new Uint8Array(from.length * clusterSize);
  const part = (first: number, end: number): Uint8Array =>
    buffer.subarray(first * clusterSize, end * clusterSize);
  await eachRun(from, clusterSize, (first, end) => readPadded(storage, part(first, end), from[first] ?? 0));
  if (guest.cipher?.sectors === 'host') {
    const { cipher } = guest.cipher;
    for (let i = 0; i < from.length; i++) {
      cipher.decrypt(part(i, i + 1), (from[i] ?? 0) / cryptSectorSize);
      cipher.encrypt(part(i, i + 1), (to[i] ?? 0) / cryptSectorSize);
    }
  }
  await eachRun(to, clusterSize, (first, end) => storage.write(part(first, end), to[first] ?? 0));
  committer.dataWritten();
}

/** Calls `work` with the indexes of each run of neighbouring clusters, some of them at once. */
async function eachRun(
  offsets: Float64Array,
  clusterSize: number,
  work: (first: number, end: number) => Promise<void>,
): Promise<void> {
  let inFlight: Promise<void>[] = [];
  for (let first = 0; first < offsets.length;) {
    let end = first + 1;
    while (end < offsets.length && offsets[end] === (offsets[end - 1] ?? 0) + clusterSize) end++;
    inFlight.push(work(first, end));
    if (inFlight.length === maxInFlight) {
      await settleAll(inFlight);
      inFlight = [];
    }
    first = end;
  }
  await settleAll(inFlight);
}
