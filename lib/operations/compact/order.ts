/**
 * Sorting the clusters of the active disk by their guest offset. All that can be moved goes behind the end of the file first;
 * what is free then is filled from the front, in the order of the disk, by the compaction that follows. The file is longer
 * meanwhile, but takes no more space, as the old places become holes.
 */
import { guestOffset, hostCluster } from '../../format/units.js';
import { RunKind } from '../../native.js';
import { moveOwnData } from './data.js';
import type { CompactJob } from './job.js';

/**
 * Moves the active disk's own clusters out of the way, unless they are in order.
 * @returns clusters that were taken for counting those of the longer file
 */
export async function clearForOrder(job: CompactJob): Promise<number> {
  const { image, clusterSize } = job;
  if (image.hasDataFile || (await isInOrder(job))) return 0;
  const { refcounts } = image;
  const countUsed = (): Promise<number> => job.quietly(() => refcounts.countUsed(0, refcounts.capacity));
  const before = await countUsed();
  const end = await job.quietly(() => refcounts.usedEnd());
  // Once behind the end, and once back.
  job.expect(2 * before * clusterSize);
  await job.awayFrom(hostCluster(end), () => moveOwnData(job));
  return Math.max(0, (await countUsed()) - before);
}

/** Whether what belongs to the active disk alone lies in the file in the order in which it lies on the disk. */
async function isInOrder(job: CompactJob): Promise<boolean> {
  const { image } = job;
  const { l2Coverage } = image.geometry;
  const end = image.mapping.l1Entries * l2Coverage;
  let last = 0;
  const found = { descent: false };
  for (let at = image.mapping.nextTable(guestOffset(0), end); at < end && !found.descent;) {
    const stop = image.mapping.sliceEnd(at);
    const owned = image.mapping.ownsTable(Math.floor(at / l2Coverage));
    await image.mapping.visit(at, stop, true, (kind, _start, length, host, aux) => {
      if (!owned || aux !== 1 || (kind !== RunKind.data && kind !== RunKind.zeroAllocated)) return;
      if (host < last) found.descent = true;
      last = host + length;
    });
    job.throwIfAborted();
    at = image.mapping.nextTable(stop, end);
  }
  return !found.descent;
}
