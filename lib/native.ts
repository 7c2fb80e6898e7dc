/** Loads the addon; the one place that knows its signatures. */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { Qcow2Error } from './errors.js';

/** What an L2 entry or subcluster makes of its guest range, as {@link NativeCore.mapL2} reports it. */
export const RunKind = {
  /** No entry: the backing file decides, else zeros. */
  unallocated: 0,
  /** Reads as zeros; no host cluster. */
  zero: 1,
  /** Reads as zeros; a host cluster is kept for it. */
  zeroAllocated: 2,
  /** Stored at the host offset. */
  data: 3,
  /** One compressed cluster; never merged. */
  compressed: 4,
  /** Extended L2 only: an unallocated subcluster of a cluster that has a host cluster. */
  unallocatedInCluster: 5,
  /** The entry breaks the specification; the fourth value is an {@link InvalidEntry}. */
  invalid: 6,
} as const;
export type RunKind = (typeof RunKind)[keyof typeof RunKind];

/** Why an L2 entry is {@link RunKind.invalid}. */
export const InvalidEntry = {
  reservedBits: 0,
  unalignedOffset: 1,
  /** Zero flag in a version 2 image. */
  zeroFlagInV2: 2,
  /** A subcluster both allocated and zero, or bitmap bits on a compressed cluster, or allocated without a host cluster. */
  subclusterBitmap: 3,
  /** A compressed cluster in an image with an external data file. */
  compressedInDataFile: 4,
  /** COPIED set at host offset 0 in an image without an external data file. */
  copiedWithoutHost: 5,
  /** Part of the host cluster lies past the end of the file; only {@link ReferenceCounts} tells this. */
  pastEnd: 6,
} as const;
export type InvalidEntry = (typeof InvalidEntry)[keyof typeof InvalidEntry];

/** How a table is to be read; add the flags up. */
export const L2Flag = {
  /** Entries are 16 bytes with subcluster bitmaps. */
  extended: 1,
  /** Version 3: bit 0 of a standard descriptor is the zero flag. */
  zeroFlag: 2,
  /** Data lives in an external file: offset 0 with bit 63 is a valid place. */
  externalData: 4,
  /** Do not split runs where only COPIED differs. */
  ignoreCopied: 8,
} as const;

/** Numbers per run in the output of {@link NativeCore.mapL2}: kind, guest length, host offset, aux. */
export const runStride = 4;

/** What {@link ReferenceCounts} found in L2 tables. Invalid entries are only among the problems. */
export interface L2Summary {
  /** Standard clusters with a host cluster. */
  readonly allocated: number;
  /** How many of these do not lie right behind the one before in the same table. */
  readonly fragmented: number;
  readonly compressed: number;
  /** Clusters without a host cluster that read as zeros, at least in part. */
  readonly zero: number;
  /** Problems found; more than were written when there was no room. */
  readonly problems: number;
}

/** Numbers per problem: index of the table (in its batch), index of the entry, an {@link InvalidEntry}, host offset. */
export const problemStride = 4;
/** Numbers per row of the tables of {@link NativeCore.transfer}. */
export const transferStride = {
  /** Guest position, length, number of pieces. */
  unit: 3,
  /**
   * File descriptor, position in the file, length there, offset in the unit, length there; and for compressed clusters the
   * cluster size (else 0), the bytes of the cluster before those wanted, the {@link Codec}.
   */
  piece: 8,
  /** Guest position, length, host position. */
  placed: 3,
} as const;
/** Numbers per run of equal mismatches: first cluster, number of clusters, stored refcount, counted references. */
export const mismatchStride = 4;
/** Numbers per entry whose COPIED flag is wrong: index of the entry, the right flag as 1 or 0. */
export const copiedStride = 2;

/**
 * How often each host cluster is referenced: what check and rebuild count from an image's tables. Counters of 8 to 64
 * bits, allocated in pages of 65536 clusters when one of them is first counted. Whatever would pass the byte limit fails
 * with an Error `ERR_QCOW2_LIMIT`; the counts are of no use after that. While {@link addL2Tables} is under way every
 * other method throws an Error `ERR_INVALID_STATE`.
 */
export interface ReferenceCounts {
  /** Raises the number of clusters, before a file grows. */
  extend(clusters: number): void;
  /**
   * Counts every host cluster that the bytes [host, host + length) touch, `times` times. False when some lie past the
   * end of the file; these are not counted.
   */
  add(host: number, length: number, times: number): boolean;
  /**
   * Counts all references of an L2 table (or a slice of one), compressed clusters included, `times` times. Invalid
   * entries count as what they seem to mean, so that a repair does not take it for free. With
   * {@link L2Flag.externalData} nothing is counted. `problems` gets as many problems as it has room for (it may be empty).
   */
  addL2Table(table: Uint8Array, flags: number, times: number, problems: Float64Array): L2Summary;
  /**
   * The same for many tables, each one cluster long and one behind the other in `tables`, on the thread pool: table i
   * is counted `times[i]` times; one with 0 is skipped. The buffers must not be transferred or changed until it settles.
   */
  addL2Tables(
    tables: Uint8Array,
    flags: number,
    times: Uint32Array,
    problems: Float64Array,
  ): Promise<L2Summary>;
  /** The references of a cluster, 2^53 - 1 at most; 0 past the last cluster. */
  get(cluster: number): number;
  /** The first cluster in [first, end) that is referenced; `end` when none is. */
  nextUsed(first: number, end: number): number;
  /** The first cluster in [first, end) that is not referenced, as those past the last are; `end` when all are. */
  nextFree(first: number, end: number): number;
  /** One past the last referenced cluster; 0 when none is. */
  usedEnd(): number;
  /**
   * Compares a whole refcount block from index `first` on; index 0 is for cluster `firstCluster`. Writes runs of
   * mismatches ({@link mismatchStride}) to `out`. Returns the number of runs; when `out` is full, go on behind the last.
   */
  compareBlock(
    block: Uint8Array,
    order: number,
    firstCluster: number,
    first: number,
    out: Float64Array,
  ): number;
  /**
   * Makes the counts of the clusters from `firstCluster` on the refcounts of a whole block. -1 when done, else the first
   * cluster whose count does not fit into 2^order bits.
   */
  fillBlock(block: Uint8Array, order: number, firstCluster: number): number;
  /**
   * Writes the entries of a table, from index `first` on, whose COPIED flag is wrong ({@link copiedStride}): it must be
   * set when the entry has a host cluster referenced exactly once (with external data: any), and clear on all other
   * entries. Invalid entries are left out, save {@link InvalidEntry.copiedWithoutHost}. Returns how many; when `out` is
   * full, go on behind the last.
   */
  copiedMismatches(table: Uint8Array, flags: number, first: number, out: Float64Array): number;
}

/** The codecs of compressed clusters, by the value of the header field compression_type. */
export const Codec = {
  /** Raw deflate streams without zlib header (the specification's "zlib"). Levels 1 to 12. */
  deflate: 0,
  /** Zstandard frames. Levels 1 to 22. */
  zstd: 1,
} as const;
export type Codec = (typeof Codec)[keyof typeof Codec];

/** What came of decoding a cluster. */
export const DecodeResult = {
  ok: 0,
  /** No stream of this codec, or one with errors inside. */
  damaged: 1,
  /** The stream ends before the cluster is full. */
  tooShort: 2,
  /** The stream goes on after the cluster is full. */
  tooLong: 3,
  noMemory: 4,
} as const;
export type DecodeResult = (typeof DecodeResult)[keyof typeof DecodeResult];

/** Numbers per cluster in the jobs of {@link NativeCore.decompressClusters}: input offset, input length, output offset. */
export const decodeJobStride = 3;

/** What {@link NativeCore.seekData} and its like return in place of an offset or count. */
export const OsResult = {
  /** There is no data, or no hole, from the offset on. */
  nothing: -1,
  /** The platform or the file system cannot do this. */
  unsupported: -2,
} as const;

/** What {@link NativeCore.lockBytes} and {@link NativeCore.probeLock} return, or {@link OsResult.unsupported}. */
export const LockState = {
  /** Taken, dropped, or found free. */
  free: 0,
  /** Another open file holds a lock that is in the way. */
  conflict: 1,
} as const;

/**
 * The native functions. All synchronous ones do bounded work on one table or one buffer; those that return a promise
 * work on the thread pool and hold their buffers until they settle. Every argument is checked: a wrong one throws a
 * TypeError `ERR_INVALID_ARG_TYPE` / `ERR_INVALID_ARG_VALUE` or a RangeError `ERR_OUT_OF_RANGE`.
 */
export interface NativeCore {
  /**
   * Translates `count` L2 entries from index `first` on into merged runs written to `out`: kind, length in guest bytes,
   * host offset, aux (COPIED as 1 or 0; bytes from the host offset to the end of the last sector for a compressed
   * cluster; the reason for an invalid one). The host offset is 0 for runs without a host cluster and for invalid ones.
   * Stops early, always between two entries, when `out` has no room for the next entry: go on where the lengths end.
   * `out` must have room for one entry, which is 1 run, or 32 with extended entries. Returns the number of runs.
   */
  mapL2(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    first: number,
    count: number,
    out: Float64Array,
  ): number;
  /**
   * Makes the guest bytes [start, start + length) of a table (relative to its first entry, multiples of the subcluster)
   * data at `host` and on, with COPIED set. `host` is where the cluster that contains `start` begins. With extended
   * entries the covered subclusters become allocated, the others of each touched cluster keep their state, except that
   * those of a formerly compressed entry start as unallocated.
   */
  l2SetData(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    start: number,
    length: number,
    host: number,
  ): void;
  /**
   * Makes a range read as zeros. With `keepHost` entries keep their host cluster (and COPIED); without, whole clusters
   * drop it. Ranges of extended entries may begin and end at subclusters: a partly covered cluster always keeps its host.
   */
  l2SetZero(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    start: number,
    length: number,
    keepHost: boolean,
  ): void;
  /** Makes whole clusters unallocated (extended: also subclusters, which keep the host cluster while others use it). */
  l2SetUnallocated(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    start: number,
    length: number,
  ): void;
  /** Makes entry `index` a compressed cluster of `length` bytes at byte `host` of the file. */
  l2SetCompressed(
    table: Uint8Array,
    flags: number,
    clusterBits: number,
    index: number,
    host: number,
    length: number,
  ): void;

  /** The refcount at `index` of a refcount block; counts past 2^53 - 1 come back as 2^53 - 1. */
  refcountGet(block: Uint8Array, order: number, index: number): number;
  /** Sets `count` refcounts from `first` on. */
  refcountSet(block: Uint8Array, order: number, first: number, count: number, value: number): void;
  /** Adds `delta` (positive or negative) to `count` refcounts; -1 when done, else, changing nothing, the first index that would leave its range. */
  refcountAdd(block: Uint8Array, order: number, first: number, count: number, delta: number): number;
  /** The first index in [first, end) whose refcount is 0; `end` when none is. */
  refcountNextFree(block: Uint8Array, order: number, first: number, end: number): number;
  /** The first index in [first, end) whose refcount is not 0; `end` when none is. */
  refcountNextUsed(block: Uint8Array, order: number, first: number, end: number): number;

  /** Whether every byte is zero. */
  isZero(buffer: Uint8Array): boolean;
  /**
   * Splits a buffer into alternating runs of zero and non-zero blocks of `granularity` bytes (the last may be shorter).
   * Writes the end offset of each run to `out`, the first run being non-zero (its end is 0 when the buffer starts with
   * zeros). Returns the number of ends written; stops early when `out` is full.
   */
  zeroRuns(buffer: Uint8Array, granularity: number, out: Float64Array): number;

  /** Which codecs the addon was built with; the functions below refuse the others with `ERR_INVALID_ARG_VALUE`. */
  readonly codecs: { readonly deflate: boolean; readonly zstd: boolean };
  /**
   * Decodes one compressed cluster. `input` runs to the end of its last sector: what follows the stream is ignored.
   * `output` is a whole cluster (its length a power of two, 512 bytes to 2 MiB); unless the result is ok it holds
   * garbage. The input shares no memory with it.
   */
  decompressCluster(codec: Codec, input: Uint8Array, output: Uint8Array): DecodeResult;
  /** {@link decompressCluster} on the thread pool. */
  decompressClusterAsync(codec: Codec, input: Uint8Array, output: Uint8Array): Promise<DecodeResult>;
  /**
   * Decodes many clusters in one piece of work: `jobs` has {@link decodeJobStride} numbers for each. Writes one
   * {@link DecodeResult} per job to `results` and resolves with the number of jobs that are not ok.
   */
  decompressClusters(
    codec: Codec,
    input: Uint8Array,
    jobs: Float64Array,
    output: Uint8Array,
    clusterSize: number,
    results: Uint8Array,
  ): Promise<number>;
  /**
   * Encodes the clusters of `input` one behind the other, without gaps, into `output`, which has room for `limit` bytes
   * each. Writes the length of each to `lengths`: 0 for a cluster that does not compress to `limit` bytes or less, which
   * leaves nothing in the output. Resolves with the bytes written. Rejects with `ENOMEM` when memory runs out.
   */
  compressClusters(
    codec: Codec,
    level: number,
    input: Uint8Array,
    clusterSize: number,
    limit: number,
    output: Uint8Array,
    lengths: Float64Array,
  ): Promise<number>;

  /**
   * Gives the space of a range of a file back; it reads as zeros then, and the file keeps its length. False when the
   * platform or file system cannot. This and the other system calls take safe integers, ranges are not empty, and
   * failures are errors with `code`, `errno` and `syscall`. The descriptor stays open until the promise settles.
   */
  punchHole(fd: number, offset: number, length: number): Promise<boolean>;
  /** Makes a range read as zeros and keeps it reserved; grows the file where it ends past it. False when unsupported. */
  zeroRange(fd: number, offset: number, length: number): Promise<boolean>;
  /** Reserves space for a range without changing what it holds; grows the file unless `keepSize`. False when unsupported. */
  allocate(fd: number, offset: number, length: number, keepSize: boolean): Promise<boolean>;
  /**
   * Copies between files inside the kernel, sharing extents where the file system does. Resolves with the bytes copied,
   * fewer than asked where the source ends, or {@link OsResult.unsupported} when the kernel refuses this pair of files.
   */
  copyRange(
    fdIn: number,
    offsetIn: number,
    fdOut: number,
    offsetOut: number,
    length: number,
  ): Promise<number>;
  /**
   * Fills `buffer` from `offset` on if all of it is in the page cache; never waits for the device. Returns 1 when it did,
   * 0 when not (the buffer then holds garbage), or {@link OsResult.unsupported}.
   */
  readCached(fd: number, offset: number, buffer: Uint8Array): number;
  /**
   * Copies planned pieces of files into the file `fdOut`, without their zeros, on `workers` threads of the pool. `units`
   * and `pieces` have {@link transferStride} numbers a row; what no piece of a unit fills is zeros. Zeros are looked for in
   * blocks of `granularity` bytes from the beginning of each unit.
   * Without `places` data goes where it is on the disk. With `places` (host position and length, whole blocks, room for
   * everything) it goes there, in the order of the units, by whole blocks, and `placed` gets {@link transferStride} numbers
   * for each run of it: room for one for each block and place.
   * `scratch` has a buffer for each worker; none of the units is longer.
   * @returns a promise for each worker: wait for all. Their greatest value is the number of runs placed; if one is -1 the
   * files were not as planned (shorter, or damaged compressed clusters), and nothing of it counts.
   */
  transfer(
    fdOut: number,
    units: Float64Array,
    pieces: Float64Array,
    places: Float64Array,
    granularity: number,
    scratch: Uint8Array,
    placed: Float64Array,
    workers: number,
  ): Promise<number>[];
  /**
   * The first offset at or after `offset` that may hold data, or an {@link OsResult}. Moves the file position of the
   * descriptor, which positional reads and writes do not use.
   */
  seekData(fd: number, offset: number): number;
  /** The first offset at or after `offset` that is in a hole, the end of the file counting as one, or an {@link OsResult}. */
  seekHole(fd: number, offset: number): number;
  /**
   * Takes a shared open-file-description lock on a range of bytes, or drops it; never waits. Returns a {@link LockState}
   * or {@link OsResult.unsupported} (everywhere but on Linux).
   */
  lockBytes(fd: number, offset: number, length: number, kind: 'read' | 'unlock'): number;
  /** Whether another open file's lock would stop an exclusive lock on a range; takes none. Returns as {@link lockBytes}. */
  probeLock(fd: number, offset: number, length: number): number;

  /**
   * Expands the encrypted tweak of each sector (16 bytes) into the masks of its AES blocks, as IEEE 1619 has it for
   * AES-XTS. `sectorSize` is a multiple of 16, `out` holds that many bytes for each tweak.
   */
  xtsMasks(tweaks: Uint8Array, sectorSize: number, out: Uint8Array): void;
  /** `target` ^= `mask`, which is as long. */
  xorInto(target: Uint8Array, mask: Uint8Array): void;
  /**
   * Makes AES-ECB decrypted `blocks` the plaintext of AES-CBC. `ciphertext` is what they were decrypted from, `ivs` has
   * 16 bytes for each sector of `sectorSize` bytes (a multiple of 16).
   */
  cbcDecryptFinish(blocks: Uint8Array, ciphertext: Uint8Array, ivs: Uint8Array, sectorSize: number): void;
  /** Writes the plain64 vectors of `count` sectors: 16 bytes each, the sector number as 64 little-endian bits. */
  plain64(firstSector: number, count: number, out: Uint8Array): void;

  /**
   * @param clusters host clusters of the file, the last of which may be only partly there
   * @param limitBytes memory that the counters may take
   */
  readonly ReferenceCounts: new (
    clusters: number,
    clusterBits: number,
    limitBytes: number,
  ) => ReferenceCounts;
}

function load(): NativeCore {
  const require = createRequire(import.meta.url);
  // lib/ and dist/ are both one below the package's root.
  const root = fileURLToPath(new URL('..', import.meta.url));
  try {
    const loadAddon = require('node-gyp-build') as (directory: string) => NativeCore;
    return loadAddon(root);
  } catch (cause) {
    throw new Qcow2Error(
      'ERR_QCOW2_NATIVE',
      `The native addon of qcow2 could not be loaded on ${process.platform}-${process.arch}, Node ${process.version}. ` +
        'There may be no prebuilt binary for this platform, or the install script was not run (npm 12 asks for approval: ' +
        '`npm approve-scripts qcow2`). With a C++17 compiler and cmake installed, `npm rebuild qcow2` compiles it.',
      { cause },
    );
  }
}

export const native: NativeCore = load();
