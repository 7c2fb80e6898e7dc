/** A store whose chosen operations wait until they are let go, or fail: for looking at what happens in between. */
import type { Storage } from '../../lib/index.js';

export interface HeldOperation {
  readonly kind: 'read' | 'write';
  readonly position: number;
  readonly length: number;
}

export class HeldStorage implements Storage {
  readonly name = 'held';
  readonly readOnly = false;
  /** Operations for which this is true wait for {@link letGo}. */
  holds: (operation: HeldOperation) => boolean = () => false;
  /** Operations for which this returns an error fail with it. */
  fails: (operation: HeldOperation) => Error | undefined = () => undefined;
  readonly #inner: Storage;
  #waiting: (() => void)[] = [];

  constructor(inner: Storage) {
    this.#inner = inner;
  }

  /** Operations that wait now. */
  get waiting(): number {
    return this.#waiting.length;
  }

  letGo(): void {
    this.holds = () => false;
    for (const go of this.#waiting.splice(0)) go();
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    await this.#pass({ kind: 'read', position, length: buffer.length });
    return this.#inner.read(buffer, position);
  }

  async write(buffer: Uint8Array, position: number): Promise<void> {
    await this.#pass({ kind: 'write', position, length: buffer.length });
    await this.#inner.write(buffer, position);
  }

  flush(): Promise<void> {
    return this.#inner.flush();
  }

  size(): Promise<number> {
    return this.#inner.size();
  }

  truncate(size: number): Promise<void> {
    return this.#inner.truncate(size);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  async #pass(operation: HeldOperation): Promise<void> {
    const error = this.fails(operation);
    if (error !== undefined) throw error;
    if (this.holds(operation)) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

/** Waits until a storage holds something back. */
export async function untilHeld(storage: HeldStorage): Promise<void> {
  while (storage.waiting === 0) await new Promise((resolve) => setImmediate(resolve));
}

/** Gives everything that can go on time to do so. */
export async function soon(): Promise<void> {
  for (let i = 0; i < 20; i += 1) await new Promise((resolve) => setImmediate(resolve));
}

export const systemError = (code: string): Error => Object.assign(new Error(code), { code });
