/** The bitmap directory in the file: reading it, changing flags where they are, putting a new one in its place. */
import { encodeBitmapDirectory, parseBitmapDirectory, type BitmapEntry } from '../format/bitmap-directory.js';
import { alignUp, hostOffset } from '../format/units.js';
import { readExactly } from '../storage/storage.js';
import { writeBitmapsExtension } from './extension-writer.js';
import type { Image } from './image.js';

/** Where the flags are in an entry, and how long an entry is without names, bytes. */
const flagsOffset = 12;
const fixedSize = 24;

/** @throws Qcow2Error when the directory breaks the specification */
export async function readBitmapDirectory({
  storage,
  header,
}: Pick<Image, 'storage' | 'header'>): Promise<BitmapEntry[]> {
  if (header.bitmaps === null) return [];
  const { directoryOffset, directorySize, nbBitmaps } = header.bitmaps;
  const bytes = new Uint8Array(directorySize);
  await readExactly(storage, bytes, directoryOffset, 'the bitmap directory');
  return parseBitmapDirectory(bytes, nbBitmaps, directoryOffset);
}

/**
 * Writes the flags of those entries of the present directory whose flags differ from `before`. Each is aligned, so that
 * a crash leaves either the old or the new. Not durable before a barrier.
 */
export async function writeBitmapFlags(
  { storage, header }: Image,
  before: readonly BitmapEntry[],
  after: readonly BitmapEntry[],
): Promise<void> {
  let at = header.bitmaps?.directoryOffset ?? 0;
  for (const [index, entry] of after.entries()) {
    if (entry.flags !== before[index]?.flags) {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, entry.flags);
      await storage.write(bytes, at + flagsOffset);
    }
    at += alignUp(fixedSize + entry.extraData.length + entry.nameBytes.length, 8);
  }
}

/**
 * Puts a directory of these entries in the place of the present one, in one step that a crash cannot split. Everything the
 * entries refer to is durable; nothing is freed but the old directory. Order: directory, refcounts | header | free the old.
 */
export async function replaceBitmapDirectory(image: Image, entries: readonly BitmapEntry[]): Promise<void> {
  const { allocator, committer, storage, geometry } = image;
  const old = image.header.bitmaps;
  if (entries.length === 0) await writeBitmapsExtension(image, null);
  else {
    const bytes = encodeBitmapDirectory(entries);
    const clusters = Math.ceil(bytes.length / geometry.clusterSize);
    const first = await allocator.allocateContiguous(clusters);
    const offset = hostOffset(first * geometry.clusterSize);
    const padded = new Uint8Array(clusters * geometry.clusterSize);
    padded.set(bytes);
    await storage.write(padded, offset);
    await committer.settle();
    await committer.barrier();
    await writeBitmapsExtension(image, {
      nbBitmaps: entries.length,
      directorySize: bytes.length,
      directoryOffset: offset,
    });
  }
  if (old !== null) committer.freeLater(old.directoryOffset, old.directorySize, true);
  await committer.settle();
}
