/** The parts of an image file that are metadata, in the order of the file, and what may be shown of each. */
import { Qcow2Error } from '../../errors.js';
import type { BitmapEntry } from '../../format/bitmap-directory.js';
import { tableEntrySize } from '../../format/geometry.js';
import { luksHeaderSize } from '../../format/luks.js';
import type { SnapshotEntry } from '../../format/snapshot-table.js';
import { readBitmapTableEntry, tableLength, tableView } from '../../format/table-entry.js';
import { readBitmapDirectory } from '../../metadata/bitmap-directory-io.js';
import { readSnapshotTable } from '../../metadata/snapshot-table-io.js';
import { readPadded } from '../../storage/storage.js';
import type { CheckContext } from '../check/context.js';
import { blockPlace } from '../check/refcount-table.js';
import { cleanBitmapDirectory, cleanFirstCluster, cleanLuksHeader, cleanSnapshotTable } from './strings.js';
import { cleanL2Table, cleanOffsets, cleanRefcountBlock, type TableContext } from './tables.js';

/** A part of the file that begins at a cluster. */
export interface MetadataPart {
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /**
   * Replaces what must not be shown.
   * @param bytes of the part, which may be changed
   * @param at where they begin in the part
   */
  readonly clean: (bytes: Uint8Array, at: number) => Uint8Array;
}

/** @param context in which all references have been counted */
export async function metadataParts(
  context: CheckContext,
  { strings = false, bitmapContents = false }: { strings?: boolean; bitmapContents?: boolean },
): Promise<MetadataPart[]> {
  const { image, fileSize } = context;
  const { header, geometry } = image;
  const tables: TableContext = { geometry, l2Flags: image.mapping.l2Flags, fileSize };
  const offsets =
    (kind: Parameters<typeof cleanOffsets>[1]): MetadataPart['clean'] =>
    (bytes) => {
      cleanOffsets(bytes, kind, tables);
      return bytes;
    };
  const parts: MetadataPart[] = [
    {
      offset: 0,
      length: geometry.clusterSize,
      clean: (bytes) => cleanFirstCluster(bytes, header, strings),
    },
    { offset: header.l1TableOffset, length: header.l1Size * tableEntrySize, clean: offsets('l1') },
  ];
  if (header.problems.length === 0) {
    const { tableOffset, tableBytes } = image.refcounts;
    parts.push({ offset: tableOffset, length: tableBytes.length, clean: offsets('refcount table') });
  }
  if (header.encryption !== null) {
    const { offset, length } = header.encryption;
    const clean: MetadataPart['clean'] = (bytes) => orNothing(bytes, (area) => cleanLuksHeader(area, length));
    parts.push({ offset, length: luksHeaderSize, clean });
  }
  const snapshots = await orNone<SnapshotEntry>(() => readSnapshotTable(image));
  if (snapshots.length > 0) {
    const table = cleanSnapshotTable(snapshots, strings);
    parts.push({
      offset: header.snapshotsOffset,
      length: table.length,
      clean: (bytes, at) => table.subarray(at, at + bytes.length),
    });
    for (const { l1TableOffset, l1Size } of snapshots) {
      parts.push({ offset: l1TableOffset, length: l1Size * tableEntrySize, clean: offsets('l1') });
    }
  }
  const bitmaps = await orNone<BitmapEntry>(() => readBitmapDirectory(image));
  if (bitmaps.length > 0 && header.bitmaps !== null) {
    const directory = cleanBitmapDirectory(bitmaps, strings);
    parts.push({
      offset: header.bitmaps.directoryOffset,
      length: directory.length,
      clean: (bytes, at) => directory.subarray(at, at + bytes.length),
    });
  }
  for (const { tableOffset, tableSize } of bitmaps) {
    parts.push({ offset: tableOffset, length: tableSize * tableEntrySize, clean: offsets('bitmap table') });
  }
  if (bitmapContents) parts.push(...(await bitmapData(context, bitmaps)));
  parts.push(...l2Parts(context, tables), ...blockParts(context));
  return parts.filter(({ length }) => length > 0).sort((a, b) => a.offset - b.offset);
}

async function orNone<T>(read: () => Promise<readonly T[]>): Promise<readonly T[]> {
  try {
    return await read();
  } catch (error) {
    // Damaged: what cannot be read cannot be cleaned, either.
    if (error instanceof Qcow2Error) return [];
    throw error;
  }
}

function orNothing(bytes: Uint8Array, clean: (bytes: Uint8Array) => Uint8Array): Uint8Array {
  try {
    return clean(bytes);
  } catch (error) {
    if (error instanceof Qcow2Error) return new Uint8Array(bytes.length);
    throw error;
  }
}

async function bitmapData(
  { image, fileSize }: CheckContext,
  bitmaps: readonly BitmapEntry[],
): Promise<MetadataPart[]> {
  const { clusterSize } = image.geometry;
  const parts: MetadataPart[] = [];
  for (const { tableOffset, tableSize } of bitmaps) {
    const room = Math.max(0, fileSize - tableOffset);
    const table = new Uint8Array(Math.min(tableSize * tableEntrySize, room - (room % tableEntrySize)));
    await readPadded(image.storage, table, tableOffset);
    const view = tableView(table);
    for (let index = 0; index < tableLength(view); index++) {
      const offset = readBitmapTableEntry(view, index, clusterSize);
      if (offset > 0) parts.push({ offset, length: clusterSize, clean: (bytes) => bytes });
    }
  }
  return parts;
}

/**
 * All L2 tables. One that is something else, too, and has entries that cannot be, was written over: perhaps with what the
 * guest wrote. Nothing of it is shown.
 */
function l2Parts(
  { image, counts, activeTables, snapshotTables }: CheckContext,
  tables: TableContext,
): MetadataPart[] {
  const { clusterSize } = image.geometry;
  const parts: MetadataPart[] = [];
  const add = (offset: number): void => {
    const expected = activeTables.timesOf(offset) + snapshotTables.timesOf(offset);
    const isOnlyTable = counts.get(offset / clusterSize) === expected;
    const clean = (bytes: Uint8Array): Uint8Array => {
      const replaced = cleanL2Table(bytes, tables);
      return isOnlyTable || replaced === 0 ? bytes : new Uint8Array(bytes.length);
    };
    parts.push({ offset, length: clusterSize, clean });
  };
  activeTables.offsets.forEach(add);
  for (const offset of snapshotTables.offsets) if (activeTables.timesOf(offset) === 0) add(offset);
  return parts;
}

function blockParts(context: CheckContext): MetadataPart[] {
  const { image, counts } = context;
  const { geometry, refcounts } = image;
  const table = tableView(refcounts.tableBytes);
  const parts: MetadataPart[] = [];
  for (let index = 0; index < tableLength(table); index++) {
    const offset = blockPlace(context, table, index);
    if (offset === 0 || offset === 'unaligned') continue;
    const first = index * geometry.refcountBlockEntries;
    parts.push({
      offset,
      length: geometry.clusterSize,
      clean: (bytes, at) => {
        cleanRefcountBlock(bytes, first + (at * 8) / geometry.refcountBits, counts, geometry);
        return bytes;
      },
    });
  }
  return parts;
}
