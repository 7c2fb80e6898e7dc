/** Kinds of image: every feature that can be chosen when one is made, which go together, and rows that cover all pairs. */
import { Random } from './pattern.js';

/** What a row of the feature matrix may choose, feature by feature. */
export const features = {
  version: [3, 2],
  clusterSize: [65536, 512, 4096, 16384, 2097152],
  refcountBits: [16, 1, 2, 4, 8, 32, 64],
  extendedL2: [false, true],
  compressionType: ['zlib', 'zstd'],
  backing: ['none', 'raw-short', 'raw-long', 'qcow2-short', 'qcow2-long'],
  dataFile: ['none', 'plain', 'raw'],
  encryption: ['none', 'luks', 'aes'],
  lazyRefcounts: [false, true],
  preallocation: ['off', 'metadata', 'falloc', 'full'],
  /** What the size of the disk is a multiple of. */
  sizeUnit: ['cluster', 'sector', 'byte'],
} as const;

type Features = typeof features;
export type ImageKind = { readonly [F in keyof Features]: Features[F][number] };

/** An image without anything special: the first choice of every feature. */
export const plainKind: ImageKind = {
  version: 3,
  clusterSize: 65536,
  refcountBits: 16,
  extendedL2: false,
  compressionType: 'zlib',
  backing: 'none',
  dataFile: 'none',
  encryption: 'none',
  lazyRefcounts: false,
  preallocation: 'off',
  sizeUnit: 'cluster',
};

const names = Object.keys(features) as (keyof ImageKind)[];

/** Whether the specification (and qemu-img 7.2) allows the combination. Raw data files are no use encrypted. */
export function isAllowed(kind: ImageKind): boolean {
  const { version, clusterSize, encryption, dataFile, backing, preallocation } = kind;
  const isV3Only =
    kind.refcountBits !== 16 ||
    kind.extendedL2 ||
    kind.compressionType === 'zstd' ||
    dataFile !== 'none' ||
    kind.lazyRefcounts;
  if (version === 2 && isV3Only) return false;
  if (kind.extendedL2 && clusterSize < 16384) return false;
  if (dataFile === 'raw' && (backing !== 'none' || encryption !== 'none')) return false;
  // What preallocated clusters of an encrypted disk hold is noise to the one and zeros to the other.
  if (preallocation !== 'off' && (backing !== 'none' || encryption !== 'none')) return false;
  return true;
}

export function nameOf(kind: ImageKind): string {
  return [
    `v${kind.version}`,
    `cluster=${kind.clusterSize}`,
    `refcount=${kind.refcountBits}`,
    kind.extendedL2 ? 'extended-l2' : '',
    kind.compressionType === 'zlib' ? '' : kind.compressionType,
    kind.backing === 'none' ? '' : `backing=${kind.backing}`,
    kind.dataFile === 'none' ? '' : `data-file=${kind.dataFile}`,
    kind.encryption === 'none' ? '' : kind.encryption,
    kind.lazyRefcounts ? 'lazy' : '',
    kind.preallocation === 'off' ? '' : `prealloc=${kind.preallocation}`,
    `size-by-${kind.sizeUnit}`,
  ]
    .filter((word) => word !== '')
    .join(' ');
}

/** Rows in which every two values that go together at all stand side by side at least once. */
export function pairwiseKinds(allowed: (kind: ImageKind) => boolean, seed = 1): ImageKind[] {
  const random = new Random(seed);
  const candidates = Array.from({ length: 20_000 }, () => randomKind(random)).filter(allowed);
  const missing = new Set(candidates.flatMap(pairsOf));
  const rows: ImageKind[] = [];
  while (missing.size > 0) {
    let best: { kind: ImageKind; gain: number } | undefined;
    for (let i = 0; i < 300; i += 1) {
      const kind = candidates[random.below(candidates.length)];
      if (kind === undefined) break;
      const gain = pairsOf(kind).filter((pair) => missing.has(pair)).length;
      if (gain > (best?.gain ?? 0)) best = { kind, gain };
    }
    // Late in the search the pairs left are rare: look for one that has the next of them.
    const [rare] = missing;
    best ??= candidates
      .filter((kind) => pairsOf(kind).includes(rare ?? ''))
      .map((kind) => ({ kind, gain: 1 }))[0];
    if (best === undefined) throw new Error('no candidate has the pairs that are left');
    rows.push(best.kind);
    for (const pair of pairsOf(best.kind)) missing.delete(pair);
  }
  return rows;
}

function randomKind(random: Random): ImageKind {
  const choose = <T>(values: readonly T[]): T => values[random.below(values.length)] as T;
  // Half of the rows are plain in the features that exclude others.
  const rarely = <T>(values: readonly [T, ...T[]]): T => (random.chance(0.5) ? values[0] : choose(values));
  return {
    version: rarely(features.version),
    clusterSize: choose(features.clusterSize),
    refcountBits: choose(features.refcountBits),
    extendedL2: choose(features.extendedL2),
    compressionType: choose(features.compressionType),
    backing: rarely(features.backing),
    dataFile: rarely(features.dataFile),
    encryption: rarely(features.encryption),
    lazyRefcounts: choose(features.lazyRefcounts),
    preallocation: rarely(features.preallocation),
    sizeUnit: choose(features.sizeUnit),
  };
}

function pairsOf(kind: ImageKind): string[] {
  return names.flatMap((a, i) =>
    names.slice(i + 1).map((b) => `${a}=${String(kind[a])} ${b}=${String(kind[b])}`),
  );
}
