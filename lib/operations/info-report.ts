/** What there is to know about an image. Types only. */

export interface SnapshotInfo {
  id: string;
  name: string;
  vmStateSize: number;
  /** Seconds and nanoseconds since the Epoch. */
  dateSeconds: number;
  dateNanoseconds: number;
  /** Nanoseconds the guest had run. */
  vmClockNanoseconds: bigint;
  /** Instructions counted by record/replay, or null. */
  icount: bigint | null;
  /** Virtual disk size when the snapshot was taken, bytes. */
  diskSize: number;
}

export interface BitmapInfo {
  name: string;
  /** Guest bytes per bit. */
  granularity: number;
  flags: ('in-use' | 'auto')[];
}

export interface ImageInfo {
  format: 'qcow2';
  version: 2 | 3;
  virtualSize: number;
  clusterSize: number;
  /** Bytes on the medium, or null where the storage cannot tell. */
  actualSize: number | null;
  /** Length of the image file, bytes. */
  fileSize: number;
  compressionType: 'zlib' | 'zstd';
  lazyRefcounts: boolean;
  refcountBits: number;
  extendedL2: boolean;
  dirty: boolean;
  corrupt: boolean;
  backing: { name: string; format: string | null } | null;
  dataFile: { name: string | null; raw: boolean } | null;
  encryption: EncryptionInfo | null;
  snapshots: SnapshotInfo[];
  bitmaps: BitmapInfo[];
}

export interface KeySlotInfo {
  active: boolean;
  iterations?: number;
  stripes?: number;
  keyOffset: number;
}

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
