/** Harmless damage that a repair has to find: clusters that leak, and COPIED flags that are missing. */
import type { MemoryStorage } from '../../lib/index.js';

const offsetMask = 0x00ff_ffff_ffff_fe00n;

/** Counts the first free clusters of an image with refcounts of 16 bits as used, and clears COPIED in a table. */
export async function leaveLeaks(image: MemoryStorage): Promise<void> {
  const bytes = image.toBuffer();
  const clusterSize = 2 ** bytes.readUInt32BE(20);
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
  let leaks = 3;
  for (let at = block; at < block + clusterSize && leaks > 0; at += 2) {
    if (bytes.readUInt16BE(at) !== 0) continue;
    bytes.writeUInt16BE(1, at);
    leaks -= 1;
  }
  const incompatible = bytes.readUInt32BE(4) >= 3 ? (bytes[79] ?? 0) : 0;
  const l1Entry = bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40)));
  const l2 = Number(l1Entry & offsetMask);
  const entrySize = (incompatible & 16) === 0 ? 8 : 16;
  // In a data file COPIED tells the cluster at offset 0 from none.
  const end = (incompatible & 4) === 0 ? l2 + clusterSize : l2;
  for (let at = l2; at < end; at += entrySize) bytes[at] = (bytes[at] ?? 0) & 0x7f;
  await image.write(bytes, 0);
}
