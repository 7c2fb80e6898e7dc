/** Memory for large transfers. */
import { native } from '../native.js';

const pageSize = 4096;

/**
 * Zeroed memory that begins with a page. Large blocks from the allocator begin 16 bytes behind one, and there some
 * processors (AMD Zen 3) copy out of the page cache at a quarter of the speed.
 * @param length bytes
 */
export function pageBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length + pageSize);
  const skip = (pageSize - native.misalignment(bytes, pageSize)) % pageSize;
  return bytes.subarray(skip, skip + length);
}
