/** Remembers how far the image file surely reaches, so that not every write has to ask for its size. */
import type { Storage } from '../storage/storage.js';

export class FileEnd {
  readonly #storage: Storage;
  /** Bytes that were there when last asked. */
  #known = 0;

  constructor(storage: Storage) {
    this.#storage = storage;
  }

  /** Whether the file reaches past `position`; a promise only where the file has to be asked. */
  reaches(position: number): boolean | Promise<boolean> {
    if (position < this.#known) return true;
    return this.#ask(position);
  }

  /** To be called after the file was cut. */
  forget(): void {
    this.#known = 0;
  }

  async #ask(position: number): Promise<boolean> {
    this.#known = await this.#storage.size();
    return position < this.#known;
  }
}
