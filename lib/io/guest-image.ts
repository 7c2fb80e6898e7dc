/** An image together with all that a guest request needs: locks, backing disk, cipher, decoded clusters, bitmaps. */
import type { Disk } from '../disk.js';
import type { DirtyBitmaps } from '../metadata/dirty-bitmaps.js';
import type { Image } from '../metadata/image.js';
import type { CompressedSpace } from './compressed-space.js';
import type { DecodedClusters } from './decoded-clusters.js';
import type { SectorCipher } from './encryption/crypt-sector.js';
import type { RangeLock } from './range-lock.js';

/** Encryption of guest data, and what the sector number that goes into it counts. */
export interface DataCipher {
  readonly cipher: SectorCipher;
  /** `host`: the place in the file (LUKS); `guest`: the place on the disk (legacy AES). */
  readonly sectors: 'host' | 'guest';
}

export interface GuestImage {
  readonly image: Image;
  readonly locks: RangeLock;
  readonly decoded: DecodedClusters;
  readonly compressedSpace: CompressedSpace;
  /** Changes only while nobody else uses the image. */
  backing: Disk | null;
  readonly cipher: DataCipher | null;
  /** Must be told of every change to guest data before it is made. */
  readonly bitmaps: DirtyBitmaps;
}
