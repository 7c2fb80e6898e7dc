/** Making the active L1 table larger, in place where its clusters have room, else in a new place. */
import { Qcow2Error } from '../../errors.js';
import { maxL1TableBytes, tableEntrySize, type Geometry } from '../../format/geometry.js';
import { alignUp, hostOffset, type HostOffset } from '../../format/units.js';
import { log } from '../../log.js';
import type { Image } from '../../metadata/image.js';

/**
 * Sees to it that the L1 table has `entries` entries. Order: new table | header | free the old one.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` past the format's 32 MiB
 */
export async function growL1(image: Image, entries: number): Promise<void> {
  const { mapping, geometry } = image;
  if (entries <= mapping.l1Entries) return;
  refuseLargeL1(entries, geometry);
  const bytes = entries * tableEntrySize;
  const room = alignUp(mapping.l1Bytes.length, geometry.clusterSize);
  if (bytes <= room) await extendInPlace(image, entries);
  else await moveL1(image, entries);
}

/** @throws Qcow2Error `ERR_QCOW2_LIMIT` when an L1 table of so many entries is more than the format allows */
export function refuseLargeL1(entries: number, { clusterSize }: Geometry): void {
  const bytes = entries * tableEntrySize;
  if (bytes <= maxL1TableBytes) return;
  throw new Qcow2Error(
    'ERR_QCOW2_LIMIT',
    `A disk of this size needs an L1 table of ${bytes} bytes; the format's limit is ${maxL1TableBytes}. ` +
      `Clusters larger than ${clusterSize} bytes reach further`,
    { feature: 'l1_size' },
  );
}

async function extendInPlace(image: Image, entries: number): Promise<void> {
  const { mapping, committer, storage } = image;
  await committer.afterCommit(async () => {
    const table = enlarged(mapping.l1Bytes, entries);
    const oldBytes = mapping.l1Bytes.length;
    await storage.write(table.subarray(oldBytes), mapping.l1Offset + oldBytes);
    await committer.barrier();
    await committer.decisive(async () => {
      await image.patchHeader({ l1Size: entries });
      await committer.barrier();
    });
    mapping.replaceL1(table, mapping.l1Offset);
  });
  reserve(image);
}

async function moveL1(image: Image, entries: number): Promise<void> {
  const { allocator, geometry } = image;
  const bytes = entries * tableEntrySize;
  const first = await allocator.allocateContiguous(Math.ceil(bytes / geometry.clusterSize));
  await placeL1(image, entries, hostOffset(first * geometry.clusterSize));
}

/** Moves the L1 table to `offset`, whose clusters have been taken, with `entries` entries, which are no fewer than now. */
export async function placeL1(image: Image, entries: number, offset: HostOffset): Promise<void> {
  const { mapping, committer, storage } = image;
  const old = { offset: mapping.l1Offset, length: mapping.l1Bytes.length };
  await committer.afterCommit(async () => {
    const table = enlarged(mapping.l1Bytes, entries);
    await storage.write(table, offset);
    await committer.barrier();
    await committer.decisive(async () => {
      await image.patchHeader({ l1Size: entries, l1TableOffset: offset });
      await committer.barrier();
    });
    mapping.replaceL1(table, offset);
    log('%s: the L1 table moved to offset %d, for %d entries', storage.name, offset, entries);
  });
  if (old.length > 0) committer.freeLater(old.offset, old.length, false);
  reserve(image);
}

function enlarged(table: Uint8Array, entries: number): Uint8Array {
  const larger = new Uint8Array(entries * tableEntrySize);
  larger.set(table);
  return larger;
}

function reserve(image: Image): void {
  image.reserved.setArea('active L1 table', image.mapping.l1Offset, image.mapping.l1Bytes.length);
}
