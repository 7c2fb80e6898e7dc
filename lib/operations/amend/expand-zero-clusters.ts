/** Replaces clusters that say they are zeros, which version 2 cannot express, by stored zeros or by nothing. */
import { alignDown, alignUp, guestOffset, hostOffset } from '../../format/units.js';
import type { GuestImage } from '../../io/guest-image.js';
import { releaseRuns } from '../../io/release.js';
import { checkRuns, writeGuest } from '../../io/write.js';
import type { Run } from '../../metadata/run.js';
import { native, RunKind } from '../../native.js';
import type { CheckProgress } from '../check/reader.js';

const chunkBytes = 1024 * 1024;

/** The image has neither snapshots nor extended L2 entries, and nobody else changes it meanwhile. */
export async function expandZeroClusters(guest: GuestImage, progress: CheckProgress): Promise<void> {
  const { image, backing } = guest;
  const { mapping, geometry, header } = image;
  const end = mapping.l1Entries * geometry.l2Coverage;
  // Clusters from here on show nothing when they have no entry.
  const hiddenEnd = Math.min(
    alignUp(backing?.size ?? 0, geometry.clusterSize),
    alignUp(header.size, geometry.clusterSize),
  );
  progress.expect(end);
  for (let at: number = mapping.nextTable(guestOffset(0), end); at < end;) {
    const stop = Math.min(end, mapping.sliceEnd(guestOffset(at)));
    const runs = await mapping.collect(guestOffset(alignDown(at, geometry.clusterSize)), stop);
    await checkRuns(guest, runs);
    for (const run of runs) {
      if (run.kind !== RunKind.zero && run.kind !== RunKind.zeroAllocated) continue;
      const border = Math.min(Math.max(run.start, hiddenEnd), run.start + run.length);
      await storeZeros(guest, run.start, Math.min(border, header.size));
      await dropRun(guest, run, border);
    }
    await image.committer.relieve();
    const next = mapping.nextTable(guestOffset(stop), end);
    progress.step(next - at);
    at = next;
  }
}

async function storeZeros(guest: GuestImage, start: number, end: number): Promise<void> {
  const zeros = new Uint8Array(Math.min(chunkBytes, Math.max(0, end - start)));
  for (let at = start; at < end; at += chunkBytes) {
    await writeGuest(guest, zeros.subarray(0, Math.min(chunkBytes, end - at)), guestOffset(at));
    await guest.image.committer.relieve();
  }
}

/** Forgets the part of a run from `start` on. */
async function dropRun(guest: GuestImage, run: Run, start: number): Promise<void> {
  const { mapping, allocator, committer, geometry } = guest.image;
  const length = run.start + run.length - start;
  if (length === 0) return;
  const unlock = await guest.locks.exclusive(start, start + length);
  try {
    await mapping.modify(guestOffset(start), length, allocator, committer, (table, at, part) => {
      native.l2SetUnallocated(table, mapping.l2Flags, geometry.clusterBits, at, part);
    });
    const skipped = start - run.start;
    releaseRuns(
      guest,
      [{ ...run, start: guestOffset(start), length, host: hostOffset(run.host + skipped) }],
      true,
    );
  } finally {
    unlock();
  }
}
