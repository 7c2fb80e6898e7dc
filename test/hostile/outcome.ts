/** What must come of opening a hostile image, said beforehand. Types and their makers only. */
import type { ImageBuilder } from './builder.js';

/** Guest bytes [start, end). */
export type GuestRange = readonly [start: number, end: number];

export interface Refused {
  readonly kind: 'refused';
  readonly code: string;
  /** The field, in the words of the specification; left out where the code says it all. */
  readonly feature?: string;
}

export interface Opened {
  readonly kind: 'opened';
  /** What the guest must see, apart from the broken ranges. */
  readonly content: Buffer;
  /** Ranges on which reading fails, as their metadata is damaged. */
  readonly broken: readonly GuestRange[];
  /** Code with which all reads of data fail for want of a passphrase. */
  readonly locked?: boolean;
  /** Code with which `info` fails, as it looks at more than the disk needs. */
  readonly info?: string;
  readonly writing: Writing;
}

/** What comes of writing: where nothing else is said, writes into sound ranges succeed. */
export interface Writing {
  /** Code with which opening for writing fails. */
  readonly open?: string;
  /** Code with which writes fail that need new clusters. */
  readonly allocating?: string;
  /** Ranges that read well but must not be written to, as their metadata would lead the write astray. */
  readonly refused?: readonly GuestRange[];
  /** Why nothing can be promised before a check: stated, not tried. */
  readonly needsCheck?: string;
}

export interface HostileCase {
  readonly name: string;
  readonly bytes: Buffer;
  readonly outcome: Refused | Opened;
  /** Why we refuse, or fail on a range, what qemu-img reads. */
  readonly stricterThanQemu?: string;
  /** Why we read what qemu-img refuses. */
  readonly laxerThanQemu?: string;
  /** Why qemu-img is not asked. */
  readonly withoutQemu?: string;
}

export type Remark = Pick<HostileCase, 'stricterThanQemu' | 'laxerThanQemu' | 'withoutQemu'>;

export function refused(
  name: string,
  image: ImageBuilder | Buffer,
  code: string,
  feature?: string,
  remark: Remark = {},
): HostileCase {
  const bytes = Buffer.isBuffer(image) ? image : image.bytes;
  return {
    name,
    bytes,
    outcome: { kind: 'refused', code, ...(feature === undefined ? {} : { feature }) },
    ...remark,
  };
}

export function opened(
  name: string,
  image: ImageBuilder,
  details: Partial<Omit<Opened, 'kind'>> & Remark = {},
): HostileCase {
  const { content = image.content, broken = [], writing = {}, locked, info, ...remark } = details;
  return {
    name,
    bytes: image.bytes,
    outcome: {
      kind: 'opened',
      content,
      broken,
      writing,
      ...(locked === undefined ? {} : { locked }),
      ...(info === undefined ? {} : { info }),
    },
    ...remark,
  };
}

/** The guest range of one cluster. */
export const guestCluster = (image: ImageBuilder, index: number, count = 1): GuestRange => [
  index * image.clusterSize,
  Math.min((index + count) * image.clusterSize, image.size),
];
