/** The cache modes of qemu-img: all are accepted, and all mean the same here. */
import { Failure } from './failure.js';

const modes = ['none', 'off', 'writeback', 'writethrough', 'directsync', 'unsafe'];

/**
 * @param what `cache` or `source cache`
 * @throws Failure for an unknown mode
 */
export function checkCacheMode(what: string, mode: string): void {
  if (!modes.includes(mode)) throw new Failure(`Invalid ${what} option: ${mode}`);
}
