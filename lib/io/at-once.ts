/** Small reads that are over when they return: for these, waiting costs more than reading. */
import type { Storage } from '../storage/storage.js';
import { turn } from './turn.js';

/** Longer reads are better off on the thread pool, beside others. */
const maxReadAtOnce = 64 * 1024;

/** What a read that was over at once returns, so that who called it can tell and need not wait. */
export const alreadyDone: Promise<void> = Promise.resolve();

/** Whether {@link readAtOnce} may be able to read `length` bytes of a store. */
export function mayBeAtOnce(storage: Storage, length: number): boolean {
  return storage.readCached !== undefined && length <= maxReadAtOnce;
}

/** Fills `buffer` from what a store has in memory, if it does; else the buffer holds garbage. */
export function readAtOnce(storage: Storage, buffer: Uint8Array, position: number): boolean {
  return (
    mayBeAtOnce(storage, buffer.length) && turn.step() && storage.readCached?.(buffer, position) === true
  );
}
