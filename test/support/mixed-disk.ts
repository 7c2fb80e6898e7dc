/** Disks with a bit of everything a copy can meet: data that compresses and data that does not, zeros, holes. */
import { pattern, Random } from './pattern.js';
import { PlainDisk } from './plain-disk.js';

/** Extents of 512 B to 256 KiB at any sector; about `fill` of the disk's bytes are written, some of them zeros. */
export function mixedDisk(seed: number, size: number, fill = 0.5): PlainDisk {
  const random = new Random(seed);
  const disk = new PlainDisk(size);
  for (let written = 0; written < size * fill;) {
    const start = random.below(Math.ceil(size / 512)) * 512;
    const length = Math.min(512 * random.between(1, 2 ** random.between(0, 9)), size - start);
    disk.write(someBytes(random, length), start);
    written += length;
  }
  // What stands at the very ends is forgotten first.
  disk.write(pattern(seed, Math.min(700, size)), 0);
  const tail = Math.min(3, size);
  disk.write(pattern(seed + 1, tail), size - tail);
  return disk;
}

function someBytes(random: Random, length: number): Buffer {
  const kind = random.below(5);
  if (kind === 0) return Buffer.alloc(length);
  if (kind <= 2) return pattern(random.next(), length);
  const words = Buffer.alloc(length);
  for (let at = 0; at < length; at += 8) words.write(`w${random.below(500)};`, at);
  return words;
}
