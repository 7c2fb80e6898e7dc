/** Trying again what a network or a busy server made fail, with growing, random pauses. */
import { setTimeout as sleep } from 'node:timers/promises';
import { log } from '../log.js';

export interface RetryOptions {
  /** How often a request is tried again; 4 by default. */
  retries?: number;
  /** The first pause is up to so many milliseconds, each further one up to twice the one before; 200 by default. */
  retryDelay?: number;
}

/** A failure that may pass. */
export class PassingFailure extends Error {
  override readonly name = 'PassingFailure';
  /** Milliseconds that the server asked to be left alone for. */
  readonly wait: number;

  constructor(message: string, cause?: unknown, wait = 0) {
    super(message, cause === undefined ? undefined : { cause });
    this.wait = wait;
  }
}

/** No pause is longer, whatever a server asks for, milliseconds. */
const longestPause = 30_000;

/**
 * Does work until it succeeds, fails for good, or has been tried often enough.
 * @throws what the work throws, the last time
 */
export async function retrying<T>(
  { retries = 4, retryDelay = 200 }: RetryOptions,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  for (let failures = 0; ; failures += 1) {
    signal.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof PassingFailure) || failures >= retries) throw error;
      // A random part keeps many clients from coming back at the same moment.
      const pause = Math.max(error.wait, retryDelay * 2 ** failures * Math.random());
      log('%s; trying again in %d ms (%d of %d)', error.message, Math.round(pause), failures + 1, retries);
      await sleep(Math.min(pause, longestPause), undefined, { signal });
    }
  }
}
