/** What is being done to an image when it crashes or when its storage fails: kinds of small images, and workloads on them. */
import { readFile } from 'node:fs/promises';
import {
  create,
  MemoryStorage,
  type CompactOptions,
  type DiscardOptions,
  open,
  type CreateOptions,
  type OpenOptions,
  type Qcow2,
} from '../../lib/index.js';
import type { Storage } from '../../lib/index.js';
import { GuestHistory } from '../support/guest-history.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { withTempDir } from '../support/temp-dir.js';

const kib = 1024;

/** A small image at rest, with the content it holds. */
export interface Start {
  readonly image: MemoryStorage;
  readonly model: PlainDisk;
  readonly snapshots: ReadonlyMap<string, PlainDisk>;
  /** How to open it, apart from the mode. */
  readonly open: OpenOptions;
}

export interface Kind {
  readonly name: string;
  readonly size: number;
  readonly clusterSize: number;
  readonly compress: boolean;
  /** Whether opening it takes long. */
  readonly slow: boolean;
  readonly make: () => Promise<Start>;
}

function own(name: string, size: number, options: CreateOptions, backing?: Buffer, fill = size / 3): Kind {
  const make = async (): Promise<Start> => {
    const image = new MemoryStorage();
    const model = new PlainDisk(size);
    const below = new MemoryStorage(backing);
    if (backing !== undefined) model.write(backing.subarray(0, size), 0);
    const base = { name: '/base', format: 'raw', unchecked: true } as const;
    await (
      await create(image, size, { ...options, ...(backing === undefined ? {} : { backing: base }) })
    ).close();
    const settings: OpenOptions = {
      resolve: () => below,
      ...(options.encryption === undefined ? {} : { secret: options.encryption.secret }),
    };
    const disk = await open(image, { ...settings, mode: 'r+' });
    const data = pattern(5, Math.floor(fill / 512) * 512);
    await disk.write(data, 1024);
    model.write(data, 1024);
    await disk.close();
    await fillBehindL1(image);
    return { image, model, snapshots: new Map(), open: settings };
  };
  const compress = options.encryption === undefined;
  return { name, size, clusterSize: options.clusterSize ?? 65536, compress, slow: !compress, make };
}

/** What lies between the last L1 entry and the end of its cluster means nothing. */
async function fillBehindL1(image: MemoryStorage): Promise<void> {
  const bytes = image.toBuffer();
  const clusterSize = 2 ** bytes.readUInt32BE(20);
  const end = Number(bytes.readBigUInt64BE(40)) + bytes.readUInt32BE(36) * 8;
  const room = Math.ceil(end / clusterSize) * clusterSize - end;
  await image.write(Buffer.alloc(room, 0x22), end);
}

function withSnapshots(name: string, size: number, clusterSize: number, extended: boolean): Kind {
  const make = (): Promise<Start> =>
    withTempDir(async (path) => {
      const model = new PlainDisk(size);
      const snapshots = new Map<string, PlainDisk>();
      const options = `cluster_size=${clusterSize}${extended ? ',extended_l2=on' : ''}`;
      await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, path('image'), String(size)]);
      for (const number of [1, 2]) {
        const [at, length] = [number * 4 * kib, 20 * kib];
        model.write(Buffer.alloc(length, number), at);
        await qemuIo(path('image'), [`write -P ${number} ${at} ${length}`]);
        await qemuImg(['snapshot', '-c', `s${number}`, path('image')]);
        snapshots.set(`s${number}`, model.clone());
      }
      return { image: new MemoryStorage(await readFile(path('image'))), model, snapshots, open: {} };
    });
  return { name, size, clusterSize, compress: true, slow: false, make };
}

/** With snapshots whose tables and data lie behind much free space, and tables that need room in one piece. */
function snapshotsAtEnd(name: string, size: number, options: CreateOptions & { clusterSize: number }): Kind {
  const make = async (): Promise<Start> => {
    const image = new MemoryStorage();
    const model = new PlainDisk(size);
    const disk = await create(image, size / 2, options);
    const write = async (seed: number, at: number, length: number): Promise<void> => {
      const data = pattern(seed, length);
      await disk.write(data, at);
      model.write(data, at);
    };
    await write(1, 0, size / 2 - 2048);
    await disk.snapshots.create({ name: 'gone' });
    await write(2, 0, size / 2 - 2048);
    await disk.resize(size);
    await disk.snapshots.create({ name: 'kept' });
    const kept = model.clone();
    await write(3, 1024, 4096);
    await disk.snapshots.create({ name: 'late' });
    const late = model.clone();
    await write(4, 3072, 2048);
    await disk.snapshots.delete('gone');
    await disk.close();
    return {
      image,
      model,
      snapshots: new Map([
        ['kept', kept],
        ['late', late],
      ]),
      open: {},
    };
  };
  return { name, size, clusterSize: options.clusterSize, compress: true, slow: false, make };
}

/** For compactions. */
export const spaciousKinds: readonly Kind[] = [
  snapshotsAtEnd('snapshots behind free space', 80 * kib, { clusterSize: 512 }),
  snapshotsAtEnd('snapshots behind free space, extended L2', 256 * kib, {
    clusterSize: 16384,
    extendedL2: true,
  }),
];

export const kinds: readonly Kind[] = [
  own('512 B clusters', 100 * kib, { clusterSize: 512 }),
  own(
    'version 2 over a longer backing file',
    90 * kib,
    { clusterSize: 512, version: 2 },
    pattern(9, 120 * kib),
  ),
  own(
    'over a shorter backing file, zstd',
    100 * kib,
    { clusterSize: 1024, compressionType: 'zstd' },
    pattern(9, 50 * kib),
  ),
  own('extended L2', 200 * kib, { clusterSize: 16384, extendedL2: true }),
  own(
    'extended L2 over a backing file',
    200 * kib,
    { clusterSize: 16384, extendedL2: true },
    pattern(9, 120 * kib),
  ),
  own('lazy refcounts', 100 * kib, { clusterSize: 512, lazyRefcounts: true }),
  own('LUKS', 100 * kib, { clusterSize: 4096, encryption: { secret: 'abc', iterTimeMs: 10 } }),
  withSnapshots('with snapshots', 100 * kib, 512, false),
  withSnapshots('extended L2 with snapshots', 200 * kib, 16384, true),
];

/** Nearly as full as its refcount table can count. */
export const fullKinds: readonly Kind[] = [
  own('full refcount table', 1900 * kib, { clusterSize: 512, refcountBits: 64 }, undefined, 1850 * kib),
  own(
    'full refcount table, lazy refcounts',
    1900 * kib,
    { clusterSize: 512, refcountBits: 64, lazyRefcounts: true },
    undefined,
    1850 * kib,
  ),
];

/** A disk whose every change is noted, so that it is known what a crash may leave of them. */
export class Guest {
  readonly disk: Qcow2;
  readonly history: GuestHistory;
  readonly clusterSize: number;
  /** Sizes that the disk had or was to have, with the ticks of each change. */
  readonly sizes: { size: number; begin: number; end: number }[];
  /** The tick when closing was done. */
  closedAt = Infinity;
  readonly #mark: () => number;
  #seed = 0;

  /** @param limit the largest size the disk will ever have, bytes */
  constructor(disk: Qcow2, start: Start, clusterSize: number, limit: number, mark: () => number) {
    this.disk = disk;
    this.clusterSize = clusterSize;
    this.sizes = [{ size: disk.size, begin: -1, end: -1 }];
    this.#mark = mark;
    const model = start.model.clone();
    model.resize(limit);
    this.history = new GuestHistory(model, mark);
  }

  get size(): number {
    return this.disk.size;
  }

  write(position: number, length: number, compress = false): Promise<void> {
    this.#seed += 1;
    const data = compress ? Buffer.alloc(length, `${this.#seed} `) : pattern(this.#seed, length);
    return this.history.writing(data, position, () => this.disk.write(data, position, { compress }));
  }

  zero(position: number, length: number): Promise<void> {
    const run = (): Promise<void> => this.disk.writeZeroes(position, length);
    return this.history.writing(Buffer.alloc(length), position, run);
  }

  discard(position: number, length: number, options: DiscardOptions = {}): Promise<void> {
    const run = (): Promise<void> => this.disk.discard(position, length, options);
    return this.history.writing(Buffer.alloc(length), position, run);
  }

  /** Changes nothing that can be read, whatever else goes on. */
  async compact(options: CompactOptions = {}): Promise<void> {
    await this.disk.compact(options);
  }

  flush(): Promise<void> {
    return this.history.flushing(() => this.disk.flush());
  }

  /** What a smaller disk loses reads as zeros from then on. */
  async resize(size: number): Promise<void> {
    const change = { size, begin: this.#mark(), end: Infinity };
    this.sizes.push(change);
    const lost = Buffer.alloc(Math.max(0, this.size - size));
    await this.history.writing(lost, size, () => this.disk.resize(size, { shrink: true }));
    change.end = this.#mark();
  }

  /** Whether the disk may have this size when it crashes at `moment`: a resize is durable once it is done. */
  allowsSize(size: number, moment: number): boolean {
    const begun = this.sizes.filter(({ begin }) => begin <= moment);
    return begun
      .slice(begun.findLastIndex(({ end }) => end <= moment))
      .some((change) => change.size === size);
  }

  async close(): Promise<void> {
    await this.history.flushing(() => this.disk.close());
    this.closedAt = this.#mark();
  }
}

export interface Workload {
  readonly name: string;
  /** The disk stays below this many times its first size; 2 when absent. */
  readonly growth?: number;
  readonly run: (guest: Guest) => Promise<void>;
}

/** So much larger the L1 table of a disk with small clusters needs more than one cluster. */
const farGrowth = 21;

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
      await guest.resize(size * farGrowth);
      await guest.write(size * farGrowth - 1024, 1024);
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
      await guest.compact();
      await guest.write(44 * kib, clusterSize);
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
        guest.compact({ detectZeroes: true }),
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
      await guest.resize(size * farGrowth);
      await guest.write(size * farGrowth - 1024, 1024);
      await guest.write(size * 3, 4 * kib);
      await guest.discard(0, 15 * kib);
      await guest.flush();
      await guest.compact();
      await guest.discard(0, guest.size);
      await guest.compact();
      await guest.close();
    },
  },
  {
    name: 'compact what is compressed',
    run: async (guest) => {
      const { clusterSize } = guest;
      await guest.write(0, 6 * clusterSize, true);
      await guest.write(0, clusterSize);
      await guest.flush();
      await guest.discard(0, 2 * clusterSize);
      await guest.compact();
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

/** Any changes, some of them at once. */
export function randomWorkload(seed: number, compress: boolean): Workload {
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

/** Opens an image at rest for writing through `storage`. */
export async function openGuest(
  start: Start,
  kind: Kind,
  storage: Storage,
  { growth = 2 }: Workload,
  mark: () => number,
): Promise<Guest> {
  const disk = await open(storage, { ...start.open, mode: 'r+', cacheBytes: 16 * kind.clusterSize });
  return new Guest(disk, start, kind.clusterSize, kind.size * growth, mark);
}
