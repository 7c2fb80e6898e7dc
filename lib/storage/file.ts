/** A store in a file or on a block device, through positional calls on its descriptor. */
import fs from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Qcow2Error } from '../errors.js';
import { toBytes } from '../format/units.js';
import { syncName } from './directory.js';
import { complete, readFully, writeFully, writevFully } from './fd-io.js';
import { closeFd, examine, fstat, openWithoutWaiting } from './file-kind.js';
import type { FileKind, FileMode } from './file-kind.js';
import type { Storage } from './storage.js';

export type { FileMode } from './file-kind.js';

export interface FileOptions {
  /** `r`: read-only; `r+`: read and write what is there; `create`: make the file, or empty the one that is there. */
  mode: FileMode;
  /** Refuses block devices too, and the made-up files of /proc and /sys: for names that an image gave. */
  regularOnly?: boolean;
}

export class FileStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  readonly identity: string;
  readonly path?: string;
  /** Asked for its descriptor each time: when its owner has closed it, the number may already be another file's. */
  readonly #handle: Pick<FileHandle, 'fd'>;
  readonly #ownsHandle: boolean;
  readonly #deviceSize: number | null;
  /** The path of a new file while its directory entry may not be durable. */
  #unsyncedName: string | null = null;
  #flushFailure: unknown = null;
  #underWay = 0;
  #whenIdle: (() => void) | null = null;
  #closing: Promise<void> | null = null;

  private constructor(handle: Pick<FileHandle, 'fd'>, mode: FileMode, kind: FileKind, path: string | null) {
    this.#handle = handle;
    this.#ownsHandle = path !== null;
    this.#deviceSize = kind.deviceSize;
    this.identity = kind.identity;
    this.readOnly = mode === 'r';
    this.name = path ?? `file descriptor ${handle.fd}`;
    if (path !== null) this.path = path;
    if (mode === 'create') this.#unsyncedName = path;
  }

  /**
   * Opens a regular file or a block device, without waiting for anything else.
   * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED` for a directory, FIFO, socket or character device; system errors
   */
  static async open(path: string, options: FileOptions): Promise<FileStorage> {
    const absolute = resolve(path);
    const fd = await openWithoutWaiting(absolute, options.mode);
    try {
      const kind = await examine(fd, absolute, options.regularOnly ?? false);
      const storage = new FileStorage({ fd }, options.mode, kind, absolute);
      if (options.mode === 'create') await storage.truncate(0);
      return storage;
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
  static async wrap(handle: FileHandle, mode: FileMode): Promise<FileStorage> {
    const kind = await examine(handle.fd, `file descriptor ${handle.fd}`, false);
    const storage = new FileStorage(handle, mode, kind, null);
    if (mode === 'create') await storage.truncate(0);
    return storage;
  }

  get fd(): number {
    return this.#handle.fd;
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#run(() => readFully(this.fd, buffer, toBytes('position', position)));
  }

  write(buffer: Uint8Array, position: number): Promise<void> {
    return this.#change(() => writeFully(this.fd, buffer, toBytes('position', position)));
  }

  writev(buffers: readonly Uint8Array[], position: number): Promise<void> {
    return this.#change(() => writevFully(this.fd, buffers, toBytes('position', position)));
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
        await complete((callback) => fs.fdatasync(this.fd, callback));
        await this.#syncNameOnce();
      } catch (error) {
        this.#flushFailure ??= error;
        throw error;
      }
      // The system tells of a lost write once, to one of the flushes that run side by side.
      this.#refuseAfterFailure();
    });
  }

  size(): Promise<number> {
    return this.#run(async () => this.#deviceSize ?? (await fstat(this.fd)).size);
  }

  /** Cuts or extends the file to `size` bytes. A block device keeps its size: what it can hold resolves, more is refused. */
  truncate(size: number): Promise<void> {
    return this.#change(async () => {
      const bytes = toBytes('size', size);
      if (this.#deviceSize === null) await complete((callback) => fs.ftruncate(this.fd, bytes, callback));
      else if (bytes > this.#deviceSize) throw deviceTooSmall(this.name, this.#deviceSize, bytes);
    });
  }

  allocatedSize(): Promise<number> {
    return this.#run(async () => this.#deviceSize ?? (await fstat(this.fd)).blocks * 512);
  }

  /** Refuses new operations, waits for those under way, and lets the file go. Safe to call twice. Does not flush. */
  close(): Promise<void> {
    this.#closing ??= this.#closeWhenIdle();
    return this.#closing;
  }

  async #closeWhenIdle(): Promise<void> {
    if (this.#underWay > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
    if (this.#ownsHandle) await closeFd(this.fd);
  }

  #change<T>(operation: () => Promise<T>): Promise<T> {
    if (!this.readOnly) return this.#run(operation);
    return Promise.reject(
      new Qcow2Error('ERR_QCOW2_READ_ONLY', `${this.name} is open read-only and cannot be changed`),
    );
  }

  /** Counts an operation as under way, so that `close` waits for it, and names the file in its errors. */
  async #run<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#closing !== null) throw new Qcow2Error('ERR_QCOW2_CLOSED', `${this.name} is closed`);
    this.#underWay += 1;
    try {
      return await operation();
    } catch (error) {
      throw withPath(error, this.path);
    } finally {
      this.#underWay -= 1;
      if (this.#underWay === 0) this.#whenIdle?.();
    }
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
  error.message += ` '${path}'`;
  return Object.assign(error, { path });
}

function deviceTooSmall(name: string, there: number, wanted: number): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `The block device ${name} has ${there} bytes and cannot grow to ${wanted}; use a larger device or a file`,
  );
}
