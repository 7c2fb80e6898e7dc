/** An NBD export as a store of bytes, for images that are kept in one. */
import { Qcow2Error } from '../errors.js';
import type { Storage } from '../storage/storage.js';
import type { NbdDisk } from './nbd-disk.js';

export class NbdStorage implements Storage {
  readonly name: string;
  /** Whether the export refuses writes. */
  readonly readOnly: boolean;
  readonly identity: string;
  readonly #disk: NbdDisk;

  /**
   * The bytes of the export as a storage.
   * @param disk closed with the storage
   */
  constructor(disk: NbdDisk) {
    this.#disk = disk;
    this.name = disk.name;
    this.identity = disk.name;
    this.readOnly = !disk.writable;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const length = Math.max(0, Math.min(buffer.length, this.#disk.size - position));
    if (length > 0) await this.#disk.read(buffer.subarray(0, length), position);
    return length;
  }

  async write(buffer: Uint8Array, position: number): Promise<void> {
    if (position + buffer.length > this.#disk.size) throw this.#full();
    await this.#disk.write(buffer, position);
  }

  flush(): Promise<void> {
    return this.#disk.flush();
  }

  size(): Promise<number> {
    return Promise.resolve(this.#disk.size);
  }

  /** An export keeps its size: what is cut off reads as zeros, and it does not grow. */
  async truncate(size: number): Promise<void> {
    if (size > this.#disk.size) throw this.#full();
    await this.#disk.writeZeroes(size, this.#disk.size - size);
  }

  async punch(position: number, length: number): Promise<boolean> {
    const end = Math.min(position + length, this.#disk.size);
    if (position < end) await this.#disk.writeZeroes(position, end - position);
    return true;
  }

  nextData(position: number): Promise<number | null> {
    return this.#disk.nextData(Math.min(position, this.#disk.size));
  }

  nextHole(position: number): Promise<number> {
    return this.#disk.nextHole(Math.min(position, this.#disk.size));
  }

  /** Waits for what is under way and closes it. Safe to call twice. */
  close(): Promise<void> {
    return this.#disk.close();
  }

  #full(): Qcow2Error {
    return new Qcow2Error('ERR_QCOW2_LIMIT', `${this.name} has ${this.#disk.size} bytes and does not grow`, {
      feature: 'size',
    });
  }
}
