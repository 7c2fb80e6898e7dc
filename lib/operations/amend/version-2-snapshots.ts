/** Whether version 2 can express the snapshots of an image. */
import { Qcow2Error } from '../../errors.js';
import { tableEntrySize } from '../../format/geometry.js';
import type { SnapshotEntry } from '../../format/snapshot-table.js';
import { readL1Entry, tableLength, tableView } from '../../format/table-entry.js';
import type { Image } from '../../metadata/image.js';
import { readSnapshotTable } from '../../metadata/snapshot-table-io.js';
import { readExactly } from '../../storage/storage.js';
import { L2TableSet } from '../check/l2-tables.js';
import { CheckProgress, readClusters } from '../check/reader.js';
import { quote } from '../../format/text.js';

/** The first byte of an entry has the compressed flag, the last one the flag for zeros. */
const compressedBit = 0x40;
const zeroBit = 1;

/**
 * Refuses snapshots of disks of another size than the present one, which version 2 does not note, and such that have zero
 * clusters, which it does not know.
 * @throws Qcow2Error `ERR_QCOW2_CONFLICT`
 */
export async function refuseForVersion2(image: Image, signal: AbortSignal | undefined): Promise<void> {
  const entries = await readSnapshotTable(image);
  const other = entries.find((entry) => (entry.diskSize ?? image.header.size) !== image.header.size);
  if (other !== undefined) throw conflict(`snapshot ${quote(other.id)} is of a disk of another size`);
  const tables = new L2TableSet();
  for (const entry of entries) await addTables(image, entry, tables);
  const progress = new CheckProgress(signal === undefined ? {} : { signal });
  const { clusterSize } = image.geometry;
  for await (const batch of readClusters(image.storage, tables.offsets, clusterSize, progress)) {
    for (const failure of batch.failures.values()) throw failure;
    if (hasZeroClusters(batch.bytes)) throw conflict('a snapshot has zero clusters');
  }
}

async function addTables(
  { storage, geometry }: Image,
  entry: SnapshotEntry,
  tables: L2TableSet,
): Promise<void> {
  const l1 = new Uint8Array(entry.l1Size * tableEntrySize);
  await readExactly(storage, l1, entry.l1TableOffset, `the L1 table of snapshot ${quote(entry.id)}`);
  const view = tableView(l1);
  for (let index = 0; index < tableLength(view); index++) {
    const offset = readL1Entry(view, index, geometry.clusterSize);
    if (offset > 0) tables.add(offset);
  }
}

function hasZeroClusters(tables: Uint8Array): boolean {
  for (let at = 0; at < tables.length; at += tableEntrySize) {
    const isCompressed = ((tables[at] ?? 0) & compressedBit) !== 0;
    if (!isCompressed && ((tables[at + tableEntrySize - 1] ?? 0) & zeroBit) !== 0) return true;
  }
  return false;
}

const conflict = (finding: string): Qcow2Error =>
  new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    `The image cannot be amended: version 2 cannot express its snapshots, as ${finding}; delete it first`,
    { feature: 'snapshots' },
  );
