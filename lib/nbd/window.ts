/** Bounds what one connection may have under way: a number of requests and the bytes they move. */
import type { Budget } from './budget.js';

export class Window {
  readonly #maxRequests: number;
  readonly #maxBytes: number;
  /** Of all connections together. */
  readonly #budget: Budget;
  #requests = 0;
  #bytes = 0;
  #waiting: (() => void) | null = null;
  #whenEmpty: (() => void) | null = null;

  constructor(maxRequests: number, maxBytes: number, budget: Budget) {
    this.#maxRequests = maxRequests;
    this.#maxBytes = maxBytes;
    this.#budget = budget;
  }

  /** Enters if there is room now. */
  tryEnter(bytes: number): boolean {
    if (!this.#fits(bytes) || !this.#budget.tryTake(bytes, this.#requests === 0)) return false;
    this.#requests += 1;
    this.#bytes += bytes;
    return true;
  }

  /** Waits for room, for one caller at a time. One request alone may be larger than the bytes there are. */
  async enter(bytes: number): Promise<void> {
    while (!this.#fits(bytes)) await new Promise<void>((resolve) => (this.#waiting = resolve));
    await this.#budget.take(bytes);
    this.#requests += 1;
    this.#bytes += bytes;
  }

  leave(bytes: number): void {
    this.#requests -= 1;
    this.#bytes -= bytes;
    this.#budget.give(bytes);
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
    return (
      this.#requests === 0 || (this.#requests < this.#maxRequests && this.#bytes + bytes <= this.#maxBytes)
    );
  }
}
