/** The checks of the tables a header points to: how big they may be and where they may lie. */
import type { Qcow2Error } from '../errors.js';
import { maxRefcountTableBytes, tableEntrySize } from './geometry.js';
import { extensionTypes } from './header-extensions.js';
import { headerFields, invalidField, unsupportedField, type HeaderField } from './header-fields.js';
import { firstOverlap, misplaced, type Region } from './header-placement.js';
import type { Header } from './header.js';
import { maxSnapshots, minSnapshotEntrySize } from './snapshot-table.js';

/**
 * Checks size and place of every table.
 * @returns what is wrong with the refcount table, if `tolerateRefcounts`; nothing otherwise
 * @throws Qcow2Error for everything else
 */
export function checkTables(header: Header, fileSize: number, tolerateRefcounts: boolean): Qcow2Error[] {
  const { clusterSize } = header.geometry;
  const others = [firstClusterRegion(header), l1Region(header), ...optionalRegions(header)];
  for (const region of others) throwIf(misplaced(region, clusterSize, fileSize));
  throwIf(firstOverlap(others, clusterSize));

  const table = refcountTableRegion(header);
  const problems = [
    refcountTableSize(header),
    misplaced(table, clusterSize, fileSize),
    // The refcount table comes last, so that it is what the message blames.
    firstOverlap([...others, table], clusterSize),
  ].filter((problem) => problem !== null);
  if (!tolerateRefcounts) throwIf(problems[0] ?? null);
  return problems;
}

function refcountTableSize({ refcountTableClusters, geometry: { clusterSize } }: Header): Qcow2Error | null {
  if (refcountTableClusters === 0) {
    return invalidField('refcountTableClusters', 'is 0; an image must have a refcount table');
  }
  if (refcountTableClusters * clusterSize > maxRefcountTableBytes) {
    const most = maxRefcountTableBytes / clusterSize;
    const finding = `is ${refcountTableClusters}; at most ${most} clusters (8 MiB) are supported`;
    return unsupportedField('refcountTableClusters', finding);
  }
  return null;
}

const firstClusterRegion = ({ geometry: { clusterSize } }: Header): Region =>
  fieldRegion('magic', 'the header', 0, clusterSize);

const l1Region = ({ l1Size, l1TableOffset }: Header): Region =>
  fieldRegion('l1TableOffset', 'the L1 table', l1TableOffset, l1Size * tableEntrySize);

const refcountTableRegion = (header: Header): Region =>
  fieldRegion(
    'refcountTableOffset',
    'the refcount table',
    header.refcountTableOffset,
    header.refcountTableClusters * header.geometry.clusterSize,
  );

function optionalRegions({
  nbSnapshots,
  snapshotsOffset,
  bitmaps,
  encryption,
  extensions,
}: Header): Region[] {
  const regions: Region[] = [];
  if (nbSnapshots > maxSnapshots) {
    throw unsupportedField('nbSnapshots', `is ${nbSnapshots}; at most ${maxSnapshots} are supported`);
  }
  if (nbSnapshots > 0) {
    const atLeast = nbSnapshots * minSnapshotEntrySize;
    regions.push(fieldRegion('snapshotsOffset', 'the snapshot table', snapshotsOffset, atLeast));
  }
  const dataOffset = (type: number): number => extensions.find((found) => found.type === type)?.offset ?? 0;
  if (bitmaps !== null) {
    regions.push({
      what: 'the bitmap directory',
      start: bitmaps.directoryOffset,
      length: bitmaps.directorySize,
      field: 'bitmap_directory_offset',
      fieldOffset: dataOffset(extensionTypes.bitmaps) + 16,
    });
  }
  if (encryption !== null) {
    regions.push({
      what: 'the encryption header',
      start: encryption.offset,
      length: encryption.length,
      field: 'full disk encryption header pointer',
      fieldOffset: dataOffset(extensionTypes.encryption),
    });
  }
  return regions;
}

function fieldRegion(field: HeaderField, what: string, start: number, length: number): Region {
  const { spec, offset } = headerFields[field];
  return { what, start, length, field: spec, fieldOffset: offset };
}

function throwIf(error: Qcow2Error | null): void {
  if (error !== null) throw error;
}
