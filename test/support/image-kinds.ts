/** The kinds of images that random sequences, crashes and faults are tried on: every feature that changes how writes go. */
import { writeFile } from 'node:fs/promises';
import { create, type CreateOptions, type OpenOptions, type Qcow2 } from '../../lib/index.js';
import { qemuImg, qemuIo } from './oracle.js';
import { pattern } from './pattern.js';
import { PlainDisk } from './plain-disk.js';

/** A kind of image, small enough to be compared whole. */
export interface ImageKind {
  readonly name: string;
  /** Virtual size, bytes. */
  readonly size: number;
  readonly clusterSize: number;
  /** Guest bytes that one L2 table describes. */
  readonly coverage: number;
  readonly options: CreateOptions;
  readonly compress: boolean;
  readonly backing?: { readonly format: 'raw' | 'qcow2'; readonly size: number };
  /** Made by qemu-img, with data and this many snapshots. */
  readonly snapshots?: number;
}

/** An image on disk, with what it holds. */
export interface MadeImage {
  readonly path: string;
  /** Of the external data file, where there is one. */
  readonly dataPath: string | null;
  readonly open: OpenOptions;
  readonly model: PlainDisk;
  /** The content that each snapshot must keep, by its name. */
  readonly snapshots: ReadonlyMap<string, PlainDisk>;
}

export const secret = 'open sesame';

type KindOptions = Omit<CreateOptions, 'backing' | 'dataFile'> & { dataFile?: 'plain' | 'raw' };

function kind(
  name: string,
  size: number,
  options: KindOptions,
  more: Pick<ImageKind, 'backing' | 'snapshots'> = {},
): ImageKind {
  const { dataFile, ...rest } = options;
  const clusterSize = options.clusterSize ?? 65536;
  const coverage = (clusterSize / (options.extendedL2 === true ? 16 : 8)) * clusterSize;
  const dataFileOptions =
    dataFile === undefined ? {} : { dataFile: { name: 'data', raw: dataFile === 'raw' } };
  const compress = dataFile === undefined && options.encryption === undefined;
  return { name, size, clusterSize, coverage, options: { ...rest, ...dataFileOptions }, compress, ...more };
}

const kib = 1024;
const mib = 1024 * kib;
const luks = { secret, iterTimeMs: 10 };
const extended16 = { clusterSize: 16 * kib, extendedL2: true };

function backing(format: 'raw' | 'qcow2', size: number): Pick<ImageKind, 'backing'> {
  return { backing: { format, size } };
}

export const imageKinds: readonly ImageKind[] = [
  kind('512 B clusters', 100 * kib, { clusterSize: 512 }),
  kind('512 B clusters, refcounts of 1 bit', 100 * kib, { clusterSize: 512, refcountBits: 1 }),
  kind('512 B clusters, refcounts of 64 bits', 1234 * kib + 512, { clusterSize: 512, refcountBits: 64 }),
  kind('4 KiB clusters, version 2', 4 * mib + 512, { clusterSize: 4096, version: 2 }),
  kind('4 KiB clusters, refcounts of 4 bits, odd size', 2 * mib + 5000, {
    clusterSize: 4096,
    refcountBits: 4,
  }),
  kind('64 KiB clusters', 513 * mib, {}),
  kind('64 KiB clusters, refcounts of 1 bit', 20 * mib, { refcountBits: 1 }),
  kind('2 MiB clusters', 9 * mib, { clusterSize: 2 * mib }),
  kind('extended L2, 16 KiB', 17 * mib, { clusterSize: 16 * kib, extendedL2: true }),
  kind('extended L2, 64 KiB, zstd', 20 * mib + 777 * 512, { extendedL2: true, compressionType: 'zstd' }),
  kind('4 KiB clusters, zstd', 3 * mib, { clusterSize: 4096, compressionType: 'zstd' }),
  kind('lazy refcounts', 300 * kib, { clusterSize: 1024, lazyRefcounts: true }),
  kind('over a shorter raw image', 2 * mib, { clusterSize: 4096 }, backing('raw', mib + 1536)),
  kind('over a longer raw image', 100 * kib, { clusterSize: 512 }, backing('raw', 150 * kib)),
  kind(
    'version 2 over a longer qcow2 image',
    mib,
    { clusterSize: 4096, version: 2 },
    backing('qcow2', 3 * mib),
  ),
  kind('extended L2 over a shorter qcow2 image', 9 * mib, extended16, backing('qcow2', 5 * mib + 512)),
  kind('extended L2 over a longer raw image', 5 * mib, extended16, backing('raw', 9 * mib)),
  kind('external data file', 2 * mib, { clusterSize: 4096, dataFile: 'plain' }),
  kind('external data file, extended L2', 9 * mib, { ...extended16, dataFile: 'plain' }),
  kind('raw external data file', 2 * mib, { clusterSize: 4096, dataFile: 'raw' }),
  kind('LUKS', 2 * mib, { clusterSize: 4096, encryption: luks }),
  kind('LUKS, extended L2', 9 * mib, { ...extended16, encryption: luks }),
  kind('qemu-made with snapshots', 3 * mib, { clusterSize: 4096 }, { snapshots: 2 }),
  kind('qemu-made, 512 B clusters, with snapshots', 100 * kib, { clusterSize: 512 }, { snapshots: 2 }),
  kind('qemu-made, extended L2, with a snapshot', 17 * mib, extended16, { snapshots: 1 }),
];

/** Makes an image of a kind in a directory of its own, closed. */
export async function makeImage(kind: ImageKind, path: (name: string) => string): Promise<MadeImage> {
  if (kind.snapshots !== undefined) return makeByQemu(kind, kind.snapshots, path);
  const model = new PlainDisk(kind.size);
  const options: CreateOptions = { ...kind.options };
  if (kind.backing !== undefined) {
    const below = await makeBacking(kind.backing, path('base'));
    model.write(below.subarray(0, kind.size), 0);
    options.backing = { name: 'base', format: kind.backing.format };
  }
  // QEMU looks for a relative name in its own directory, so the name is an absolute one.
  if (options.dataFile !== undefined) options.dataFile = { ...options.dataFile, name: path('data') };
  const image = path('image');
  await (await create(image, kind.size, options)).close();
  return {
    path: image,
    dataPath: kind.options.dataFile === undefined ? null : path('data'),
    open: {
      mode: 'r+',
      resolve: 'same-directory',
      ...(kind.options.encryption === undefined ? {} : { secret }),
    },
    model,
    snapshots: new Map(),
  };
}

/** Every other 3 KiB hold data, so that an overlay's clusters lie over both data and zeros. */
async function makeBacking(
  { format, size }: NonNullable<ImageKind['backing']>,
  path: string,
): Promise<Buffer> {
  const content = pattern(77, size);
  for (let at = 0; at < size; at += 6 * kib) content.fill(0, at, Math.min(size, at + 3 * kib));
  if (format === 'raw') await writeFile(path, content);
  else {
    await writeFile(`${path}.raw`, content);
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', '-c', `${path}.raw`, path]);
  }
  return content;
}

async function makeByQemu(
  kind: ImageKind,
  snapshots: number,
  path: (name: string) => string,
): Promise<MadeImage> {
  const image = path('image');
  const extended = kind.options.extendedL2 === true ? ',extended_l2=on' : '';
  const options = `cluster_size=${kind.clusterSize}${extended}`;
  await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, image, String(kind.size)]);
  const model = new PlainDisk(kind.size);
  const kept = new Map<string, PlainDisk>();
  for (let number = 1; number <= snapshots; number += 1) {
    const length = kind.clusterSize * 5 + 1024;
    const commands: string[] = [];
    for (const at of [0, kind.coverage - 2 * kind.clusterSize, number * kind.clusterSize * 3]) {
      model.write(Buffer.alloc(length, number), at);
      commands.push(`write -P ${number} ${at} ${length}`);
    }
    await qemuIo(image, commands);
    await qemuImg(['snapshot', '-c', `s${number}`, image]);
    kept.set(`s${number}`, model.clone());
  }
  return { path: image, dataPath: null, open: { mode: 'r+' }, model, snapshots: kept };
}

/** The virtual content of a disk, all of it. */
export async function contentOf(disk: Pick<Qcow2, 'size' | 'read'>): Promise<Buffer> {
  const content = Buffer.alloc(disk.size);
  await disk.read(content, 0);
  return content;
}
