/** A store in a file or on a block device, through positional calls on its descriptor. */
import fs from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Qcow2Error } from '../errors.js';
import { visible } from '../format/text.js';
import { toBytes } from '../format/units.js';
import { Busy } from './busy.js';
import { syncName } from './directory.js';
import { maxSmallWrite, OsResult, native } from '../native.js';
import { complete, readFully, writeFully, writevFully } from './fd-io.js';
import { closeFd, examine, fstat, openWithoutWaiting } from './file-kind.js';
import type { FileKind, FileMode } from './file-kind.js';
import { acquireImageLock } from './lock.js';
import { makeEmpty, type Storage } from './storage.js';

export type { FileMode } from './file-kind.js';

export interface FileOptions {
  /** `r`: read-only; `r+`: read and write what is there; `create`: make the file, or empty the one that is there. */
  mode: FileMode;
  /** Refuses block devices too, and the made-up files of /proc and /sys: for names that an image gave. */
  regularOnly?: boolean;
  /**
   * Locks the file as QEMU does, until it is closed; true by default. `create` needs the lock before it empties the file.
   * No effect where the platform has no open-file-description locks (all but Linux).
   */
  lock?: boolean;
}

export class FileStorage implements Storage {
  readonly name: string;
  /** Whether it refuses writes. */
  readonly readOnly: boolean;
  readonly identity: string;
  readonly path?: string;
  /** Asked for its descriptor each time: when its owner has closed it, the number may already be another file's. */
  readonly #handle: Pick<FileHandle, 'fd'>;
  readonly #ownsHandle: boolean;
  readonly #deviceSize: number | null;
  readonly #releaseLock: (() => void) | null;
  /** The path of a new file while its directory entry may not be durable. */
  #unsyncedName: string | null = null;
  #flushFailure: unknown = null;
  #hasReadCached = true;
  readonly #busy = new Busy();
  #closing: Promise<void> | null = null;

  private constructor(
    handle: Pick<FileHandle, 'fd'>,
    mode: FileMode,
    kind: FileKind,
    name: string,
    path: string | null,
    releaseLock: (() => void) | null,
  ) {
    this.#handle = handle;
    this.#ownsHandle = path !== null;
    this.#deviceSize = kind.deviceSize;
    this.#releaseLock = releaseLock;
    this.identity = kind.identity;
    this.readOnly = mode === 'r';
    this.name = name;
    if (path !== null) this.path = path;
    if (mode === 'create') this.#unsyncedName = path;
  }

  /**
   * Opens a regular file or a block device, without waiting for anything else.
   * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED` for a directory, FIFO, socket or character device, `ERR_QCOW2_LOCKED` when
   * another process uses it; system errors
   */
  static async open(path: string, options: FileOptions): Promise<FileStorage> {
    const absolute = resolve(path);
    const fd = await openWithoutWaiting(absolute, options.mode);
    try {
      return await FileStorage.#start({ fd }, options, absolute);
    } catch (error) {
      await closeFd(fd);
      throw error;
    }
  }

  /**
   * Uses a file that the caller has opened, and goes on to own: `close()` waits for what is under way and leaves the
   * handle open.
   * @throws as {@link FileStorage.open}
   */
  static async wrap(handle: FileHandle, options: FileOptions): Promise<FileStorage> {
    return FileStorage.#start(handle, options, null);
  }

  static async #start(
    handle: Pick<FileHandle, 'fd'>,
    options: FileOptions,
    path: string | null,
  ): Promise<FileStorage> {
    const { mode, regularOnly = false, lock = true } = options;
    const name = path ?? `file descriptor ${handle.fd}`;
    const kind = await examine(handle.fd, name, regularOnly);
    const release = lock ? acquireImageLock(handle.fd, mode === 'r' ? 'r' : 'r+', name) : null;
    const storage = new FileStorage(handle, mode, kind, name, path, release);
    try {
      if (mode === 'create') await makeEmpty(storage);
      return storage;
    } catch (error) {
      release?.();
      throw error;
    }
  }

  get #fd(): number {
    return this.#handle.fd;
  }

  /**
   * Runs work on the descriptor; `close` waits for it.
   * @throws Qcow2Error `ERR_QCOW2_CLOSED` when the storage, or the caller's handle that it uses, is closed
   */
  async withDescriptor<T>(work: (fd: number) => Promise<T>): Promise<T> {
    this.#enter();
    try {
      if (this.#fd < 0) throw closed(this.name);
      return await work(this.#fd);
    } finally {
      this.#busy.leave();
    }
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#run(() => readFully(this.#fd, buffer, toBytes('position', position)));
  }

  readCached(buffer: Uint8Array, position: number): boolean {
    const fd = this.#fd;
    if (!this.#hasReadCached || this.#closing !== null || fd < 0) return false;
    try {
      const result = native.readCached(fd, position, buffer);
      this.#hasReadCached = result !== OsResult.unsupported;
      return result === 1;
    } catch {
      // What is wrong, a read that waits tells.
      return false;
    }
  }

  write(buffer: Uint8Array, position: number): Promise<void> {
    return this.#change(() => {
      const at = toBytes('position', position);
      return buffer.length <= maxSmallWrite ? this.#writeSmall(buffer, at) : writeFully(this.#fd, buffer, at);
    });
  }

  writev(buffers: readonly Uint8Array[], position: number): Promise<void> {
    return this.#change(() => writevFully(this.#fd, buffers, toBytes('position', position)));
  }

  /**
   * Resolves once everything whose write had resolved before the call is durable. Once it has failed it fails for ever:
   * the system may have dropped the data, and would call the next attempt a success.
   * @throws the system error the first time; then Qcow2Error `ERR_QCOW2_FAILED`
   */
  flush(): Promise<void> {
    return this.#run(async () => {
      this.#refuseAfterFailure();
      try {
        await complete((callback) => fs.fdatasync(this.#fd, callback));
        await this.#syncNameOnce();
      } catch (error) {
        this.#flushFailure ??= error;
        throw error;
      }
      // The system tells of a lost write once, to one of the flushes that run side by side.
      this.#refuseAfterFailure();
    });
  }

  /** Inode, length and time of the last change. */
  state(): Promise<string> {
    return this.#run(async () => {
      const { dev, ino, size, mtimeNs } = await fstat(this.#fd, { bigint: true });
      return `${dev}:${ino}:${size}:${mtimeNs}`;
    });
  }

  size(): Promise<number> {
    return this.#run(() => this.#currentSize());
  }

  /** Cuts or extends the file to `size` bytes. A block device keeps its size: what it can hold resolves, more is refused. */
  truncate(size: number): Promise<void> {
    return this.#change(async () => {
      const bytes = toBytes('size', size);
      if (this.#deviceSize === null) await complete((callback) => fs.ftruncate(this.#fd, bytes, callback));
      else if (bytes > this.#deviceSize) throw deviceTooSmall(this.name, this.#deviceSize, bytes);
    });
  }

  allocatedSize(): Promise<number> {
    return this.#run(async () => this.#deviceSize ?? (await fstat(this.#fd)).blocks * 512);
  }

  /** Gives space back where platform and file system can (Linux), else resolves to false and changes nothing. */
  punch(position: number, length: number): Promise<boolean> {
    return this.#change(() =>
      this.#onRange(position, length, (at, bytes) => native.punchHole(this.#fd, at, bytes)),
    );
  }

  /** Reserves space, growing the file where the range ends past it, where platform and file system can (Linux). */
  allocate(position: number, length: number): Promise<boolean> {
    return this.#change(() =>
      this.#onRange(position, length, (at, bytes) => native.allocate(this.#fd, at, bytes, false)),
    );
  }

  /** Where the file system does not tell holes, all is data. */
  nextData(position: number): Promise<number | null> {
    return this.#run(async () => {
      const found = native.seekData(this.#fd, toBytes('position', position));
      if (found === OsResult.unsupported) return position < (await this.#currentSize()) ? position : null;
      return found === OsResult.nothing ? null : found;
    });
  }

  nextHole(position: number): Promise<number> {
    return this.#run(async () => {
      const found = native.seekHole(this.#fd, toBytes('position', position));
      if (found === OsResult.unsupported) return Math.max(position, await this.#currentSize());
      return found === OsResult.nothing ? position : found;
    });
  }

  /** Refuses new operations, waits for those under way, and lets the file go. Safe to call twice. Does not flush. */
  close(): Promise<void> {
    this.#closing ??= this.#closeWhenIdle();
    return this.#closing;
  }

  async #currentSize(): Promise<number> {
    return this.#deviceSize ?? (await fstat(this.#fd)).size;
  }

  async #onRange(
    position: number,
    length: number,
    call: (position: number, length: number) => Promise<boolean>,
  ): Promise<boolean> {
    const at = toBytes('position', position);
    const bytes = toBytes('length', length);
    if (bytes === 0) return true;
    try {
      return await call(at, bytes);
    } catch (error) {
      // Block devices take whole sectors within their size only.
      if (this.#deviceSize !== null && (error as NodeJS.ErrnoException).code === 'EINVAL') return false;
      throw error;
    }
  }

  /** Waking a thread of the pool takes longer than writing some KiB: these have threads of their own. */
  async #writeSmall(buffer: Uint8Array, position: number): Promise<void> {
    const { length } = buffer;
    try {
      if (this.#fd >= 0 && (await native.writeSmall(this.#fd, buffer, position))) return;
    } catch {
      // Memory that is shared, or can shrink, is not for these threads.
    }
    // A descriptor that its owner has closed, and what else is wrong, this attempt tells.
    await writeFully(this.#fd, buffer, position, length);
  }

  async #closeWhenIdle(): Promise<void> {
    await this.#busy.idle();
    // A caller's handle may be closed already, and its locks gone.
    if (this.#fd >= 0) this.#releaseLock?.();
    if (this.#ownsHandle) await closeFd(this.#fd);
  }

  #change<T>(operation: () => Promise<T>): Promise<T> {
    if (!this.readOnly) return this.#run(operation);
    return Promise.reject(
      new Qcow2Error('ERR_QCOW2_READ_ONLY', `${this.name} is open read-only and cannot be changed`),
    );
  }

  /** Runs an operation of this file alone: names the file in its errors. */
  async #run<T>(operation: () => Promise<T>): Promise<T> {
    this.#enter();
    try {
      return await operation();
    } catch (error) {
      throw withPath(error, this.path);
    } finally {
      this.#busy.leave();
    }
  }

  /** Counts an operation as under way, so that `close` waits for it. */
  #enter(): void {
    if (this.#closing !== null) throw closed(this.name);
    this.#busy.enter();
  }

  #refuseAfterFailure(): void {
    if (this.#flushFailure === null) return;
    throw new Qcow2Error(
      'ERR_QCOW2_FAILED',
      `An earlier flush of ${this.name} failed, so writes may be lost; check the medium, then open the image again and check it`,
      { cause: this.#flushFailure },
    );
  }

  async #syncNameOnce(): Promise<void> {
    if (this.#unsyncedName === null) return;
    await syncName(this.#unsyncedName);
    this.#unsyncedName = null;
  }
}

/** Calls on a descriptor do not know the path: adds it to a system error, as those of node:fs that take a path have it. */
function withPath(error: unknown, path: string | undefined): unknown {
  const isSystemError = error instanceof Error && 'syscall' in error && !('path' in error);
  if (!isSystemError || path === undefined) return error;
  error.message += ` '${visible(path)}'`;
  return Object.assign(error, { path });
}

const closed = (name: string): Qcow2Error => new Qcow2Error('ERR_QCOW2_CLOSED', `${name} is closed`);

function deviceTooSmall(name: string, there: number, wanted: number): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `The block device ${name} has ${there} bytes and cannot grow to ${wanted}; use a larger device or a file`,
  );
}
