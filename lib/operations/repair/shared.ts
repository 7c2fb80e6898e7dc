/**
 * Giving guest data a host cluster of its own where the one it has cannot be shared: because metadata is there, too, or
 * because more entries refer to it than a refcount can count. The data stays as it can be read now.
 */
import { hasCode } from '../../errors.js';
import { guestOffset, hostOffset, type GuestOffset } from '../../format/units.js';
import { ClusterSet } from '../../metadata/cluster-set.js';
import type { Image } from '../../metadata/image.js';
import type { RunVisitor } from '../../metadata/run.js';
import { RunKind } from '../../native.js';
import { readPadded } from '../../storage/storage.js';
import type { CheckContext } from '../check/context.js';

/** An entry of the active disk whose cluster is to be copied. */
interface Sharer {
  readonly guest: GuestOffset;
  readonly cluster: number;
  /** Whether the refcount knows of the entry's reference. */
  readonly isCounted: boolean;
}

/** All bits of an entry's first word but the host offset; the COPIED flag. */
const flagBits = 0xff00_0000_0000_01ffn;
const copied = 1n << 63n;

/**
 * Copies clusters that a check found to be shared. The refcounts must be right before, as far as they can count, and
 * COPIED flags follow. Returns the number of copies.
 */
export async function separateData(context: CheckContext): Promise<number> {
  const { image, overlapped, uncountable } = context;
  if (overlapped.size + uncountable.size === 0) return 0;
  // With LUKS the place in the file goes into the encryption: a copy of the bytes would not be readable.
  if (image.header.cryptMethod === 'luks' || image.hasDataFile) return 0;
  const wanted = new ClusterSet();
  for (const cluster of [...overlapped, ...uncountable]) wanted.add(cluster);
  const kept = new Set<number>();
  let copies = 0;
  const { l2Coverage } = image.geometry;
  const end = image.mapping.l1Entries * l2Coverage;
  for (let at = image.mapping.nextTable(guestOffset(0), end); at < end;) {
    const stop = (Math.floor(at / l2Coverage) + 1) * l2Coverage;
    for (const sharer of await sharersIn(context, at, stop, wanted, kept)) {
      await copyCluster(image, sharer);
      copies++;
    }
    at = image.mapping.nextTable(guestOffset(stop), end);
  }
  await image.committer.settle();
  return copies;
}

/** The entries for guest bytes [start, end) that must let go of their cluster. */
async function sharersIn(
  { image, overlapped }: CheckContext,
  start: GuestOffset,
  end: number,
  wanted: ClusterSet,
  kept: Set<number>,
): Promise<Sharer[]> {
  const { clusterSize } = image.geometry;
  const sharers: Sharer[] = [];
  const note: RunVisitor = (kind, at, length, host) => {
    if (kind !== RunKind.data && kind !== RunKind.zeroAllocated && kind !== RunKind.unallocatedInCluster)
      return;
    const hostEnd = Math.ceil((host + length) / clusterSize);
    let cluster = wanted.firstIn(Math.floor(host / clusterSize), hostEnd);
    for (; cluster >= 0; cluster = wanted.firstIn(cluster + 1, hostEnd)) {
      const inRun = Math.max(0, cluster * clusterSize - host);
      const guest = guestOffset(Math.floor((at + inRun) / clusterSize) * clusterSize);
      // Extended entries show up as several runs in one cluster.
      if (sharers.at(-1)?.guest === guest) continue;
      const isCounted = overlapped.has(cluster);
      // One entry may keep what cannot be counted more often.
      if (!isCounted && !kept.has(cluster)) kept.add(cluster);
      else sharers.push({ guest, cluster, isCounted });
    }
  };
  try {
    await image.mapping.visit(start, end, false, note);
  } catch (error) {
    // A table that cannot be read was reported, and what it refers to stays as it is.
    if (!hasCode(error, 'ERR_QCOW2_CORRUPT')) throw error;
  }
  return sharers;
}

async function copyCluster(image: Image, { guest, cluster, isCounted }: Sharer): Promise<void> {
  const { allocator, committer, mapping, storage, geometry } = image;
  const { clusterSize, l2EntrySize } = geometry;
  const bytes = new Uint8Array(clusterSize);
  await readPadded(storage, bytes, cluster * clusterSize);
  const { first } = await allocator.allocate(1);
  await storage.write(bytes, first * clusterSize);
  committer.dataWritten();
  await mapping.modify(guest, clusterSize, allocator, committer, (table, start) => {
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    const at = (start / clusterSize) * l2EntrySize;
    const flags = view.getBigUint64(at) & flagBits;
    view.setBigUint64(at, flags | copied | BigInt(first * clusterSize));
  });
  if (isCounted) committer.freeLater(hostOffset(cluster * clusterSize), clusterSize, false);
}
