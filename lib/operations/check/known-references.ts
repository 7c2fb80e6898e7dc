/**
 * Counting all references of an open image before clusters are given free that only the word of a bitmap says are its own.
 * The count costs a read of all L2 tables; where that would be much, clusters are rather lost, which a repair puts right,
 * than freed on trust, which would destroy whatever else is in them.
 */
import { tableEntrySize } from '../../format/geometry.js';
import { readBitmapDirectory } from '../../metadata/bitmap-directory-io.js';
import type { Image } from '../../metadata/image.js';
import { readSnapshotTable } from '../../metadata/snapshot-table-io.js';
import type { ReferenceCounts } from '../../native.js';
import { CheckContext } from './context.js';
import { Findings } from './findings.js';
import { countL2Tables } from './l2.js';
import { CheckProgress } from './reader.js';
import { countRefcountStructure } from './refcount-table.js';
import { countLists } from './references.js';

/** Bytes of snapshots' L1 tables and of bitmap tables to read at most. */
const maxListBytes = 32 * 1024 * 1024;

/** Bytes of L2 tables to read at most: those of 8 TiB of data in clusters of 64 KiB. */
const maxL2Bytes = 1024 * 1024 * 1024;

/** Bytes for counting at most: enough for a file of 8 TiB with clusters of 64 KiB. */
const memoryLimit = 136 * 1024 * 1024;

/** Closing an image must not take longer on account of it, milliseconds. */
const maxDuration = 10_000;

/** How often each host cluster is referenced in the file, or null. Nothing may wait in memory, nor change meanwhile. */
export async function knownReferences(image: Image): Promise<ReferenceCounts | null> {
  try {
    if ((await listBytes(image)) > maxListBytes) return null;
    const progress = new CheckProgress({ signal: AbortSignal.timeout(maxDuration) });
    const context = await CheckContext.of(image, new Findings({ maxFindings: 0 }), progress, { memoryLimit });
    await countLists(context);
    const { activeTables, snapshotTables } = context;
    const tables = activeTables.offsets.length + snapshotTables.offsets.length;
    if (tables * image.geometry.clusterSize > maxL2Bytes) return null;
    await countL2Tables(context);
    countRefcountStructure(context);
    return context.incomplete ? null : context.counts;
  } catch (error) {
    if (isFinding(error)) return null;
    throw error;
  }
}

async function listBytes(image: Image): Promise<number> {
  const snapshots = await readSnapshotTable(image);
  const bitmaps = await readBitmapDirectory(image);
  const entries = [...snapshots.map(({ l1Size }) => l1Size), ...bitmaps.map(({ tableSize }) => tableSize)];
  return entries.reduce((sum, count) => sum + count * tableEntrySize, 0);
}

/** Whether an error tells of the image, or of memory or time that the count would take. */
function isFinding(error: unknown): boolean {
  const codes: unknown[] = ['ERR_QCOW2_LIMIT', 'ERR_QCOW2_CORRUPT', 'ERR_QCOW2_UNSUPPORTED'];
  if (!(error instanceof Error)) return false;
  return error.name === 'TimeoutError' || ('code' in error && codes.includes(error.code));
}
