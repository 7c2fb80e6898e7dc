/** Counting everything an image refers to: header, tables, data, snapshots, bitmaps, encryption header. */
import { minSnapshotEntrySize, type SnapshotEntry } from '../../format/snapshot-table.js';
import { l1EntriesFor, maxL1TableBytes, tableEntrySize } from '../../format/geometry.js';
import { hex, quote } from '../../format/text.js';
import { alignUp } from '../../format/units.js';
import { readSnapshotTable } from '../../metadata/snapshot-table-io.js';
import { pageBytes } from '../../storage/page-bytes.js';
import { readExactly } from '../../storage/storage.js';
import { countBitmaps } from './bitmaps.js';
import type { CheckContext } from './context.js';
import { followL1 } from './l1.js';
import { countL2Tables, type DiskStatistics } from './l2.js';
import { countRefcountStructure } from './refcount-table.js';

/** Bytes of an L1 table that are read at once. */
const chunkBytes = 1024 * 1024;

/** Bytes of extra data in a version 3 snapshot at least: sizes of VM state and disk. */
const version3ExtraData = 16;

export const activeL1 = 'the active L1 table';

/**
 * Counts all references into the context.
 * @param refcountStructure whether refcount table and blocks count as used; not when they are to be replaced
 */
export async function countReferences(
  context: CheckContext,
  { refcountStructure }: { refcountStructure: boolean },
): Promise<DiskStatistics> {
  await countLists(context);
  const statistics = await countL2Tables(context);
  if (refcountStructure) countRefcountStructure(context);
  return statistics;
}

/** Counts everything but L2 tables, what these refer to, and the refcount structure; the context then knows the L2 tables. */
export async function countLists(context: CheckContext): Promise<void> {
  const { image, activeTables } = context;
  const { header, geometry, mapping } = image;
  context.addArea('the header', 0, geometry.clusterSize);
  context.addArea(activeL1, mapping.l1Offset, mapping.l1Bytes.length);
  followL1(context, mapping.l1Bytes, activeL1, 0, activeTables);
  await countSnapshots(context);
  context.progress.expect(
    (activeTables.offsets.length + context.snapshotTables.offsets.length) * geometry.clusterSize,
  );
  await countBitmaps(context);
  if (header.encryption !== null) {
    context.addArea('the encryption header', header.encryption.offset, header.encryption.length);
  }
}

async function countSnapshots(context: CheckContext): Promise<void> {
  const { image } = context;
  let snapshots: readonly SnapshotEntry[];
  try {
    snapshots = await readSnapshotTable(image);
  } catch (error) {
    context.unknown('snapshot', 'the snapshot table', error, image.header.snapshotsOffset);
    return;
  }
  const bytes = snapshots.reduce((sum, entry) => sum + alignUp(entryBytes(entry), 8), 0);
  context.addArea('the snapshot table', image.header.snapshotsOffset, bytes);
  const groups = new Map<string, { first: SnapshotEntry; times: number }>();
  for (const snapshot of snapshots) {
    if (!examineEntry(context, snapshot)) continue;
    const place = `${snapshot.l1TableOffset} ${snapshot.l1Size}`;
    const group = groups.get(place);
    if (group === undefined) groups.set(place, { first: snapshot, times: 1 });
    else group.times++;
  }
  // A damaged table may name one L1 table tens of thousands of times.
  for (const { first, times } of groups.values()) await countSnapshotL1(context, first, times);
}

const entryBytes = ({ idBytes, nameBytes, extraData }: SnapshotEntry): number =>
  minSnapshotEntrySize + extraData.length + idBytes.length + nameBytes.length;

const nameOf = ({ id }: SnapshotEntry): string => `snapshot ${quote(id)}`;
const l1Of = (snapshot: SnapshotEntry): string => `the L1 table of ${nameOf(snapshot)}`;

/** Reports what is wrong with a snapshot's entry. Returns whether its L1 table can be read. */
function examineEntry(context: CheckContext, snapshot: SnapshotEntry): boolean {
  const { image, findings } = context;
  const { l1TableOffset, l1Size, extraData } = snapshot;
  const name = nameOf(snapshot);
  const what = l1Of(snapshot);
  const finding = misplacedL1(snapshot, image.geometry.clusterSize);
  if (finding !== null) {
    // What the snapshot holds is still in its clusters: they must not be taken for free.
    context.incomplete = true;
    findings.add({
      kind: 'snapshot',
      severity: 'corruption',
      where: name,
      offset: l1TableOffset,
      message: `${what} ${finding}`,
    });
    return false;
  }
  if (image.header.version >= 3 && extraData.length < version3ExtraData) {
    findings.add({
      kind: 'snapshot',
      severity: 'corruption',
      where: name,
      message: `The entry of ${name} lacks the size of its disk, which version 3 demands`,
    });
  }
  const needed = l1EntriesFor(snapshot.diskSize ?? 0, image.geometry);
  if (l1Size < needed) {
    findings.add({
      kind: 'snapshot',
      severity: 'corruption',
      where: name,
      offset: l1TableOffset,
      expected: needed,
      found: l1Size,
      message: `${what} has ${l1Size} entries, but its disk needs ${needed}`,
    });
  }
  return true;
}

/** @param times how many snapshots have this L1 table */
async function countSnapshotL1(context: CheckContext, snapshot: SnapshotEntry, times: number): Promise<void> {
  const { l1TableOffset, l1Size } = snapshot;
  const what = l1Of(snapshot);
  const length = l1Size * tableEntrySize;
  context.addArea(what, l1TableOffset, length, times);
  for (let at = 0; at < length; at += chunkBytes) {
    context.progress.throwIfAborted();
    const chunk = pageBytes(Math.min(chunkBytes, length - at));
    try {
      await readExactly(context.image.storage, chunk, l1TableOffset + at, what);
    } catch (error) {
      context.unknown('snapshot', what, error, l1TableOffset);
      return;
    }
    followL1(context, chunk, what, at / tableEntrySize, context.snapshotTables, times);
  }
}

function misplacedL1({ l1TableOffset, l1Size }: SnapshotEntry, clusterSize: number): string | null {
  if (l1TableOffset % clusterSize !== 0) return `is not aligned to a cluster, at ${hex(l1TableOffset)}`;
  const bytes = l1Size * tableEntrySize;
  return bytes > maxL1TableBytes ? `has ${l1Size} entries, which is more than 32 MiB` : null;
}
