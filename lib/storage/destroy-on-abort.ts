/** Streams that are waited for, and signals. */
import { Readable } from 'node:stream';

/** Ends a wait for the next bytes when the signal is aborted. Returns what lets go of the signal. */
export function destroyOnAbort(readable: unknown, signal: AbortSignal | undefined): () => void {
  if (signal === undefined || !(readable instanceof Readable)) return () => undefined;
  const stop = (): void => {
    // Nobody listens to it between two reads; the next one gives the reason.
    readable.once('error', () => undefined);
    readable.destroy(signal.reason as Error);
  };
  signal.addEventListener('abort', stop, { once: true });
  return () => signal.removeEventListener('abort', stop);
}
