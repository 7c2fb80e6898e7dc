/** The snapshot table in the file: reading it, and putting a new one in its place. */
import { encodeSnapshotTable, parseSnapshotTable, type SnapshotEntry } from '../format/snapshot-table.js';
import { alignUp, hostOffset } from '../format/units.js';
import { readExactly } from '../storage/storage.js';
import type { Image } from './image.js';

/** What is read at first of a table whose length its entries alone tell, bytes. */
const firstRead = 64 * 1024;

/** The entries of the snapshot table, read as far as they go. */
export async function readSnapshotTable({
  storage,
  header,
}: Pick<Image, 'storage' | 'header'>): Promise<readonly SnapshotEntry[]> {
  if (header.nbSnapshots === 0) return [];
  const available = Math.max(0, (await storage.size()) - header.snapshotsOffset);
  for (let wanted = firstRead; ; wanted *= 2) {
    const bytes = new Uint8Array(Math.min(wanted, available));
    await readExactly(storage, bytes, header.snapshotsOffset, 'the snapshot table');
    const table = parseSnapshotTable(bytes, header.nbSnapshots, header.snapshotsOffset, available);
    if (table !== null) return table.entries;
  }
}

/**
 * Puts a table of other entries in the place of the present one, in one step that a crash cannot split.
 * Order: refcounts and all that was written before, table | header | free the old table.
 */
export async function replaceSnapshotTable(
  image: Image,
  before: readonly SnapshotEntry[],
  after: readonly SnapshotEntry[],
): Promise<void> {
  const { allocator, committer, geometry, storage, header } = image;
  const table = encodeSnapshotTable(after);
  const padded = new Uint8Array(alignUp(table.length, geometry.clusterSize));
  padded.set(table);
  let snapshotsOffset = hostOffset(0);
  if (table.length > 0) {
    const first = await allocator.allocateContiguous(padded.length / geometry.clusterSize);
    snapshotsOffset = hostOffset(first * geometry.clusterSize);
  }
  try {
    await committer.settle();
    if (table.length > 0) await storage.write(padded, snapshotsOffset);
    await committer.barrier();
  } catch (error) {
    if (table.length > 0) committer.freeLater(snapshotsOffset, padded.length, true);
    throw error;
  }
  await committer.decisive(async () => {
    await image.patchHeader({ nbSnapshots: after.length, snapshotsOffset });
    await committer.barrier();
    await image.reloadHeader();
  });
  // The two fields lie next to each other, so the old table is named by both or by neither.
  if (before.length > 0) {
    committer.freeLater(header.snapshotsOffset, encodeSnapshotTable(before).length, true);
  }
  await committer.settle();
}
