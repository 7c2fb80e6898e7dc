/** Changes of a disk, chosen by fast-check: plain records, so that a failing sequence can be read and shrunk. */
import fc from 'fast-check';
import { pattern } from './pattern.js';

export type ChangeKind =
  'write' | 'compressed' | 'zero' | 'discard' | 'resize' | 'flush' | 'reopen' | 'read' | 'compact';

/** A change before it is known where it goes; numbers are turned into a range by {@link placeOf}. */
export interface RandomChange {
  readonly kind: ChangeKind;
  /** Which of the interesting places, and how far from it. */
  readonly zone: number;
  readonly step: number;
  readonly jitter: number;
  readonly span: number;
  readonly seed: number;
}

export interface DiskShape {
  readonly size: number;
  readonly clusterSize: number;
  readonly coverage: number;
}

export interface Place {
  readonly position: number;
  readonly length: number;
}

const weights: Record<ChangeKind, number> = {
  write: 10,
  compressed: 5,
  zero: 5,
  discard: 5,
  resize: 1,
  flush: 3,
  reopen: 1,
  read: 3,
  compact: 2,
};

export function randomChange(kinds: readonly ChangeKind[]): fc.Arbitrary<RandomChange> {
  const kind = fc.oneof(...kinds.map((value) => ({ weight: weights[value], arbitrary: fc.constant(value) })));
  return fc.record({
    kind,
    zone: fc.nat(2),
    step: fc.nat(11),
    jitter: fc.oneof(fc.constant(0), fc.integer({ min: -513, max: 4097 })),
    span: fc.nat(7),
    seed: fc.nat(1_000_000),
  });
}

/** Where a change goes: near the start, near the border of two L2 tables or near the end, of all kinds of lengths. */
export function placeOf({ zone, step, jitter, span, seed }: RandomChange, shape: DiskShape): Place {
  const { size, clusterSize, coverage } = shape;
  const starts = [0, Math.floor((size - 1) / coverage) * coverage - 6 * clusterSize, size - 12 * clusterSize];
  const start = Math.max(0, starts[zone] ?? 0);
  const position = Math.min(size, Math.max(0, start + step * clusterSize + jitter));
  const spans = [
    1,
    511,
    512,
    clusterSize / 4,
    clusterSize,
    2 * clusterSize,
    3 * clusterSize + 700,
    9 * clusterSize,
  ];
  const wanted = span === 3 ? (seed % (2 * clusterSize)) + 1 : (spans[span] ?? 1);
  return { position, length: Math.min(Math.floor(wanted), size - position) };
}

/** The same range extended to whole clusters, as compressed writes need; at the end of the disk the rest of it. */
export function wholeClusters({ position, length }: Place, { size, clusterSize }: DiskShape): Place {
  const start = Math.floor(position / clusterSize) * clusterSize;
  const end = Math.min(size, Math.ceil((position + length) / clusterSize) * clusterSize);
  return { position: start, length: end - start };
}

/** Bytes that compress well, or badly, or are zeros in parts. */
export function contentFor(seed: number, length: number): Buffer {
  if (seed % 3 === 0) return pattern(seed, length);
  const data = Buffer.alloc(length, `${seed} `);
  if (seed % 3 === 1) data.fill(pattern(seed, 200), Math.floor(length / 3), Math.floor(length / 2));
  return data;
}
