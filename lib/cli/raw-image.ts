/** Makes a raw image: a file of zeros, a hole unless space is asked for. */
import { FileStorage } from '../storage/file.js';

const zeros = new Uint8Array(1024 * 1024);
/** @param size bytes */
export async function createRawImage(
  path: string,
  size: number,
  { preallocation, signal }: { preallocation: 'off' | 'falloc' | 'full'; signal: AbortSignal },
): Promise<void> {
  const storage = await FileStorage.open(path, { mode: 'create' });
  try {
    await storage.truncate(size);
    if (preallocation === 'off') return;
    if (preallocation === 'falloc' && (await storage.allocate(0, size))) return;
    for (let at = 0; at < size; at += zeros.length) {
      signal.throwIfAborted();
      await storage.write(zeros.subarray(0, Math.min(zeros.length, size - at)), at);
    }
  } finally {
    await storage.close();
  }
}
