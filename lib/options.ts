/** The options of opening and creating an image. Types only. */
import type { FileHandle } from 'node:fs/promises';
import type { Storage } from './storage/storage.js';

/** Where an image is: a path, a `file:` URL, an open handle, or anything with positional reads and writes. */
export type Source = string | URL | FileHandle | Storage;

/** The image formats this package reads and writes. */
export type ImageFormat = 'qcow2' | 'raw';

/** A reference found in an image: its backing file or its external data file. */
export interface Reference {
  kind: 'backing' | 'data-file';
  /** The name as the image has it. */
  name: string;
  /** The format the image gives for a backing file, or null. Untrusted text. */
  format: string | null;
  /** Absolute path of the image that holds the reference, where it has one. */
  from: string | null;
}

/**
 * What may be opened because an image names it.
 * - `deny` (default): nothing; an image with a reference does not open
 * - `same-directory`: regular files in the directory of the image that names them
 * - `any`: regular files anywhere
 * - a function: what it returns; throwing refuses
 */
export type ResolvePolicy =
  'deny' | 'same-directory' | 'any' | ((reference: Reference) => Source | Promise<Source>);

export interface OpenOptions {
  /** `r` (default) never changes the image; `r+` allows writing. */
  mode?: 'r' | 'r+';
  resolve?: ResolvePolicy;
  /** Passphrase of an encrypted image. */
  secret?: string | Uint8Array;
  /** Memory for L2 tables and refcount blocks, bytes; 32 MiB by default. */
  cacheBytes?: number;
  /** `false` takes no file locks; by default QEMU's are taken on files. */
  lock?: boolean;
  /**
   * What to open when the image names a backing file: `full` (default) opens the chain; `none` opens this layer alone,
   * and unallocated ranges read as zeros. For looking at metadata.
   */
  backing?: 'full' | 'none';
  /** Opens an image whose refcounts are damaged or that is marked corrupt, for check and repair; never for guest writes. */
  forRepair?: boolean;
}

export interface LuksOptions {
  /** Passphrase of key slot 0. */
  secret: string | Uint8Array;
  /** aes-256 by default. */
  cipherAlg?: 'aes-128' | 'aes-192' | 'aes-256';
  cipherMode?: 'xts' | 'cbc' | 'ecb';
  ivgenAlg?: 'plain' | 'plain64' | 'essiv';
  ivgenHashAlg?: string;
  hashAlg?: string;
  /** Milliseconds of key derivation an unlock shall cost; 2000 by default. */
  iterTimeMs?: number;
}

export interface CreateOptions {
  /** 3 by default. */
  version?: 2 | 3;
  /** Bytes, a power of two from 512 to 2 MiB; 65536 by default. */
  clusterSize?: number;
  /** 1, 2, 4, 8, 16 (default), 32 or 64. */
  refcountBits?: number;
  lazyRefcounts?: boolean;
  extendedL2?: boolean;
  /** zlib by default. */
  compressionType?: 'zlib' | 'zstd';
  preallocation?: 'off' | 'metadata' | 'falloc' | 'full';
  /** The backing file's name as it is to stand in the image, and its format. Nothing is opened: give the size. */
  backing?: { name: string; format?: ImageFormat };
  /** An external data file: the name to be stored, and whether it is to stay readable as a raw image. */
  dataFile?: { name: string; raw?: boolean; storage?: Source };
  encryption?: LuksOptions;
  /** Fails when the target exists; by default it is overwritten. */
  exclusive?: boolean;
  /** How the created image resolves `backing` and `dataFile` when it is returned open. */
  resolve?: ResolvePolicy;
  cacheBytes?: number;
  lock?: boolean;
}
