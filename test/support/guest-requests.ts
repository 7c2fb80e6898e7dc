/** What a guest may ask of a disk, drawn from a seed: short and long, aligned and not, at the start and at the end. */
import { Random } from './pattern.js';

export interface GuestRequest {
  readonly what: 'write' | 'compress' | 'zero' | 'discard';
  /** Bytes. */
  readonly position: number;
  /** Bytes, at least one. */
  readonly length: number;
  /** From 1 to 255: what the written bytes are made from. */
  readonly fill: number;
}

export interface RequestOptions {
  /** Positions and lengths are multiples of it; `compress` takes whole clusters whatever it is. */
  unit: number;
  /** Whether compressed writes are among them. */
  compress: boolean;
  /** 24 by default. */
  count?: number;
}

const longest = 300_000;

export function guestRequests(
  seed: number,
  size: number,
  clusterSize: number,
  { unit, compress, count = 24 }: RequestOptions,
): GuestRequest[] {
  const random = new Random(seed);
  const kinds = ['write', 'write', 'zero', 'discard', ...(compress ? (['compress'] as const) : [])] as const;
  return Array.from({ length: count }, () => {
    const what = random.pick(kinds);
    const wholeClusters = what === 'compress' || random.chance(0.3);
    const grain = wholeClusters ? clusterSize : unit;
    const position = random.below(Math.ceil(size / grain)) * grain;
    const rest = size - position;
    const wanted = random.pick([grain, 512, clusterSize, 3 * clusterSize, longest]);
    const length = Math.min(rest, Math.max(grain, Math.floor(random.between(1, wanted) / grain) * grain));
    return { what, position, length, fill: random.between(1, 255) };
  });
}
