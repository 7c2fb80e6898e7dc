/** The sound images that hostile ones are made from, by changing what a case is about. */
import { deflateRawSync } from 'node:zlib';
import { ImageBuilder, type Shape } from './builder.js';

/** Guest clusters of {@link standard}, by what is in them; the rest is unallocated. */
export const guest = {
  data: 0,
  moreData: 1,
  zero: 4,
  zeroWithHost: 5,
  compressed: 6,
  unallocated: 7,
  lastData: 8,
} as const;

/** Two L2 tables' worth of disk with one cluster of every kind, and one data cluster in the second table. */
export function standard(shape: Shape = {}): ImageBuilder {
  const image = new ImageBuilder(shape);
  image.data(guest.data);
  image.data(guest.moreData);
  if (image.version === 3) {
    image.zero(guest.zero);
    image.zero(guest.zeroWithHost, true);
  }
  if ((shape.compressionType ?? 0) === 0) {
    const content = textOf(image.clusterSize);
    image.compressed(guest.compressed, deflateRawSync(content), content);
  }
  if (image.size > image.coverage) image.data(image.l2Entries);
  image.data(guest.lastData);
  return image;
}

/** The smallest image with data: one L2 table with one entry. */
export function small(shape: Shape = {}): ImageBuilder {
  const { clusterBits = 12 } = shape;
  const image = new ImageBuilder({ size: 16 * 2 ** clusterBits, ...shape });
  image.data(guest.data);
  return image;
}

/** Compressible content. */
export const textOf = (length: number): Buffer =>
  Buffer.alloc(length, 'all work and no play makes jack a dull disk; ');
