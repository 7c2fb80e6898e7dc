/**
 * Gives all that an L1 table refers to one more owner, a copy of that table, or takes it back:
 *
 *   COPIED cleared, the copy | refcounts + 1 | whatever makes the copy count        (`|` is a barrier)
 */
import { tableEntrySize } from '../../format/geometry.js';
import { alignUp, hostOffset, type HostOffset } from '../../format/units.js';
import type { Image } from '../../metadata/image.js';
import { CheckProgress } from '../check/reader.js';
import { setMissingCopied } from './copied-flags.js';
import type { JobParts } from '../jobs/parts.js';
import {
  clearCopiedInL1,
  clearCopiedInTables,
  dropTree,
  raiseRefcounts,
  sharedL1,
  type SnapshotTree,
} from './tree.js';

/** A copy of an L1 table in the file. */
export interface SharedL1 {
  readonly offset: HostOffset;
  readonly entries: number;
}

/** Bytes of the refcount blocks. */
export const refcountWeight = ({ refcounts, geometry }: Image): number =>
  [...refcounts.blocks()].length * geometry.clusterSize;

/**
 * Shares a tree with a copy of its L1 table. Stopped or failed, it leaves all as it was.
 * @param active whether the L1 table is that of the active disk, whose own COPIED flags go as well
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when refcounts are too narrow; the signal's reason
 */
export async function shareTree(
  image: Image,
  tree: SnapshotTree,
  l1: Uint8Array,
  active: boolean,
  parts: JobParts,
): Promise<SharedL1> {
  const { committer, mapping, geometry } = image;
  const copy = await placeL1(image, sharedL1(l1));
  try {
    await clearCopiedInTables(image, tree, parts.part(tree.tables.length * geometry.clusterSize));
    const changed = active ? clearCopiedInL1(mapping.l1Bytes) : null;
    if (changed !== null) mapping.dirtyL1.add(changed.start, changed.end);
    await committer.settle();
    await committer.barrier();
    await raiseRefcounts(image, tree, parts.part(refcountWeight(image)));
    await committer.settle();
    await committer.barrier();
  } catch (error) {
    freeL1(image, copy);
    await committer.settle();
    await setMissingCopied(image, new CheckProgress({}));
    throw error;
  }
  return copy;
}

/** Takes back what {@link shareTree} did, while nothing refers to the copy. */
export async function unshareTree(image: Image, tree: SnapshotTree, copy: SharedL1): Promise<void> {
  await dropTree(image, tree, new CheckProgress({}));
  freeL1(image, copy);
  await image.committer.settle();
  await setMissingCopied(image, new CheckProgress({}));
}

/** Writes an L1 table to clusters of its own. */
async function placeL1(
  { allocator, geometry, storage, committer }: Image,
  l1: Uint8Array,
): Promise<SharedL1> {
  const entries = l1.length / tableEntrySize;
  if (entries === 0) return { offset: hostOffset(0), entries };
  const padded = new Uint8Array(alignUp(l1.length, geometry.clusterSize));
  padded.set(l1);
  const first = await allocator.allocateContiguous(padded.length / geometry.clusterSize);
  const offset = hostOffset(first * geometry.clusterSize);
  try {
    await storage.write(padded, offset);
  } catch (error) {
    committer.freeLater(offset, padded.length, true);
    throw error;
  }
  return { offset, entries };
}

/** Frees an L1 table that nothing durable refers to. */
export function freeL1({ committer }: Image, { offset, entries }: SharedL1): void {
  if (entries > 0) committer.freeLater(offset, entries * tableEntrySize, true);
}
