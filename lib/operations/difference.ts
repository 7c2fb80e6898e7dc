/** What has to be copied to bring an older state of a disk up to date: from a bitmap, a chain of layers, or two images. */
import type { ByteRange, Disk, Job } from '../disk.js';
import { invalidArgType, outOfRange } from '../errors.js';
import type { Qcow2 } from '../qcow2.js';
import type { ByteRun } from './block-set.js';
import { compare } from './compare.js';

/** The older state that a disk is compared with. */
export type Since =
  | {
      /** The state when this persistent bitmap of the (qcow2) disk was created or cleared. */
      bitmap: string;
      /** Leaves out what this image itself says nothing of, so that its backing file or nothing shows through. */
      allocated?: boolean;
    }
  | {
      /** The layer so many steps down the backing chain: 1 is the backing file. */
      base: number;
    }
  | {
      /** Another disk, whose stored bytes are read and compared, 512 at a time. */
      disk: Disk;
    };

/** The part of the disk that is looked at. */
export type DifferenceOptions = Job & ByteRange;

/**
 * The runs of bytes in which a disk may differ from an older state of it, in order and merged, within the disk. All but those of
 * two disks are what tables say: bytes written again with what they were before are among them.
 * @throws as `bitmaps.extents`, `extents`, `compare`
 */
export async function* difference(
  disk: Disk,
  since: Since,
  options: DifferenceOptions = {},
): AsyncGenerator<ByteRun> {
  if ('bitmap' in since) yield* bitmapsOf(disk).extents(since.bitmap, { ...since, ...options });
  else if ('base' in since) yield* merged(aboveBase(disk, since.base, options));
  else yield* merged(contentsDiffer(disk, since.disk, options));
}

function bitmapsOf(disk: Disk): Qcow2['bitmaps'] {
  if (!('bitmaps' in disk)) throw invalidArgType('disk', 'a qcow2 image with bitmaps', disk);
  return (disk as Qcow2).bitmaps;
}

/** What the layers above one have of their own, zeros too. */
async function* aboveBase(disk: Disk, base: number, options: DifferenceOptions): AsyncGenerator<ByteRun> {
  if (!Number.isInteger(base) || base < 1) throw outOfRange('base', 'an integer from 1 on', base);
  for await (const { start, length, type, depth } of disk.extents(options)) {
    // With one layer above, this is past the end of the file below. With more, a shorter layer in between may hide the base.
    if (depth < base && (type !== 'unallocated' || base > 1)) yield { start, length };
  }
}

async function* contentsDiffer(disk: Disk, older: Disk, options: DifferenceOptions): AsyncGenerator<ByteRun> {
  for await (const { start, length } of compare(disk, older, options)) {
    if (start < disk.size) yield { start, length: Math.min(length, disk.size - start) };
  }
}

async function* merged(runs: AsyncIterable<ByteRun>): AsyncGenerator<ByteRun> {
  let last: ByteRun | undefined;
  for await (const run of runs) {
    if (last !== undefined && last.start + last.length === run.start) last.length += run.length;
    else {
      if (last !== undefined) yield last;
      last = { ...run };
    }
  }
  if (last !== undefined) yield last;
}
