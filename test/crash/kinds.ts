/** The kinds of small images that crashes and faults are tried on, each with the content it holds. */
import { readFile } from 'node:fs/promises';
import {
  create,
  MemoryStorage,
  open,
  type CreateOptions,
  type OpenOptions,
  type Storage,
} from '../../lib/index.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { withTempDir } from '../support/temp-dir.js';

const kib = 1024;

/** A small image at rest, with the content it holds. */
export interface Start {
  readonly image: MemoryStorage;
  /** The other file that the image needs, if any: a crash hits it as well. */
  readonly other: MemoryStorage | null;
  readonly model: PlainDisk;
  readonly snapshots: ReadonlyMap<string, PlainDisk>;
  /** Enabled bitmaps by name, with the content that they count changes from. */
  readonly bitmaps: ReadonlyMap<string, PlainDisk>;
  /** How to open it, apart from the mode, with the other file as it is now. */
  readonly openWith: (other: Storage | null) => OpenOptions;
}

export interface Kind {
  readonly name: string;
  readonly size: number;
  readonly clusterSize: number;
  readonly version: 2 | 3;
  /** What there is besides the image itself: a file below it, or one that holds its data. */
  readonly other: 'nothing' | 'raw backing' | 'qcow2 backing' | 'data file';
  readonly encrypted: boolean;
  /** Whether it begins with bitmaps. */
  readonly bitmaps: boolean;
  /** Whether opening it takes long. */
  readonly slow: boolean;
  readonly make: () => Promise<Start>;
}

interface Build {
  readonly options: CreateOptions;
  readonly backing?: { readonly content: Buffer; readonly format: 'raw' | 'qcow2' };
  readonly dataFile?: 'plain' | 'raw';
  /** Bytes written before the start; a third of the disk by default. */
  readonly fill?: number;
  readonly bitmap?: string;
  /** Not closed after the last flush. */
  readonly leftOpen?: boolean;
}

function own(name: string, size: number, build: Build): Kind {
  const { options, backing, dataFile, bitmap } = build;
  const encrypted = options.encryption !== undefined;
  return {
    name,
    size,
    clusterSize: options.clusterSize ?? 65536,
    version: options.version ?? 3,
    other:
      dataFile !== undefined ? 'data file' : backing === undefined ? 'nothing' : `${backing.format} backing`,
    encrypted,
    bitmaps: bitmap !== undefined,
    slow: encrypted,
    make: () => makeOwn(size, build),
  };
}

async function makeOwn(size: number, build: Build): Promise<Start> {
  const { options, backing, dataFile, bitmap, fill = size / 3 } = build;
  const image = new MemoryStorage();
  const model = new PlainDisk(size);
  if (backing !== undefined) model.write(backing.content.subarray(0, size), 0);
  const other =
    backing !== undefined ? await makeBelow(backing) : dataFile !== undefined ? new MemoryStorage() : null;
  const references: CreateOptions = {
    ...(backing === undefined ? {} : { backing: { name: '/base', format: backing.format, unchecked: true } }),
    ...(dataFile === undefined || other === null
      ? {}
      : { dataFile: { name: '/data', raw: dataFile === 'raw', source: other } }),
  };
  await (await create(image, size, { ...options, ...references })).close();
  const openWith = (file: Storage | null): OpenOptions => ({
    ...(file === null ? {} : { resolve: () => file }),
    ...(options.encryption === undefined ? {} : { secret: options.encryption.secret }),
  });
  const disk = await open(image, { ...openWith(other), mode: 'r+' });
  const data = pattern(5, Math.floor(fill / 512) * 512);
  await disk.write(data, 1024);
  model.write(data, 1024);
  await disk.flush();
  if (bitmap !== undefined) await disk.bitmaps.create({ name: bitmap, granularity: 4096 });
  const left = image.clone();
  await disk.close();
  const start = build.leftOpen === true ? left : image;
  await fillBehindL1(start);
  return {
    image: start,
    other,
    model,
    snapshots: new Map(),
    bitmaps: new Map(bitmap === undefined ? [] : [[bitmap, model.clone()]]),
    openWith,
  };
}

async function makeBelow({ content, format }: NonNullable<Build['backing']>): Promise<MemoryStorage> {
  if (format === 'raw') return new MemoryStorage(content);
  const below = new MemoryStorage();
  const disk = await create(below, content.length, { clusterSize: 1024 });
  await disk.write(content, 0);
  await disk.close();
  return below;
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
      const image = new MemoryStorage(await readFile(path('image')));
      return { image, other: null, model, snapshots, bitmaps: new Map(), openWith: () => ({}) };
    });
  const plain = { version: 3, other: 'nothing', encrypted: false, bitmaps: false, slow: false } as const;
  return { name, size, clusterSize, ...plain, make };
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
      other: null,
      bitmaps: new Map(),
      openWith: () => ({}),
    };
  };
  const plain = { version: 3, other: 'nothing', encrypted: false, bitmaps: false, slow: false } as const;
  return { name, size, clusterSize: options.clusterSize, ...plain, make };
}

/** With the directory, the tables and the bits of bitmaps behind much free space. */
function bitmapsAtEnd(name: string, size: number, clusterSize: number): Kind {
  const make = async (): Promise<Start> => {
    const image = new MemoryStorage();
    const model = new PlainDisk(size);
    const disk = await create(image, size, { clusterSize });
    const write = async (seed: number, at: number, length: number): Promise<void> => {
      const data = pattern(seed, length);
      await disk.write(data, at);
      model.write(data, at);
    };
    await write(1, 0, size);
    const bitmaps = new Map<string, PlainDisk>();
    for (const [index, bitmap] of ['early', 'late'].entries()) {
      await disk.bitmaps.create({ name: bitmap, granularity: 512 });
      bitmaps.set(bitmap, model.clone());
      await write(2 + index, (3 + index * 40) * kib, 2 * kib);
    }
    await disk.close();
    return { image, model, snapshots: new Map(), other: null, bitmaps, openWith: () => ({}) };
  };
  const plain = { version: 3, other: 'nothing', encrypted: false, bitmaps: true, slow: false } as const;
  return { name, size, clusterSize, ...plain, make };
}

/** With the LUKS header moved behind all else: where it was there is room for it. */
function luksHeaderAtEnd(name: string, size: number, clusterSize: number): Kind {
  const secret = 'abc';
  const build = { options: { clusterSize, encryption: { secret, iterTimeMs: 0.01 } } };
  const make = async (): Promise<Start> => {
    const start = await makeOwn(size, build);
    const bytes = start.image.toBuffer();
    const pointer = encryptionPointerOf(bytes);
    const header = Number(bytes.readBigUInt64BE(pointer));
    const length = Number(bytes.readBigUInt64BE(pointer + 8));
    const place = Math.ceil(bytes.length / clusterSize) * clusterSize;
    bytes.writeBigUInt64BE(BigInt(place), pointer);
    const moved = Buffer.alloc(place + Math.ceil(length / clusterSize) * clusterSize);
    bytes.copy(moved);
    bytes.copy(moved, place, header, header + length);
    const image = new MemoryStorage(moved);
    const disk = await open(image, { mode: 'r+', forRepair: true });
    await disk.check({ repair: 'all' });
    await disk.close();
    return { ...start, image };
  };
  return { ...own(name, size, build), make };
}

/** Where the encryption extension says where the LUKS header is. */
function encryptionPointerOf(bytes: Buffer): number {
  let at = bytes.readUInt32BE(100);
  while (bytes.readUInt32BE(at) !== 0x0537be77) at += 8 + Math.ceil(bytes.readUInt32BE(at + 4) / 8) * 8;
  return at + 8;
}

/** For compactions. */
export const spaciousKinds: readonly Kind[] = [
  snapshotsAtEnd('snapshots behind free space', 80 * kib, { clusterSize: 512 }),
  snapshotsAtEnd('snapshots behind free space, extended L2', 256 * kib, {
    clusterSize: 16384,
    extendedL2: true,
  }),
  bitmapsAtEnd('bitmaps behind free space', 80 * kib, 512),
  luksHeaderAtEnd('a LUKS header behind free space', 60 * kib, 4096),
];

const longer = (format: 'raw' | 'qcow2'): NonNullable<Build['backing']> => ({
  content: pattern(9, 120 * kib),
  format,
});

export const kinds: readonly Kind[] = [
  own('512 B clusters', 100 * kib, { options: { clusterSize: 512 } }),
  own('version 2 over a longer backing file', 90 * kib, {
    options: { clusterSize: 512, version: 2 },
    backing: longer('raw'),
  }),
  own('over a shorter backing file, zstd', 100 * kib, {
    options: { clusterSize: 1024, compressionType: 'zstd' },
    backing: { content: pattern(9, 50 * kib), format: 'raw' },
  }),
  own('over a qcow2 backing file', 90 * kib, { options: { clusterSize: 512 }, backing: longer('qcow2') }),
  own('extended L2', 200 * kib, { options: { clusterSize: 16384, extendedL2: true } }),
  own('extended L2 over a backing file', 200 * kib, {
    options: { clusterSize: 16384, extendedL2: true },
    backing: longer('raw'),
  }),
  own('lazy refcounts', 100 * kib, { options: { clusterSize: 512, lazyRefcounts: true } }),
  own('lazy refcounts, left dirty', 100 * kib, {
    options: { clusterSize: 512, lazyRefcounts: true },
    leftOpen: true,
  }),
  own('external data file', 100 * kib, { options: { clusterSize: 512 }, dataFile: 'plain' }),
  own('raw external data file', 100 * kib, { options: { clusterSize: 512 }, dataFile: 'raw' }),
  own('external data file, extended L2', 200 * kib, {
    options: { clusterSize: 16384, extendedL2: true },
    dataFile: 'plain',
  }),
  own('with a bitmap', 100 * kib, { options: { clusterSize: 512 }, bitmap: 'since' }),
  own('LUKS', 100 * kib, { options: { clusterSize: 4096, encryption: { secret: 'abc', iterTimeMs: 0.01 } } }),
  withSnapshots('with snapshots', 100 * kib, 512, false),
  withSnapshots('extended L2 with snapshots', 200 * kib, 16384, true),
];

const full = { fill: 1850 * kib };

/** Nearly as full as its refcount table can count. */
export const fullKinds: readonly Kind[] = [
  own('full refcount table', 1900 * kib, { options: { clusterSize: 512, refcountBits: 64 }, ...full }),
  own('full refcount table, lazy refcounts', 1900 * kib, {
    options: { clusterSize: 512, refcountBits: 64, lazyRefcounts: true },
    ...full,
  }),
];
