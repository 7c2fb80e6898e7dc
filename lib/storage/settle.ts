/** Waiting for several requests at once. */

/** Waits until all have settled, then fails with the first failure, so that no buffer is in use afterwards. */
export async function settleAll(promises: readonly Promise<unknown>[]): Promise<void> {
  const results = await Promise.allSettled(promises);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** A promise that fails, for what must not throw. */
export function failed(error: unknown): Promise<never> {
  return Promise.resolve().then(() => {
    throw error;
  });
}

/** Requests begun one after the other and waited for together. */
export class InFlight {
  readonly #requests: Promise<unknown>[] = [];

  add(request: Promise<unknown>): void {
    // A failure is reported by settled(); until then it must not count as unhandled.
    request.catch(() => undefined);
    this.#requests.push(request);
  }

  get count(): number {
    return this.#requests.length;
  }

  /** Waits for all requests, then fails with the first failure. */
  async settled(): Promise<void> {
    const [only] = this.#requests;
    if (this.#requests.length === 1) await only;
    else if (this.#requests.length > 1) await settleAll(this.#requests);
  }

  /** Waits for all requests, then fails with `error`, which came up while they were begun. */
  async failed(error: unknown): Promise<never> {
    await this.settled().catch(() => undefined);
    throw error;
  }
}
