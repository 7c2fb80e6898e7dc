/** Where bytes live: the interface every byte store implements, and helpers over it. */
import { Qcow2Error } from '../errors.js';

/**
 * A byte-addressed store with positional access. Positions and lengths are bytes, calls may overlap, and a call reads or
 * writes the given memory only until its promise settles. Implement the required members to open images from anything;
 * the optional ones make it faster or let the file stay sparse.
 */
export interface Storage {
  /** A name for messages, such as a path. */
  readonly name: string;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Fills `buffer` from `position` on; resolves to the bytes read, fewer than asked only at the end. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** Writes all of `buffer`, growing the store where needed. */
  write(buffer: Uint8Array, position: number): Promise<void>;
  /** Resolves once everything whose write had resolved before the call is durable. */
  flush(): Promise<void>;
  /** The length in bytes. */
  size(): Promise<number>;
  /** Cuts or extends (with zeros) to `size` bytes. */
  truncate(size: number): Promise<void>;
  /** Lets go of it, once what is under way has ended. */
  close(): Promise<void>;

  /** Writes several buffers one behind the other, in one go. */
  writev?(buffers: readonly Uint8Array[], position: number): Promise<void>;
  /**
   * Fills `buffer` at once, if that takes no waiting; false where {@link read} is needed, which is also to tell what is
   * wrong, and the buffer then holds garbage. Called for small reads, and not for long without others having a turn.
   */
  readCached?(buffer: Uint8Array, position: number): boolean;
  /** Gives the space of a range back, so that it reads as zeros; never grows the store. False where the store cannot. */
  punch?(position: number, length: number): Promise<boolean>;
  /** Reserves space for a range without changing it, growing the store (with zeros) where needed; false where it cannot. */
  allocate?(position: number, length: number): Promise<boolean>;
  /** The first position at or after `position` that may hold data, or null when only a hole follows. */
  nextData?(position: number): Promise<number | null>;
  /** The first position at or after `position` that is in a hole; all from the end of the store on counts as one. */
  nextHole?(position: number): Promise<number>;
  /** Bytes really occupied on the medium. */
  allocatedSize?(): Promise<number>;
  /** Tells whether two storages are the same object (device and inode), for finding loops. */
  readonly identity?: string;
  /**
   * Runs work on the descriptor of a plain file, for native jobs that copy between files. The number is the file's until
   * the work has settled, for {@link close} waits for it; afterwards it may be another file's.
   */
  withDescriptor?<T>(work: (fd: number) => Promise<T>): Promise<T>;
  /** A text that changes whenever the content does, for going on with a copy later. */
  state?(): Promise<string>;
  /** For a file opened by name, its absolute path: what relative references start from. */
  readonly path?: string;
  /** For a part of a file, where in the file its first byte is. */
  readonly origin?: number;
}

/**
 * Fills `buffer` from `position` on and resolves to the bytes read, fewer only at the end of the store, however few a
 * read of it brings: what was not read must not pass for zeros.
 * @throws an error with the code `EIO` when the store gives nothing before its end
 */
export async function readUpTo(storage: Storage, buffer: Uint8Array, position: number): Promise<number> {
  let done = await storage.read(buffer, position);
  // The store may have grown since a read met its end, so that one read of nothing proves nothing.
  for (let vain = 0; done < buffer.length;) {
    const more = await storage.read(buffer.subarray(done), position + done);
    done += more;
    vain = more === 0 ? vain + 1 : 0;
    if (vain === 0) continue;
    if (position + done >= (await storage.size())) return done;
    if (vain > 1) throw nothingRead(storage, position + done);
  }
  return done;
}

function nothingRead({ name }: Storage, position: number): Error {
  const error = new Error(
    `EIO: i/o error, read (${name} gave nothing at ${position}, which is before its end)`,
  );
  return Object.assign(error, { code: 'EIO', syscall: 'read' });
}

/** Reads exactly `buffer.length` bytes or fails: for metadata, where the end of the file is damage. */
export async function readExactly(
  storage: Storage,
  buffer: Uint8Array,
  position: number,
  what: string,
): Promise<void> {
  const got = await readUpTo(storage, buffer, position);
  if (got !== buffer.length) {
    throw new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      `${what} at offset ${position} runs past the end of ${storage.name}: ${buffer.length} bytes wanted, ${got} there`,
      { offset: position },
    );
  }
}

/** A longer table is read in pieces, bytes. */
const pieceBytes = 1024 * 1024;

/** Reads a table that is said to have `length` bytes: of a stream, which does not tell its end, memory is for what has come. */
export async function readTable(
  storage: Storage,
  length: number,
  position: number,
  what: string,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < length; at += pieceBytes) {
    const piece = new Uint8Array(Math.min(pieceBytes, length - at));
    await readExactly(storage, piece, position + at, what);
    pieces.push(piece);
  }
  const [first] = pieces;
  if (pieces.length === 1 && first !== undefined) return first;
  const table = new Uint8Array(length);
  for (const [index, piece] of pieces.entries()) table.set(piece, index * pieceBytes);
  return table;
}

/** Reads `buffer.length` bytes; what lies past the end of the store reads as zeros. */
export async function readPadded(storage: Storage, buffer: Uint8Array, position: number): Promise<void> {
  const got = await readUpTo(storage, buffer, position);
  if (got < buffer.length) buffer.fill(0, got);
}

/** Writes several buffers one behind the other. */
export async function writeAll(
  storage: Storage,
  buffers: readonly Uint8Array[],
  position: number,
): Promise<void> {
  const [first] = buffers;
  if (buffers.length === 1 && first !== undefined) return storage.write(first, position);
  if (storage.writev !== undefined) return storage.writev(buffers, position);
  let at = position;
  for (const buffer of buffers) {
    await storage.write(buffer, at);
    at += buffer.length;
  }
}

/** Cuts a store to nothing. A file that is empty is let be: one that was cut, ext4 writes out when it is closed. */
export async function makeEmpty(storage: Storage): Promise<void> {
  if ((await storage.size()) > 0) await storage.truncate(0);
}

const zeroBlock = new Uint8Array(1024 * 1024);

/** Writes `length` zeros, for where a hole is not to be had or not wanted. An abort is noticed between blocks. */
export async function writeZeros(
  storage: Storage,
  position: number,
  length: number,
  signal?: AbortSignal,
): Promise<void> {
  for (let at = 0; at < length; at += zeroBlock.length) {
    signal?.throwIfAborted();
    await storage.write(zeroBlock.subarray(0, Math.min(zeroBlock.length, length - at)), position + at);
  }
}
