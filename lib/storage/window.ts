/** A part of a store as a store of its own: an image inside another file, such as an archive or a partitioned disk. */
import { outOfRange } from '../errors.js';
import { alignUp, toBytes } from '../format/units.js';
import type { OpenedSource } from './open-source.js';
import type { Storage } from './storage.js';

const sectorBytes = 512;

/** Which part of a file an image is. */
export interface Window {
  /** Its first byte in the file; 0 by default. */
  offset?: number | bigint;
  /** Bytes, which it then keeps; to the end of the file by default, which it may then move. */
  size?: number | bigint;
}

/**
 * The part of what was opened, which it owns from then on.
 * @throws RangeError when the part is not within the store; the store is closed then
 */
export async function openWindow({ storage, owned }: OpenedSource, window: Window): Promise<OpenedSource> {
  try {
    const offset = toBytes('offset', window.offset ?? 0);
    const size = window.size === undefined ? null : toBytes('size', window.size);
    const there = await storage.size();
    if (offset > there) throw outOfRange('offset', `at most the ${there} bytes of ${storage.name}`, offset);
    // What fills up the last sector reads as zeros.
    if (size !== null && offset + size > alignUp(there, sectorBytes)) {
      throw outOfRange(
        'size',
        `at most the ${there - offset} bytes from ${offset} on in ${storage.name}`,
        size,
      );
    }
    return { storage: new WindowStorage(storage, owned, offset, size), owned: true };
  } catch (error) {
    if (owned) await storage.close();
    throw error;
  }
}

class WindowStorage implements Storage {
  readonly name: string;
  readonly readOnly: boolean;
  readonly origin: number;
  readonly identity?: string;
  readonly path?: string;
  readonly punch?: NonNullable<Storage['punch']>;
  readonly allocate?: NonNullable<Storage['allocate']>;
  readonly allocatedSize?: NonNullable<Storage['allocatedSize']>;
  readonly readCached?: NonNullable<Storage['readCached']>;
  readonly nextData?: NonNullable<Storage['nextData']>;
  readonly nextHole?: NonNullable<Storage['nextHole']>;
  readonly #whole: Storage;
  readonly #owned: boolean;
  readonly #size: number | null;

  /** @param size bytes, or null for all up to the end, which may move */
  constructor(whole: Storage, owned: boolean, origin: number, size: number | null) {
    this.name = whole.name;
    this.readOnly = whole.readOnly;
    this.origin = origin;
    if (whole.identity !== undefined) this.identity = whole.identity;
    if (whole.path !== undefined) this.path = whole.path;
    this.#whole = whole;
    this.#owned = owned;
    this.#size = size;
    // What the store cannot do, a part of it cannot either.
    if (whole.punch !== undefined) this.punch = (at, bytes) => this.#change('punch', at, bytes);
    if (whole.allocate !== undefined) this.allocate = (at, bytes) => this.#change('allocate', at, bytes);
    if (whole.allocatedSize !== undefined) this.allocatedSize = whole.allocatedSize.bind(whole);
    if (whole.readCached !== undefined) this.readCached = (buffer, at) => this.#readCached(buffer, at);
    if (whole.nextData !== undefined) this.nextData = (at) => this.#nextData(at);
    if (whole.nextHole !== undefined) this.nextHole = (at) => this.#nextHole(at);
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const there = this.#size === null ? Infinity : Math.max(0, this.#size - position);
    if (there === 0) return 0;
    const part = there < buffer.length ? buffer.subarray(0, there) : buffer;
    return this.#whole.read(part, this.origin + position);
  }

  async write(buffer: Uint8Array, position: number): Promise<void> {
    this.#demandRoom(position + buffer.length, 'write');
    await this.#whole.write(buffer, this.origin + position);
  }

  flush(): Promise<void> {
    return this.#whole.flush();
  }

  async size(): Promise<number> {
    return this.#size ?? Math.max(0, (await this.#whole.size()) - this.origin);
  }

  /** A part of fixed size keeps it, as a device does: what it can hold resolves, more is refused. */
  async truncate(size: number): Promise<void> {
    this.#demandRoom(size, 'ftruncate');
    if (this.#size === null) await this.#whole.truncate(this.origin + size);
  }

  async close(): Promise<void> {
    if (this.#owned) await this.#whole.close();
  }

  async #change(how: 'punch' | 'allocate', position: number, length: number): Promise<boolean> {
    this.#demandRoom(position + length, 'fallocate');
    return (await this.#whole[how]?.(this.origin + position, length)) ?? false;
  }

  #readCached(buffer: Uint8Array, position: number): boolean {
    const isInside = this.#size === null || position + buffer.length <= this.#size;
    return isInside && this.#whole.readCached?.(buffer, this.origin + position) === true;
  }

  async #nextData(position: number): Promise<number | null> {
    const found = (await this.#whole.nextData?.(this.origin + position)) ?? null;
    if (found === null || found - this.origin >= (this.#size ?? Infinity)) return null;
    return found - this.origin;
  }

  async #nextHole(position: number): Promise<number> {
    if (this.#size !== null && position >= this.#size) return position;
    const found = (await this.#whole.nextHole?.(this.origin + position)) ?? this.origin + position;
    return Math.min(found - this.origin, this.#size ?? Infinity);
  }

  /** @throws a system error where the part has no room, so that it passes for a full device */
  #demandRoom(end: number, syscall: string): void {
    if (this.#size === null || end <= this.#size) return;
    const text = `ENOSPC: no space left on device, ${syscall} (the part of ${this.name} that is used has ${this.#size} bytes)`;
    throw Object.assign(new Error(text), { code: 'ENOSPC', syscall });
  }
}
