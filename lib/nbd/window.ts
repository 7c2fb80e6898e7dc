/** Bounds what one connection may have under way: a number of requests and the bytes they move. */
export class Window {
  readonly #maxRequests: number;
  readonly #maxBytes: number;
  #requests = 0;
  #bytes = 0;
  #waiting: (() => void) | null = null;
  #whenEmpty: (() => void) | null = null;

  constructor(maxRequests: number, maxBytes: number) {
    this.#maxRequests = maxRequests;
    this.#maxBytes = maxBytes;
  }

  /** Waits for room, for one caller at a time. One request alone may be larger than the bytes there are. */
  async enter(bytes: number): Promise<void> {
    while (this.#requests > 0 && !this.#fits(bytes)) {
      await new Promise<void>((resolve) => (this.#waiting = resolve));
    }
    this.#requests += 1;
    this.#bytes += bytes;
  }

  leave(bytes: number): void {
    this.#requests -= 1;
    this.#bytes -= bytes;
    const wake = this.#waiting;
    this.#waiting = null;
    wake?.();
    if (this.#requests === 0) this.#whenEmpty?.();
  }

  /** Resolves once nothing is under way; nothing may enter meanwhile. */
  async empty(): Promise<void> {
    if (this.#requests > 0) await new Promise<void>((resolve) => (this.#whenEmpty = resolve));
  }

  #fits(bytes: number): boolean {
    return this.#requests < this.#maxRequests && this.#bytes + bytes <= this.#maxBytes;
  }
}
