/** What is being done to an image when it crashes or when its storage fails. */
import { hasFeature } from '../../lib/format/features.js';
import type { MemoryStorage, Qcow2 } from '../../lib/index.js';
import { Random } from '../support/pattern.js';
import type { Guest } from './guest.js';
import type { Kind } from './kinds.js';
import { leaveLeaks } from './leaks.js';

const kib = 1024;

export interface Workload {
  readonly name: string;
  /** The disk stays below this many times its first size; 2 when absent. */
  readonly growth?: (kind: Pick<Kind, 'clusterSize'>) => number;
  /** Kinds of images that it can be done to; all when absent. */
  readonly fits?: (kind: Kind) => boolean;
  /** Done to the image at rest. */
  readonly prepare?: (image: MemoryStorage) => Promise<void>;
  readonly run: (guest: Guest) => Promise<void>;
}

/** So much larger the L1 table of a disk with small clusters needs more than one cluster. */
const farGrowth = ({ clusterSize }: Pick<Kind, 'clusterSize'>): number => (clusterSize === 512 ? 21 : 3);

const canCompress = ({ encrypted, other }: Kind): boolean => !encrypted && other !== 'data file';
const hasBacking = ({ other }: Kind): boolean => other.endsWith('backing');
/** Version 2 does not note a snapshot's disk size; bitmaps would not know what an applied snapshot changes. */
const canSnapshot = ({ other, bitmaps }: Kind): boolean => other !== 'data file' && !bitmaps;

export const workloads: readonly Workload[] = [
  {
    name: 'allocate',
    run: async (guest) => {
      await guest.write(60 * kib, 3 * kib);
      await guest.flush();
      await guest.write(80 * kib, 512);
      await guest.write(63 * kib, 2 * kib);
      await guest.flush();
      await guest.close();
    },
  },
  {
    name: 'overwrite',
    run: async (guest) => {
      await guest.write(2 * kib, 2 * kib);
      await guest.flush();
      await guest.write(3 * kib, 4 * kib);
      await guest.write(512, 1 * kib);
      await guest.close();
    },
  },
  {
    name: 'zero, then write again',
    run: async (guest) => {
      await guest.zero(2 * kib, 17 * kib);
      await guest.flush();
      await guest.write(4 * kib, 2 * kib);
      await guest.zero(5 * kib, 512);
      await guest.flush();
      await guest.zero(0, guest.size);
      await guest.close();
    },
  },
  {
    name: 'discard, then reuse',
    run: async (guest) => {
      await guest.discard(2 * kib, 18 * kib);
      await guest.write(70 * kib, 3 * kib);
      await guest.flush();
      await guest.write(50 * kib, 9 * kib);
      await guest.flush();
      await guest.discard(0, guest.size);
      await guest.flush();
      await guest.write(2 * kib, 3 * kib);
      await guest.flush();
      await guest.close();
    },
  },
  {
    name: 'discard and keep the clusters, then write there',
    run: async (guest) => {
      await guest.discard(2 * kib, 14 * kib, { keepAllocated: true });
      await guest.write(5 * kib, 1024);
      await guest.discard(5 * kib, 4 * kib, { keepAllocated: true });
      await guest.flush();
      await guest.write(8 * kib, 512);
      await guest.close();
    },
  },
  {
    name: 'compress, overwrite, compress again',
    fits: canCompress,
    run: async (guest) => {
      const { clusterSize } = guest;
      await guest.write(0, 4 * clusterSize, true);
      await guest.flush();
      await guest.write(0, 2 * clusterSize, true);
      await guest.write(clusterSize, 512);
      await guest.flush();
      await guest.write(3 * clusterSize, 2 * clusterSize, true);
      await guest.flush();
      await guest.discard(0, 3 * clusterSize);
      await guest.flush();
      await guest.write(0, 3 * clusterSize, true);
      await guest.close();
    },
  },
  {
    name: 'many at once',
    run: async (guest) => {
      await Promise.all([
        guest.write(40 * kib, 2 * kib),
        guest.discard(2 * kib, 4 * kib),
        guest.flush(),
        guest.write(50 * kib, 512),
        guest.write(8 * kib, 1024),
        guest.flush(),
        guest.zero(12 * kib, 3 * kib),
      ]);
      await Promise.all([guest.write(60 * kib, 2 * kib), guest.flush(), guest.write(72 * kib, 2 * kib)]);
      await guest.close();
    },
  },
  {
    name: 'grow the disk and its L1 table',
    growth: farGrowth,
    run: async (guest) => {
      const { size } = guest;
      await guest.write(size - 1024, 1024);
      await guest.resize(size * 2);
      await guest.write(size * 2 - 1024, 1024);
      await guest.flush();
      const large = size * farGrowth(guest);
      await guest.resize(large);
      await guest.write(large - 1024, 1024);
      await guest.flush();
      await guest.close();
    },
  },
  {
    name: 'resize where nothing is',
    run: async (guest) => {
      await guest.resize(guest.size + 4096);
      await guest.resize(guest.size - 2048);
      await guest.close();
    },
  },
  {
    name: 'shrink, then grow again',
    run: async (guest) => {
      const { size } = guest;
      await guest.write(size - 8 * kib, 4 * kib);
      await guest.resize(21 * kib);
      await guest.write(18 * kib, 2 * kib);
      await guest.flush();
      await guest.resize(size);
      await guest.write(40 * kib, 1024);
      await guest.resize(3 * kib);
      await guest.resize(30 * kib);
      await guest.flush();
      await guest.close();
    },
  },
  {
    name: 'snapshots made, applied and deleted',
    fits: canSnapshot,
    run: async (guest) => {
      await guest.write(3 * kib, 2 * kib);
      await guest.snapshot('a');
      await guest.write(4 * kib, 5 * kib);
      await guest.discard(20 * kib, 4 * kib);
      await guest.snapshot('b');
      await guest.write(40 * kib, 1 * kib);
      await guest.applySnapshot('a');
      await guest.write(3 * kib, 1 * kib);
      await guest.flush();
      await guest.deleteSnapshot('a');
      await guest.write(4 * kib, 1 * kib);
      await guest.applySnapshot('b');
      await guest.deleteSnapshot('b');
      await guest.write(2 * kib, 3 * kib);
      await guest.close();
    },
  },
  {
    name: 'snapshots made and deleted while flushes come from beside',
    fits: canSnapshot,
    run: async (guest) => {
      await guest.write(3 * kib, 2 * kib);
      await guest.flushingBeside(() => guest.snapshot('a'));
      await guest.write(4 * kib, 1 * kib);
      await guest.flushingBeside(() => guest.snapshot('b'));
      await guest.flushingBeside(() => guest.deleteSnapshot('a'));
      await guest.close();
    },
  },
  {
    name: 'snapshots of disks of other sizes',
    fits: (kind) => canSnapshot(kind) && kind.version === 3,
    growth: farGrowth,
    run: async (guest) => {
      const { size } = guest;
      await guest.snapshot('small');
      const large = size * farGrowth(guest);
      await guest.resize(large);
      await guest.write(large - 1024, 1024);
      await guest.snapshot('large');
      await guest.applySnapshot('small');
      await guest.write(size - 1024, 1024);
      await guest.flush();
      await guest.applySnapshot('large');
      await guest.deleteSnapshot('small');
      await guest.resize(30 * kib);
      await guest.deleteSnapshot('large');
      await guest.close();
    },
  },
  {
    name: 'compressed clusters in snapshots',
    fits: (kind) => canSnapshot(kind) && canCompress(kind),
    run: async (guest) => {
      const { clusterSize } = guest;
      await guest.write(0, 3 * clusterSize, true);
      await guest.snapshot('packed');
      await guest.write(clusterSize, 2 * clusterSize, true);
      await guest.write(512, 512);
      await guest.flush();
      await guest.deleteSnapshot('packed');
      await guest.write(0, clusterSize, true);
      await guest.close();
    },
  },
  {
    name: 'bitmaps made, changed and removed',
    fits: ({ version }) => version === 3,
    run: async (guest) => {
      const { bitmaps } = guest.disk;
      await guest.write(3 * kib, 2 * kib);
      await guest.bitmap('all');
      await guest.write(8 * kib, 3 * kib);
      await guest.promising(
        'whether a bitmap is enabled',
        () => bitmaps.create({ name: 'other', granularity: 512 }),
        (disk) => isEnabled(disk, 'other', true),
      );
      await guest.zero(30 * kib, 8 * kib);
      await guest.promising(
        'whether a bitmap is enabled',
        () => bitmaps.disable('other'),
        (disk) => isEnabled(disk, 'other', false),
      );
      await guest.flush();
      await bitmaps.merge('all', ['other']);
      await guest.discard(0, 4 * kib);
      await guest.promising(
        'whether a bitmap is enabled',
        () => bitmaps.enable('other'),
        (disk) => isEnabled(disk, 'other', true),
      );
      await bitmaps.clear('other');
      await guest.resize(guest.size * 2);
      await guest.write(guest.size - 512, 512);
      await guest.promising(
        'whether a bitmap is enabled',
        () => bitmaps.remove('other'),
        (disk) => isEnabled(disk, 'other', undefined),
      );
      await guest.write(50 * kib, 512);
      await guest.close();
    },
  },
  {
    name: 'the only bitmap made and removed',
    fits: ({ version, bitmaps }) => version === 3 && !bitmaps,
    run: async (guest) => {
      await guest.bitmap('all');
      await guest.write(8 * kib, 3 * kib);
      await guest.disk.bitmaps.remove('all');
      await guest.close();
    },
  },
  {
    name: 'grow, preallocated',
    fits: (kind) => !hasBacking(kind),
    run: async (guest) => {
      const { size } = guest;
      await guest.discard(8 * kib, 8 * kib);
      await guest.flush();
      await guest.resize(size + 8 * kib, 'metadata');
      await guest.write(size + 4 * kib, 1024);
      await guest.resize(size + 20 * kib, 'full');
      await guest.flush();
      await guest.resize(size + 2 * kib);
      await guest.close();
    },
  },
  {
    name: 'commit',
    fits: hasBacking,
    run: async (guest) => {
      await guest.zero(4 * kib, 3 * kib);
      await guest.write(60 * kib, 5 * kib);
      await guest.disk.commit();
      await guest.write(61 * kib, 1024);
      await guest.flush();
      await guest.disk.commit();
      await guest.close();
    },
  },
  {
    name: 'rebase to no backing file',
    fits: hasBacking,
    run: async (guest) => {
      await guest.write(60 * kib, 1024);
      await guest.promising(
        'the backing file',
        () => guest.disk.rebase(null),
        ({ header }) => header.backingFile === null,
      );
      await guest.write(60 * kib, 5 * kib);
      await guest.close();
    },
  },
  {
    name: 'amend',
    run: async (guest) => {
      await guest.write(3 * kib, 2 * kib);
      await guest.promising(
        'the version',
        () => guest.disk.amend({ version: 3 }),
        ({ header }) => header.version === 3,
      );
      await guest.disk.amend({ refcountBits: 32 });
      await guest.write(60 * kib, 2 * kib);
      await guest.promising(
        'lazy refcounts',
        () => guest.disk.amend({ lazyRefcounts: true }),
        ({ header }) => hasFeature(header, 'lazyRefcounts'),
      );
      await guest.write(4 * kib, 2 * kib);
      await guest.flush();
      await guest.promising(
        'lazy refcounts',
        () => guest.disk.amend({ lazyRefcounts: false, refcountBits: 8 }),
        ({ header }) => !hasFeature(header, 'lazyRefcounts') && header.geometry.refcountBits === 8,
      );
      await guest.discard(0, 8 * kib);
      await guest.close();
    },
  },
  {
    name: 'repair, rebuild the refcounts',
    prepare: leaveLeaks,
    run: async (guest) => {
      await guest.write(3 * kib, 512);
      await guest.promising('a repair', () => repair(guest), isRepaired);
      await guest.write(60 * kib, 2 * kib);
      await guest.disk.rebuildRefcounts();
      await guest.write(75 * kib, 2 * kib);
      await guest.flush();
      await guest.close();
    },
  },
];

/** Moves clusters of every kind, alone and while the disk is being written to. */
export const compactions: readonly Workload[] = [
  {
    name: 'compact',
    run: async (guest) => {
      const { clusterSize } = guest;
      await guest.write(40 * kib, 12 * kib);
      await guest.discard(2 * kib, 9 * kib);
      await guest.flush();
      await guest.disk.compact();
      await guest.write(44 * kib, clusterSize);
      await guest.flush();
      await guest.close();
    },
  },
  {
    name: 'compact after discarding nearly all',
    run: async (guest) => {
      await guest.discard(0, 56 * kib);
      await guest.flush();
      await guest.disk.compact();
      await guest.write(8 * kib, guest.clusterSize);
      await guest.flush();
      await guest.close();
    },
  },
  {
    name: 'compact while it is written to',
    run: async (guest) => {
      await guest.write(40 * kib, 20 * kib);
      await guest.zero(48 * kib, 4 * kib);
      await guest.discard(2 * kib, 14 * kib);
      await Promise.all([
        guest.disk.compact({ detectZeroes: true, order: 'guest' }),
        guest.write(20 * kib, 1024),
        guest.flush(),
        guest.write(41 * kib, 512),
        guest.discard(52 * kib, 3 * kib),
        guest.write(56 * kib, 1024),
      ]);
      await guest.close();
    },
  },
  {
    name: 'compact what grew and shrank',
    growth: farGrowth,
    run: async (guest) => {
      const { size } = guest;
      const large = size * farGrowth(guest);
      await guest.resize(large);
      await guest.write(large - 1024, 1024);
      await guest.write(size * 2, 4 * kib);
      await guest.discard(0, 15 * kib);
      await guest.flush();
      await guest.disk.compact();
      await guest.discard(0, guest.size);
      await guest.disk.compact();
      await guest.close();
    },
  },
  {
    name: 'compact what is compressed',
    fits: canCompress,
    run: async (guest) => {
      const { clusterSize } = guest;
      await guest.write(0, 6 * clusterSize, true);
      await guest.write(0, clusterSize);
      await guest.flush();
      await guest.discard(0, 2 * clusterSize);
      await guest.disk.compact();
      await guest.close();
    },
  },
];

/** Fills the image until its refcount table has to grow. */
export const fillUp: Workload = {
  name: 'grow the refcount table',
  run: async (guest) => {
    const { size } = guest;
    await guest.resize(size + 600 * kib);
    for (let at = size; at < size + 500 * kib; at += 100 * kib) await guest.write(at, 100 * kib);
    await guest.flush();
    await guest.discard(1024, 2048);
    await guest.write(size + 560 * kib, 1024);
    await guest.close();
  },
};

async function isEnabled(disk: Qcow2, name: string, wanted: boolean | undefined): Promise<boolean> {
  return (await disk.bitmaps.list()).find((one) => one.name === name)?.enabled === wanted;
}

async function repair(guest: Guest): Promise<void> {
  const report = await guest.disk.check({ repair: 'all' });
  const isKnown = report.checkErrors === 0;
  if (isKnown && report.corruptions + report.leaks > 0) throw new Error('the repair did not help');
}

/** Refcounts may be late again in a dirty image. */
async function isRepaired(disk: Qcow2): Promise<boolean> {
  return hasFeature(disk.header, 'dirty') || (await disk.check()).corruptions === 0;
}

/** Any changes, some of them at once. */
export function randomWorkload(seed: number, kind: Kind): Workload {
  const compress = canCompress(kind);
  return {
    name: `random ${seed}`,
    run: async (guest) => {
      const random = new Random(seed);
      const start = guest.size;
      for (let round = 0; round < 5; round += 1) {
        const sector = (limit: number): number => random.below(limit / 512) * 512;
        // Each in a part of the disk of its own: of changes at one place it would not be known which is the last.
        const share = Math.max(512, Math.floor(guest.size / 4 / 512) * 512);
        const parts = Array.from({ length: random.between(1, 4) }, (_, i) => i * share);
        const together = parts.map((part) => {
          const end = Math.min(part + share, guest.size);
          if (part >= end) return guest.flush();
          const position = part + sector(end - part);
          const length = Math.min(end - position, 512 + sector(12 * kib));
          const first = Math.ceil(part / guest.clusterSize) * guest.clusterSize;
          const clusters = Math.min(2, Math.floor((end - first) / guest.clusterSize));
          return random.pick([
            () => guest.write(position, length),
            () => guest.write(position, length),
            () => guest.zero(position, length),
            () => guest.discard(position, length),
            () =>
              compress && clusters > 0
                ? guest.write(first, clusters * guest.clusterSize, true)
                : guest.write(position, 512),
            () => guest.flush(),
          ])();
        });
        await Promise.all(together);
        if (random.chance(0.1)) await guest.resize(512 + sector(start * 2 - 512));
        if (random.chance(0.4)) await guest.flush();
      }
      await guest.close();
    },
  };
}
