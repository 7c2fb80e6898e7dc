/** What a picture of an image is made of. Types, and the kinds in the order in which they are drawn. */
import type { Job } from '../../disk.js';
import type { BitmapInfo, SnapshotInfo } from '../info-report.js';

/** What a layer says of a guest range: stored, stored compressed, zeros, nothing, or something that cannot be right. */
export const guestKinds = ['data', 'compressed', 'zero', 'unallocated', 'damaged'] as const;
/** One of {@link guestKinds}. */
export type GuestKind = (typeof guestKinds)[number];

/**
 * What a range of the file is: metadata; data and compressed data of the active disk; clusters kept for what reads as
 * zeros; whatever else is referred to (snapshots' data, VM state, bitmaps' data); clusters with a refcount that nothing
 * refers to; and the rest.
 */
export const fileKinds = ['metadata', 'data', 'compressed', 'kept', 'other', 'leaked', 'free'] as const;
/** One of {@link fileKinds}. */
export type FileKind = (typeof fileKinds)[number];

/** Bytes by kind in equal parts of a whole. */
export interface PartList<Kind extends string> {
  /** Bytes of the whole. */
  readonly size: number;
  /** Bytes of one part; the last may be shorter. */
  readonly partBytes: number;
  /** Of each kind, bytes in each part. */
  readonly bytes: Readonly<Record<Kind, Float64Array>>;
}

/** One image of a backing chain. */
export interface LayerPicture {
  /** How the image above names it; null for the top. From the image: untrusted text. */
  readonly name: string | null;
  /** What it is. */
  readonly format: 'qcow2' | 'raw' | 'other';
  /** Virtual size, bytes. */
  readonly size: number;
  /** What the layer itself holds, in parts as long as those of the top; what lies past the top's end is left out. */
  readonly disk: PartList<GuestKind>;
  /** Pieces that begin in each part. A piece lies in one stretch in the file. Zeros for other formats than qcow2. */
  readonly pieces: Float64Array;
}

/** What {@link imagePicture} adds up. */
export interface ImagePicture {
  /** Bytes. */
  readonly virtualSize: number;
  /** Bytes. */
  readonly clusterSize: number;
  /** From the top down, as far as they were opened. */
  readonly layers: readonly LayerPicture[];
  /** The image file. */
  readonly file: PartList<FileKind>;
  /** Where the data is when it is not in the image file. */
  readonly dataFile: PartList<FileKind> | null;
  /** Bytes of metadata by what it is. */
  readonly metadata: readonly {
    /** In words, such as `L2 tables`. */
    readonly what: string;
    /** Bytes it takes in the file. */
    readonly bytes: number;
  }[];
  /**
   * Bytes stored by part of the disk (rows) and part of the file that has the data (columns): where each guest range
   * lives. The disk and the file are cut into `side` parts each.
   */
  readonly links: {
    /** Parts on each side. */
    readonly side: number;
    /** Bytes, row by row: `side` times `side`. */
    readonly bytes: Float64Array;
  };
  /** Clusters whose refcount is too low, and too high, as `check` counts them. */
  readonly refcountsTooLow: number;
  /** Clusters whose refcount is too high. */
  readonly refcountsTooHigh: number;
  /** The internal snapshots. */
  readonly snapshots: readonly SnapshotInfo[];
  /** The persistent bitmaps. */
  readonly bitmaps: readonly BitmapInfo[];
}

export interface PictureOptions extends Job {
  /** Into how many parts disk and file are cut at most, 16 to 8192; 1024 by default. */
  parts?: number;
  /** Bytes that counting references may take, about one for each cluster of the file; 1 GiB by default. */
  memoryLimit?: number;
}
