/**
 * Moving what lies in one piece and is referred to from one place: L1 tables, the refcount table, the snapshot table, the
 * bitmap directory, bitmap tables and data, the encryption header. Each is copied, then the one pointer to it changes:
 *
 *   copy, refcounts | pointer | old place free        (`|` is a barrier)
 */
import { tableEntrySize } from '../../format/geometry.js';
import { encodeBitmapDirectory, type BitmapEntry } from '../../format/bitmap-directory.js';
import { findExtension } from '../../format/header-extensions.js';
import { encodeSnapshotTable } from '../../format/snapshot-table.js';
import { readBitmapTableEntry, tableLength, tableView } from '../../format/table-entry.js';
import { alignUp, hostCluster, hostOffset, type HostOffset } from '../../format/units.js';
import { readBitmapDirectory } from '../../metadata/bitmap-directory-io.js';
import { writeBitmapsExtension } from '../../metadata/extension-writer.js';
import type { Image } from '../../metadata/image.js';
import { readSnapshotTable } from '../../metadata/snapshot-table-io.js';
import { readExactly, readPadded } from '../../storage/storage.js';
import type { CompactJob } from './job.js';
import { placeL1 } from '../resize/l1-table.js';

/** A piece of the file and the way to make whatever refers to it refer to another place. */
interface Area {
  readonly offset: HostOffset;
  /** Bytes. */
  readonly length: number;
  /** Makes `to`, where its clusters have been taken, the place of this area, durably, and frees the old one. */
  readonly move: (to: HostOffset) => Promise<void>;
}

/** Bytes copied at once. */
const copyBytes = 1024 * 1024;
/** Where the directory offset is in the data of the encryption extension, and an L1 or table offset in an entry: at once. */
const pointerSize = 8;

/**
 * Moves areas that reach past the limit to lower places. Changes wait meanwhile.
 * @returns clusters of areas that still reach past the limit
 */
export async function moveAreas(job: CompactJob): Promise<number> {
  let pinned = 0;
  await job.guest.bitmaps.moving(async () => {
    await job.image.committer.settle();
    for (const list of [tablesOf, snapshotAreas, bitmapAreas]) {
      for (const area of await list(job.image)) {
        job.throwIfAborted();
        if (!(await moveArea(job, area))) pinned += Math.ceil(area.length / job.clusterSize);
      }
    }
  });
  return pinned;
}

/** Whether an area is, or has come to be, below the limit. */
async function moveArea(job: CompactJob, { offset, length, move }: Area): Promise<boolean> {
  const { image, clusterSize } = job;
  const clusters = Math.ceil(length / clusterSize);
  const first = Math.floor(offset / clusterSize);
  if (clusters === 0 || !job.isToMove(offset + length - 1)) return true;
  const place = await image.allocator.allocateContiguousBelow(hostCluster(first), clusters);
  if (place === null) return false;
  await move(hostOffset(place * clusterSize));
  await image.committer.settle();
  job.moved(clusters * clusterSize, 1);
  return place + clusters <= job.limit;
}

/** What there is one of, and the header points to. */
function tablesOf(image: Image): Area[] {
  const { header, mapping, refcounts, committer } = image;
  const areas: Area[] = [
    {
      offset: mapping.l1Offset,
      length: mapping.l1Bytes.length,
      move: (to) => placeL1(image, mapping.l1Entries, to),
    },
    {
      offset: refcounts.tableOffset,
      length: refcounts.tableBytes.length,
      move: (to) => moveRefcountTable(image, to),
    },
  ];
  const pointer = findExtension(header.extensions, 'encryption');
  if (header.encryption !== null && pointer !== undefined) {
    const { offset, length } = header.encryption;
    const move = async (to: HostOffset): Promise<void> => {
      await copyThenPoint(image, { offset, length }, to, pointer.offset);
      await image.reloadHeader();
      committer.freeLater(offset, length, true);
    };
    areas.push({ offset, length, move });
  }
  return areas;
}

async function moveRefcountTable(image: Image, to: HostOffset): Promise<void> {
  const { refcounts, committer, storage, reserved } = image;
  const old = refcounts.tableOffset;
  await committer.exclusive(async () => {
    await storage.write(refcounts.tableBytes, to);
    await committer.barrier();
    await image.patchHeader({ refcountTableOffset: to });
    await committer.barrier();
    refcounts.replaceTable(refcounts.tableBytes.slice(), to);
  });
  reserved.setArea('refcount table', to, refcounts.tableBytes.length);
  committer.freeLater(old, refcounts.tableBytes.length, true);
}

/** The snapshots' L1 tables, then the snapshot table. */
async function snapshotAreas(image: Image): Promise<Area[]> {
  const { committer, header } = image;
  const entries = await readSnapshotTable(image);
  if (entries.length === 0) return [];
  const areas: Area[] = [];
  // The offset is the first thing in an entry.
  const pointers = new Map<HostOffset, number[]>();
  let at: number = header.snapshotsOffset;
  for (const entry of entries) {
    pointers.set(entry.l1TableOffset, [...(pointers.get(entry.l1TableOffset) ?? []), at]);
    at += encodeSnapshotTable([entry]).length;
  }
  for (const { l1TableOffset: offset, l1Size } of entries) {
    const [pointer, ...others] = pointers.get(offset) ?? [];
    // One that several snapshots have stays: no write changes all of them at once.
    if (pointer === undefined || others.length > 0) continue;
    const length = l1Size * tableEntrySize;
    areas.push({ offset, length, move: (to) => copyPointFree(image, { offset, length }, to, pointer) });
  }
  const { snapshotsOffset } = header;
  const length = at - snapshotsOffset;
  const move = async (to: HostOffset): Promise<void> => {
    await copyArea(image, { offset: snapshotsOffset, length }, to);
    await committer.decisive(async () => {
      await image.patchHeader({ snapshotsOffset: to });
      await committer.barrier();
      await image.reloadHeader();
    });
    committer.freeLater(snapshotsOffset, length, true);
  };
  return [...areas, { offset: snapshotsOffset, length, move }];
}

/** Bitmap data, then the bitmap tables, then the directory. */
async function bitmapAreas(image: Image): Promise<Area[]> {
  const { bitmaps } = image.header;
  if (bitmaps === null) return [];
  const entries = await readBitmapDirectory(image);
  const data: Area[] = [];
  const tables: Area[] = [];
  let at: number = bitmaps.directoryOffset;
  for (const entry of entries) {
    const length = entry.tableSize * tableEntrySize;
    // Where the table is when its turn comes is the same: data is moved first.
    data.push(...(await bitmapData(image, entry)));
    const pointer = at;
    const { tableOffset: offset } = entry;
    tables.push({ offset, length, move: (to) => copyPointFree(image, { offset, length }, to, pointer) });
    at += encodeBitmapDirectory([entry]).length;
  }
  const { directoryOffset: offset, directorySize: length } = bitmaps;
  const move = async (to: HostOffset): Promise<void> => {
    await copyArea(image, { offset, length }, to);
    await writeBitmapsExtension(image, { ...bitmaps, directoryOffset: to });
    image.committer.freeLater(offset, length, true);
  };
  return [...data, ...tables, { offset, length, move }];
}

async function bitmapData(image: Image, { tableOffset, tableSize }: BitmapEntry): Promise<Area[]> {
  const { clusterSize } = image.geometry;
  const table = new Uint8Array(tableSize * tableEntrySize);
  if (table.length > 0) await readExactly(image.storage, table, tableOffset, 'a bitmap table');
  const view = tableView(table);
  const areas: Area[] = [];
  for (let index = 0; index < tableLength(view); index++) {
    const place = readBitmapTableEntry(view, index, clusterSize);
    if (place <= 0) continue;
    const area = { offset: hostOffset(place), length: clusterSize };
    const pointer = tableOffset + index * tableEntrySize;
    areas.push({ ...area, move: (to) => copyPointFree(image, area, to, pointer) });
  }
  return areas;
}

async function copyPointFree(
  image: Image,
  area: Pick<Area, 'offset' | 'length'>,
  to: HostOffset,
  pointer: number,
): Promise<void> {
  await copyThenPoint(image, area, to, pointer);
  image.committer.freeLater(area.offset, area.length, true);
}

/** Copies an area and makes the 8 bytes at `pointer`, which no medium tears, hold its new place. Durable. */
async function copyThenPoint(
  image: Image,
  area: Pick<Area, 'offset' | 'length'>,
  to: HostOffset,
  pointer: number,
): Promise<void> {
  const { storage, committer } = image;
  await copyArea(image, area, to);
  const bytes = new Uint8Array(pointerSize);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(to));
  await committer.decisive(async () => {
    await storage.write(bytes, pointer);
    await committer.barrier();
  });
}

/** Copies an area, durably, with the refcounts of its new place. */
async function copyArea(
  { storage, committer, geometry }: Image,
  { offset, length }: Pick<Area, 'offset' | 'length'>,
  to: HostOffset,
): Promise<void> {
  const whole = alignUp(length, geometry.clusterSize);
  for (let at = 0; at < whole; at += copyBytes) {
    const part = new Uint8Array(Math.min(copyBytes, whole - at));
    await readPadded(storage, part, offset + at);
    // What follows the area in its last cluster is nobody's.
    if (at + part.length > length) part.fill(0, Math.max(0, length - at));
    await storage.write(part, to + at);
  }
  committer.dataWritten();
  await committer.settle();
}
