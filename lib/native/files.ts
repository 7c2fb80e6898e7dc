/** System calls that Node lacks. They take safe integers, and failures are errors with `code`, `errno` and `syscall`. */

/** What {@link FileFunctions.seekData} and its like return in place of an offset or count. */
export const OsResult = {
  /** There is no data, or no hole, from the offset on. */
  nothing: -1,
  /** The platform or the file system cannot do this. */
  unsupported: -2,
} as const;

/** What {@link FileFunctions.lockBytes} and {@link FileFunctions.probeLock} return, or {@link OsResult.unsupported}. */
export const LockState = {
  /** Taken, dropped, or found free. */
  free: 0,
  /** Another open file holds a lock that is in the way. */
  conflict: 1,
} as const;

/** What {@link FileFunctions.writeSmall} takes at most, bytes. */
export const maxSmallWrite = 64 * 1024;

export interface FileFunctions {
  /**
   * Gives the space of a range of a file back; it reads as zeros then, and the file keeps its length. False when the
   * platform or file system cannot. This and the other system calls take safe integers, ranges are not empty, and
   * failures are errors with `code`, `errno` and `syscall`. The descriptor stays open until the promise settles.
   */
  punchHole(fd: number, offset: number, length: number): Promise<boolean>;
  /** Reserves space for a range without changing what it holds; grows the file unless `keepSize`. False when unsupported. */
  allocate(fd: number, offset: number, length: number, keepSize: boolean): Promise<boolean>;
  /**
   * Fills `buffer` from `offset` on if all of it is in the page cache; never waits for the device. Returns 1 when it did,
   * 0 when not (the buffer then holds garbage), or {@link OsResult.unsupported}.
   */
  readCached(fd: number, offset: number, buffer: Uint8Array): number;
  /**
   * Reads from the descriptor's own position until `buffer` is full, the input ends, which sets the first byte of `ended` to 1,
   * or, soon, others should have the thread. Resolves with the bytes read, or {@link OsResult.unsupported}. Makes a pipe larger
   * where the system lets it. Both arrays are in use until then.
   */
  readPipe(fd: number, buffer: Uint8Array, ended: Uint8Array): Promise<number>;
  /**
   * Writes `data`, at most {@link maxSmallWrite} bytes, from `position` on, on a thread that is kept for this: it is awake, and
   * heard, in half the time that one of the pool takes. Writes to one descriptor are done one after the other, in order.
   * Resolves to false where not all of it was written, for whatever reason: another attempt will tell. Up to 16 KiB are copied at
   * once; longer data is in use until then.
   */
  writeSmall(fd: number, data: Uint8Array, position: number): Promise<boolean>;
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
}
