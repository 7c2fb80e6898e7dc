/** The options of opening and creating an image. Types only. */
import type { FileHandle } from 'node:fs/promises';
import type { CreateLuksOptions } from './io/encryption/luks-create.js';
import type { Storage } from './storage/storage.js';
import type { Window } from './storage/window.js';

/**
 * Where an image is: a path (any string), a `file:` URL, an `http:` or `https:` URL for reading, an open handle, or anything
 * with positional reads and writes.
 */
export type Source = string | URL | FileHandle | Storage;

/** The image formats this package reads and writes. */
export type ImageFormat = 'qcow2' | 'raw';

/** A reference found in an image: its backing file or its external data file. */
export interface Reference {
  /** What is referred to. */
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

/** How an image is opened. */
export interface OpenOptions {
  /** `r` (default) never changes the image; `r+` allows writing. */
  mode?: 'r' | 'r+';
  /** What may be opened because the image names it; nothing by default. */
  resolve?: ResolvePolicy;
  /** The external data file, in place of the one the image names. */
  dataFile?: Source;
  /** Passphrase of an encrypted image. Without it everything but guest data can be looked at. */
  secret?: string | Uint8Array;
  /** Memory for L2 tables and refcount blocks, bytes; 32 MiB by default. */
  cacheBytes?: number;
  /** `false` takes no file locks; by default QEMU's are taken on files. */
  lock?: boolean;
  /**
   * What to open when the image names a backing file: `full` (default) opens the chain; `none` opens this layer alone,
   * unallocated ranges read as zeros, and writing is refused, which is for looking at metadata. An object says what to open in
   * place of what the image names, or how.
   */
  backing?: 'full' | 'none' | BackingChoice;
  /** The part of the source that is the image, for one inside another file, such as an archive; all of it by default. */
  window?: Window;
  /** Opens an image whose refcounts are damaged or that is marked corrupt, for check and repair; never for guest writes. */
  forRepair?: boolean;
}

/** A backing file that the caller chooses. What is left out is as the image says. */
export interface BackingChoice extends Pick<OpenOptions, 'backing' | 'window' | 'secret' | 'lock'> {
  /** What to open, whatever the image names. */
  source?: Source;
  /** Its format. */
  format?: ImageFormat;
}

/** How an image is to be encrypted with LUKS. */
export type LuksOptions = CreateLuksOptions;

/** What a new image is like. */
export interface CreateOptions {
  /** 3 by default. */
  version?: 2 | 3;
  /** Bytes, a power of two from 512 to 2 MiB; 65536 by default. */
  clusterSize?: number;
  /** 1, 2, 4, 8, 16 (default), 32 or 64. */
  refcountBits?: number;
  /** Writes refcounts late; they are made anew after a crash. False by default. */
  lazyRefcounts?: boolean;
  /** Divides clusters into 32 subclusters each; false by default. */
  extendedL2?: boolean;
  /** zlib by default. */
  compressionType?: 'zlib' | 'zstd';
  /** What is set aside at once; `off` by default. */
  preallocation?: 'off' | 'metadata' | 'falloc' | 'full';
  /**
   * The backing file: its name as it is to stand in the image (relative names start from the image's directory) and its
   * format. It is opened with the new image, but nothing that it names in turn is unless `resolve` allows it. With
   * `unchecked` it need not be there; the returned disk can be read, as if it stood alone, but not written.
   */
  backing?: {
    /** At most 1023 bytes as UTF-8. */
    name: string;
    /** Its format; without it the first bytes of the file tell, now and each time the image is opened. */
    format?: ImageFormat;
    /** Whether it need not be there. */
    unchecked?: boolean;
  };
  /**
   * An external data file: the name to be stored and whether it is to stay readable as a raw image. It is made anew at
   * `source`, or where the name says.
   */
  dataFile?: {
    /** At most 1023 bytes as UTF-8. */
    name: string;
    /** Whether it is to stay readable as a raw image. */
    raw?: boolean;
    /** Where it is made, when the name does not say. */
    source?: Source;
  };
  /** Encrypts the image with LUKS. */
  encryption?: LuksOptions;
  /** What the backing file of the new image may open in turn; see {@link OpenOptions.resolve}. */
  resolve?: ResolvePolicy;
  /** As {@link OpenOptions.cacheBytes}. */
  cacheBytes?: number;
  /** As {@link OpenOptions.lock}. */
  lock?: boolean;
}
