/** Streams that are waited for, and signals. */
import { Readable } from 'node:stream';
import { DescriptorStream } from './descriptor-stream.js';

/** Ends a wait for the next bytes when the signal is aborted; whoever waits gives its reason. Returns what lets go of the signal. */
export function destroyOnAbort(readable: unknown, signal: AbortSignal | undefined): () => void {
  if (signal === undefined) return () => undefined;
  const stop = (): void => {
    if (readable instanceof DescriptorStream) void readable.close();
    if (!(readable instanceof Readable)) return;
    // Nobody listens to it between two reads; the next one gives the reason.
    readable.once('error', () => undefined);
    readable.destroy(signal.reason as Error);
  };
  signal.addEventListener('abort', stop, { once: true });
  return () => signal.removeEventListener('abort', stop);
}
