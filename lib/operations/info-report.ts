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
  backing: {
    /** As it stands in the image. */
    name: string;
    /** As it stands in the image, or null when it does not say. */
    format: string | null;
  } | null;
  /** The external data file, or null. Untrusted text. */
  dataFile: {
    /** As it stands in the image, or null when it does not say. */
    name: string | null;
    /** Whether it can be read as a raw image. */
    raw: boolean;
  } | null;
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
  | {
      /** The legacy method of QEMU, AES-128-CBC; weak. */
      format: 'aes';
    }
  | {
      /** LUKS version 1. */
      format: 'luks';
      /** The cipher, such as `aes-256`. */
      cipherAlg: string;
      /** Its mode of operation, such as `xts`. */
      cipherMode: string;
      /** How initialization vectors are made, such as `plain64`. */
      ivgenAlg: string;
      /** The hash function of `essiv`, or null with other ones. */
      ivgenHashAlg: string | null;
      /** The hash function of PBKDF2 and the anti-forensic splitter, such as `sha256`. */
      hashAlg: string;
      /** The UUID of the LUKS header. Untrusted text. */
      uuid: string;
      /** Where data begins, bytes from the start of the LUKS header, as that says. */
      payloadOffset: number;
      /** PBKDF2 iterations of the digest of the master key. */
      masterKeyIterations: number;
      /** Always false: the LUKS header is in the image. */
      detachedHeader: boolean;
      /** All eight key slots. */
      slots: KeySlotInfo[];
    };
