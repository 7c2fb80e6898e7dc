/** Changing the header extensions of an image in an order that leaves it readable wherever a crash falls. */
import { hasFeature, withFeature } from '../format/features.js';
import { changedBytes, replaceExtensions } from '../format/first-cluster.js';
import {
  encodeBitmapsExtension,
  encodeExtensions,
  extensionTypes,
  findExtension,
  type BitmapsExtension,
  type FoundExtension,
  type HeaderExtension,
} from '../format/header-extensions.js';
import { alignDown } from '../format/units.js';
import { readPadded } from '../storage/storage.js';
import { otherExtensions, sectorSize } from './first-cluster-switch.js';
import type { Image } from './image.js';

/**
 * Says where the bitmap directory is, or with null that there is none. Durable when it resolves.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when the first cluster has no room; nothing was changed then
 */
export async function writeBitmapsExtension(image: Image, value: BitmapsExtension | null): Promise<void> {
  const found = findExtension(image.header.extensions, 'bitmaps');
  const others = otherExtensions(image.header, extensionTypes.bitmaps);
  const extension = value === null ? null : encodeBitmapsExtension(value);
  const inPlace = extension !== null && found?.data.length === extension.data.length;
  const list = extension === null ? others : [...others, extension];
  if (!inPlace) replaceExtensions(await readFirstCluster(image), image.header, list);
  await image.committer.decisive(async () => {
    if (inPlace) await replaceData(image, found, extension.data);
    else {
      await setTrusted(image, false);
      await rewriteExtensions(image, list);
    }
    if (extension !== null) await setTrusted(image, true);
    await image.reloadHeader();
  });
}

/** With one write that a crash cannot split, or else untrusted while it changes. */
async function replaceData(image: Image, { offset }: FoundExtension, data: Uint8Array): Promise<void> {
  const last = offset + data.length - 1;
  if (alignDown(offset, sectorSize) !== alignDown(last, sectorSize)) await setTrusted(image, false);
  await image.storage.write(data, offset);
  await image.committer.barrier();
}

async function readFirstCluster({ storage, geometry }: Image): Promise<Uint8Array> {
  const cluster = new Uint8Array(geometry.clusterSize);
  await readPadded(storage, cluster, 0);
  return cluster;
}

/** Sets or clears the autoclear bit that vouches for the bitmaps extension. */
async function setTrusted(image: Image, on: boolean): Promise<void> {
  if (hasFeature(image.header, 'bitmaps') === on) return;
  await image.patchHeader({ autoclear: withFeature(image.header, 'bitmaps', on).autoclear });
  await image.committer.barrier();
}

/**
 * Replaces the list of extensions; the backing file name stays what it is.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when they do not fit
 */
async function rewriteExtensions(image: Image, extensions: readonly HeaderExtension[]): Promise<void> {
  const { geometry, storage, committer } = image;
  if (image.header.backingFile === null && image.header.backingFileOffset !== 0) {
    // It points at an empty name; the bytes there must not become one.
    await image.patchHeader({ backingFileOffset: 0, backingFileSize: 0 });
    await committer.barrier();
  }
  const before = await readFirstCluster(image);
  const compact = replaceExtensions(before, image.header, extensions);
  const { headerLength, backingFile, backingFileOffset, backingFileSize, extensions: old } = image.header;
  const newEnd = areaEnd(headerLength, extensions);
  const oldEnd = areaEnd(headerLength, old);
  let end = Math.max(newEnd, oldEnd);
  if (backingFile !== null && backingFileOffset < newEnd) {
    const nameEnd = backingFileOffset + backingFileSize;
    const place = alignDown(geometry.clusterSize - backingFileSize, 8);
    if (place < Math.max(newEnd, nameEnd)) return writeTogether(image, before, compact, newEnd);
    await moveName(image, before.slice(backingFileOffset, nameEnd), place);
    end = Math.max(end, nameEnd);
  } else if (backingFile !== null) {
    end = Math.min(end, backingFileOffset);
  }
  const after = before.slice(0, end).fill(0, headerLength);
  after.set(compact.subarray(headerLength, newEnd), headerLength);
  // What is behind the end of the list means nothing: write it first when the list grows, last when it shrinks.
  const sectors = changedSectors(before, after);
  for (const { offset, bytes } of newEnd > oldEnd ? sectors.reverse() : sectors) {
    await storage.write(bytes, offset);
    await committer.barrier();
  }
}

/** Puts the backing file name at the end of the cluster, where no list of extensions gets in its way. */
async function moveName(image: Image, name: Uint8Array, place: number): Promise<void> {
  await image.storage.write(name, place);
  await image.committer.barrier();
  await image.patchHeader({ backingFileOffset: place });
  await image.committer.barrier();
}

/** In a cluster without room for a second copy of the name, which has few sectors: all in one write and the name's place. */
async function writeTogether(
  image: Image,
  before: Uint8Array,
  after: Uint8Array,
  nameOffset: number,
): Promise<void> {
  const { headerLength } = image.header;
  const change = changedBytes(before.subarray(headerLength), after.subarray(headerLength));
  if (change === null) return;
  await image.storage.write(change.bytes, headerLength + change.offset);
  await image.patchHeader({ backingFileOffset: nameOffset });
  await image.committer.barrier();
}

/** The sectors that differ, in their order. */
function changedSectors(before: Uint8Array, after: Uint8Array): { offset: number; bytes: Uint8Array }[] {
  const changes: { offset: number; bytes: Uint8Array }[] = [];
  for (let at = 0; at < after.length; at += sectorSize) {
    const sector = after.subarray(at, at + sectorSize);
    const change = changedBytes(before.subarray(at, at + sectorSize), sector);
    if (change !== null) changes.push({ offset: at + change.offset, bytes: change.bytes });
  }
  return changes;
}

const areaEnd = (headerLength: number, extensions: readonly HeaderExtension[]): number =>
  headerLength + encodeExtensions(extensions).length;
