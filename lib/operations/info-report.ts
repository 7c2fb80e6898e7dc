/** What there is to know about an image. Types only. */

export interface SnapshotInfo {
  /** Its id, a decimal number by custom. Untrusted text. */
  id: string;
  /** Its name. Untrusted text. */
  name: string;
  /** Bytes of VM state; 0 without any. */
  vmStateSize: number;
  /** Seconds and nanoseconds since the Epoch. */
  dateSeconds: number;
  /** The rest of the date, nanoseconds. */
  dateNanoseconds: number;
  /** Nanoseconds the guest had run. */
  vmClockNanoseconds: bigint;
  /** Instructions counted by record/replay, or null. */
  icount: bigint | null;
  /** Virtual disk size when the snapshot was taken, bytes. */
  diskSize: number;
}

/** A bitmap, as `info` tells of it. */
export interface BitmapInfo {
  /** Its name. Untrusted text. */
  name: string;
  /** Guest bytes per bit. */
  granularity: number;
  /** `in-use`: it was not closed properly, and must not be relied on; `auto`: it records changes. */
  flags: ('in-use' | 'auto')[];
}

/** What there is to know about an image without reading its tables. */
export interface ImageInfo {
  /** The image format. */
  format: 'qcow2';
  /** Version of the format. */
  version: 2 | 3;
  /** Size of the disk, bytes. */
  virtualSize: number;
  /** Bytes. */
  clusterSize: number;
  /** Bytes on the medium, or null where the storage cannot tell. */
  actualSize: number | null;
  /** Length of the image file, bytes. */
  fileSize: number;
  /** How compressed clusters are compressed. */
  compressionType: 'zlib' | 'zstd';
  /** Whether refcounts are written late. */
  lazyRefcounts: boolean;
  /** Bits of a refcount, 1 to 64. */
  refcountBits: number;
  /** Whether clusters have subclusters. */
  extendedL2: boolean;
  /** Whether the image was not closed properly, so that its refcounts may be wrong. */
  dirty: boolean;
  /** Whether the image was marked corrupt. */
  corrupt: boolean;
  /** The backing file, or null. Untrusted text. */
  backing: { name: string; format: string | null } | null;
  /** The external data file, or null. Untrusted text. */
  dataFile: { name: string | null; raw: boolean } | null;
  /** How it is encrypted, or null. */
  encryption: EncryptionInfo | null;
  /** Its internal snapshots. */
  snapshots: SnapshotInfo[];
  /** Its persistent bitmaps. */
  bitmaps: BitmapInfo[];
}

/** A key slot of a LUKS header. */
export interface KeySlotInfo {
  /** Whether a secret is in it. */
  active: boolean;
  /** PBKDF2 iterations that a secret costs. */
  iterations?: number;
  /** Stripes of the anti-forensic splitter. */
  stripes?: number;
  /** Where its key material is, bytes from the start of the LUKS header. */
  keyOffset: number;
}

/** How an image is encrypted. */
export type EncryptionInfo =
  | { format: 'aes' }
  | {
      format: 'luks';
      cipherAlg: string;
      cipherMode: string;
      ivgenAlg: string;
      ivgenHashAlg: string | null;
      hashAlg: string;
      uuid: string;
      payloadOffset: number;
      masterKeyIterations: number;
      detachedHeader: boolean;
      slots: KeySlotInfo[];
    };
