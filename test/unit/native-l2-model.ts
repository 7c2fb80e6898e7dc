/** The L2 table of the specification, one subcluster at a time and in BigInt: what the native code is held against. */
import fc from 'fast-check';
import { InvalidEntry, L2Flag, RunKind } from '../../lib/native.js';

export interface Shape {
  readonly flags: number;
  readonly clusterBits: number;
}

export interface Run {
  kind: RunKind;
  length: number;
  host: number;
  aux: number;
}

/** An entry: the descriptor and, in extended tables, the subcluster bitmap. */
export interface Entry {
  readonly descriptor: bigint;
  readonly bitmap: bigint;
}

export const isExtended = (shape: Shape): boolean => (shape.flags & L2Flag.extended) !== 0;
export const entrySize = (shape: Shape): number => (isExtended(shape) ? 16 : 8);
export const clusterSize = (shape: Shape): number => 2 ** shape.clusterBits;
export const subclusterSize = (shape: Shape): number => clusterSize(shape) / (isExtended(shape) ? 32 : 1);

export function encode(shape: Shape, entries: readonly Entry[]): Buffer {
  const table = Buffer.alloc(entries.length * entrySize(shape));
  entries.forEach((entry, index) => {
    table.writeBigUInt64BE(entry.descriptor, index * entrySize(shape));
    if (isExtended(shape)) table.writeBigUInt64BE(entry.bitmap, index * 16 + 8);
  });
  return table;
}

export function decode(shape: Shape, table: Buffer): Entry[] {
  return Array.from({ length: table.length / entrySize(shape) }, (_, index) => ({
    descriptor: table.readBigUInt64BE(index * entrySize(shape)),
    bitmap: isExtended(shape) ? table.readBigUInt64BE(index * 16 + 8) : 0n,
  }));
}

/** Bits `from` to `to` inclusive, as the specification writes them, shifted down. */
const bits = (word: bigint, from: number, to: number): bigint =>
  (word >> BigInt(from)) & (2n ** BigInt(to - from + 1) - 1n);
const bit = (word: bigint, at: number): boolean => bits(word, at, at) === 1n;

export interface Compressed {
  readonly offset: bigint;
  readonly length: bigint;
}

export function compressedPart(shape: Shape, descriptor: bigint): Compressed {
  const x = 62 - (shape.clusterBits - 8);
  const offset = bits(descriptor, 0, x - 1);
  const additional = bits(descriptor, x, 61);
  const firstSector = offset / 512n;
  return { offset, length: (firstSector + additional + 1n) * 512n - offset };
}

/** Why an entry is invalid, else undefined. */
export function fault(shape: Shape, { descriptor, bitmap }: Entry): InvalidEntry | undefined {
  const external = (shape.flags & L2Flag.externalData) !== 0;
  const extended = isExtended(shape);
  if (bit(descriptor, 62)) {
    if (external) return InvalidEntry.compressedInDataFile;
    if (compressedPart(shape, descriptor).offset >= 2n ** 56n) return InvalidEntry.reservedBits;
    return bitmap === 0n ? undefined : InvalidEntry.subclusterBitmap;
  }
  if (bits(descriptor, 1, 8) !== 0n || bits(descriptor, 56, 61) !== 0n) return InvalidEntry.reservedBits;
  if (extended && bit(descriptor, 0)) return InvalidEntry.reservedBits;
  const host = bits(descriptor, 9, 55) * 512n;
  if (host % BigInt(clusterSize(shape)) !== 0n) return InvalidEntry.unalignedOffset;
  if (bit(descriptor, 0) && (shape.flags & L2Flag.zeroFlag) === 0) return InvalidEntry.zeroFlagInV2;
  if (host === 0n && bit(descriptor, 63) && !external) return InvalidEntry.copiedWithoutHost;
  const placed = host !== 0n || bit(descriptor, 63);
  for (let subcluster = 0; extended && subcluster < 32; subcluster++) {
    const allocated = bit(bitmap, subcluster);
    if (allocated && (bit(bitmap, 32 + subcluster) || !placed)) return InvalidEntry.subclusterBitmap;
  }
  return undefined;
}

/** What a subcluster is (subcluster 0 in standard tables is the cluster). */
function subclusterRun(shape: Shape, entry: Entry, subcluster: number): Run {
  const { descriptor, bitmap } = entry;
  const length = subclusterSize(shape);
  const reason = fault(shape, entry);
  if (reason !== undefined) return { kind: RunKind.invalid, length, host: 0, aux: reason };
  const copied = bit(descriptor, 63);
  const place = Number(bits(descriptor, 9, 55) * 512n);
  const placed = place !== 0 || copied;
  const zero = isExtended(shape) ? bit(bitmap, 32 + subcluster) : bit(descriptor, 0);
  const data = isExtended(shape) ? bit(bitmap, subcluster) : placed && !zero;
  if (!placed) return { kind: zero ? RunKind.zero : RunKind.unallocated, length, host: 0, aux: 0 };
  const host = place + subcluster * length;
  const empty = zero ? RunKind.zeroAllocated : RunKind.unallocatedInCluster;
  return { kind: data ? RunKind.data : empty, length, host, aux: copied ? 1 : 0 };
}

function entryRuns(shape: Shape, entry: Entry): Run[] {
  if (bit(entry.descriptor, 62) && fault(shape, entry) === undefined) {
    const { offset, length } = compressedPart(shape, entry.descriptor);
    return [
      { kind: RunKind.compressed, length: clusterSize(shape), host: Number(offset), aux: Number(length) },
    ];
  }
  return Array.from({ length: isExtended(shape) ? 32 : 1 }, (_, at) => subclusterRun(shape, entry, at));
}

const placedKinds: readonly RunKind[] = [RunKind.data, RunKind.zeroAllocated, RunKind.unallocatedInCluster];

function merges(shape: Shape, last: Run, next: Run): boolean {
  if (last.kind !== next.kind || last.kind === RunKind.compressed) return false;
  if (!placedKinds.includes(last.kind)) return last.aux === next.aux;
  const sameCopied = last.aux === next.aux || (shape.flags & L2Flag.ignoreCopied) !== 0;
  return sameCopied && last.host + last.length === next.host;
}

export function mapModel(shape: Shape, entries: readonly Entry[]): Run[] {
  const runs: Run[] = [];
  for (const next of entries.flatMap((entry) => entryRuns(shape, entry))) {
    const last = runs.at(-1);
    if (last !== undefined && merges(shape, last, next)) last.length += next.length;
    else runs.push({ ...next });
  }
  return runs;
}

/** Every combination of flags with cluster bits that go together. */
export const shapes: fc.Arbitrary<Shape> = fc
  .record({ flags: fc.integer({ min: 0, max: 15 }), clusterBits: fc.integer({ min: 9, max: 21 }) })
  .map(({ flags, clusterBits }) => ({
    flags,
    clusterBits: (flags & L2Flag.extended) !== 0 ? Math.max(14, clusterBits) : clusterBits,
  }));

const bitmaps: fc.Arbitrary<bigint> = fc.oneof(
  fc.constantFrom(0n, 0xffffffffn, 0xffffffff00000000n),
  fc
    .tuple(fc.bigInt(0n, 0xffffffffn), fc.bigInt(0n, 0xffffffffn))
    .map(([allocated, zero]) => (allocated & ~zero) | (zero << 32n)),
  fc
    .tuple(fc.nat(32), fc.nat(32))
    .map(([from, length]) => ((2n ** BigInt(length) - 1n) << BigInt(from)) & 0xffffffffn),
  fc.bigInt(0n, 2n ** 64n - 1n),
);

/** Stretches of entries as images have them: consecutive data, holes, zeros, compressed clusters, and damage. */
export function entriesOf(shape: Shape): fc.Arbitrary<Entry[]> {
  const size = BigInt(clusterSize(shape));
  const places = fc.bigInt(0n, 2n ** 56n / size - 1n);
  const near = fc.bigInt(0n, 8n);
  const topBits = fc.constantFrom(0n, 1n, 2n ** 63n, 2n ** 63n + 1n);
  const stretch = fc
    .record({
      place: fc.oneof(near, places, fc.constant(2n ** 56n / size - 2n)),
      top: topBits,
      bitmap: bitmaps,
      count: fc.integer({ min: 1, max: 6 }),
      step: fc.constantFrom(1n, 1n, 1n, 0n),
    })
    .map(({ place, top, bitmap, count, step }) =>
      Array.from({ length: count }, (_, index) => ({
        descriptor: BigInt.asUintN(64, ((place + BigInt(index) * step) * size) | top),
        bitmap,
      })),
    );
  const holes = fc
    .record({ descriptor: topBits, bitmap: bitmaps, count: fc.integer({ min: 1, max: 6 }) })
    .map(({ descriptor, bitmap, count }) =>
      Array.from({ length: count }, () => ({
        descriptor,
        bitmap: bitmap & 0xffffffff00000000n,
      })),
    );
  const compressed = fc
    .tuple(fc.bigInt(0n, 2n ** 64n - 1n), fc.boolean(), bitmaps)
    .map(([word, tidy, bitmap]) => {
      const offsetBits = BigInt(62 - (shape.clusterBits - 8));
      const far = offsetBits > 56n && tidy ? (2n ** offsetBits - 1n) ^ (2n ** 56n - 1n) : 0n;
      return [{ descriptor: (word | (1n << 62n)) & ~far, bitmap: tidy ? 0n : bitmap }];
    });
  const garbage = fc
    .tuple(fc.bigInt(0n, 2n ** 64n - 1n), bitmaps)
    .map(([descriptor, bitmap]) => [{ descriptor, bitmap }]);
  const arbitrary = fc.oneof(
    { weight: 6, arbitrary: stretch },
    { weight: 3, arbitrary: holes },
    { weight: 2, arbitrary: compressed },
    { weight: 1, arbitrary: garbage },
  );
  const most = Math.min(64, clusterSize(shape) / entrySize(shape));
  return fc.array(arbitrary, { maxLength: 14 }).map((stretches) =>
    stretches
      .flat()
      .slice(0, most)
      .map((entry) => (isExtended(shape) ? entry : { ...entry, bitmap: 0n })),
  );
}

export const tables: fc.Arbitrary<{ shape: Shape; entries: Entry[] }> = shapes.chain((shape) =>
  entriesOf(shape).map((entries) => ({ shape, entries })),
);
