/** Makes images of a kind, by this package or by qemu-img, with what stands below them, and lets QEMU work on them. */
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { create, open, type CreateOptions, type OpenOptions, type Qcow2 } from '../../lib/index.js';
import type { ImageKind } from './feature-rows.js';
import { qemuImg, qemuInfo, run, type QemuMapEntry, type ToolResult } from './oracle.js';
import { pattern } from './pattern.js';
import { PlainDisk } from './plain-disk.js';

const secret = 'open sesame';

/** An image on disk with a model of its content. */
export interface KindImage {
  readonly kind: ImageKind;
  readonly path: string;
  readonly dataPath: string;
  readonly model: PlainDisk;
}

/** The options with which this package makes an image of a kind. */
export function createOptionsOf(kind: ImageKind, directory: string): CreateOptions {
  const { version, clusterSize, refcountBits, extendedL2, compressionType, lazyRefcounts } = kind;
  return {
    version,
    clusterSize,
    refcountBits,
    extendedL2,
    compressionType,
    lazyRefcounts,
    ...(kind.preallocation === 'off' ? {} : { preallocation: kind.preallocation }),
    ...(kind.backing === 'none' ? {} : { backing: { name: 'base', format: baseFormat(kind) } }),
    // Absolute: relative names start from the image for this package, and from the working directory for QEMU.
    ...(kind.dataFile === 'none'
      ? {}
      : { dataFile: { name: join(directory, 'data'), raw: kind.dataFile === 'raw' } }),
    ...(kind.encryption === 'luks' ? { encryption: { secret, iterTimeMs: 10 } } : {}),
  };
}

/** Virtual size of the disks of a kind: some clusters, and with small ones some L2 tables. */
export function sizeOf({ clusterSize, sizeUnit }: ImageKind): number {
  const clusters = Math.max(3, Math.floor(1_700_000 / clusterSize));
  const rest = { cluster: 0, sector: clusterSize > 512 ? 3 * 512 : 512, byte: 100 }[sizeUnit];
  return clusters * clusterSize + rest;
}

export async function makeOurs(
  kind: ImageKind,
  directory: string,
): Promise<{ image: KindImage; disk: Qcow2 }> {
  const image = await prepare(kind, directory, sizeOf(kind));
  return { image, disk: await create(image.path, sizeOf(kind), createOptionsOf(kind, directory)) };
}

export async function openOurs(image: KindImage, mode: OpenOptions['mode'] = 'r'): Promise<Qcow2> {
  return open(image.path, {
    mode,
    resolve: 'same-directory',
    ...(image.kind.encryption === 'none' ? {} : { secret }),
  });
}

export async function makeByQemu(kind: ImageKind, directory: string): Promise<KindImage> {
  const path = join(directory, 'image.qcow2');
  const options = [
    `compat=${kind.version === 2 ? '0.10' : '1.1'}`,
    `cluster_size=${kind.clusterSize}`,
    `refcount_bits=${kind.refcountBits}`,
    `preallocation=${kind.preallocation}`,
    ...(kind.extendedL2 ? ['extended_l2=on'] : []),
    ...(kind.compressionType === 'zstd' ? ['compression_type=zstd'] : []),
    ...(kind.lazyRefcounts ? ['lazy_refcounts=on'] : []),
    ...(kind.dataFile === 'none' ? [] : [`data_file=${join(directory, 'data')}`]),
    ...(kind.dataFile === 'raw' ? ['data_file_raw=on'] : []),
    ...(kind.encryption === 'none' ? [] : [`encrypt.format=${kind.encryption}`, 'encrypt.key-secret=s']),
    ...(kind.encryption === 'luks' ? ['encrypt.iter-time=10'] : []),
  ];
  const image = await prepare(kind, directory, roundUp(sizeOf(kind)));
  const backing = kind.backing === 'none' ? [] : ['-b', 'base', '-F', baseFormat(kind)];
  const args = ['create', '-q', '-f', 'qcow2', ...secretObject(kind), '-o', options.join(','), ...backing];
  await untilTimed(() => qemuImg([...args, path, String(sizeOf(kind))], { expectExit: null }));
  expect((await qemuInfo(path))['virtual-size']).toBe(image.model.size);
  return image;
}

/** Runs qemu-io commands; every one of them must succeed. */
export async function qemuIoOn(image: KindImage, commands: readonly string[]): Promise<void> {
  const args = commands.flatMap((command) => ['-c', command]);
  const result = await run('qemu-io', [...accessTo(image, ',discard=unmap'), ...args], { expectExit: null });
  expect(result, `${result.stdout}${result.stderr}`).toMatchObject({ exit: 0 });
  expect(result.stdout).not.toMatch(/failed|error/i);
}

/**
 * The whole content, of the disk or of a snapshot, as QEMU reads it. QEMU knows only whole sectors, so the last bytes may
 * be missing, and it reads a snapshot as long as the disk is.
 */
export async function contentByQemu(image: KindImage, snapshot?: string): Promise<Buffer> {
  const raw = `${image.path}.raw`;
  const choice = snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`];
  await qemuImg(['convert', ...choice, ...accessTo(image), '-O', 'raw', raw]);
  return readFile(raw);
}

/** What `qemu-img map` says of an image. */
export async function mapByQemu(image: KindImage): Promise<QemuMapEntry[]> {
  const { stdout } = await qemuImg(['map', '--output=json', ...accessTo(image)]);
  return JSON.parse(stdout) as QemuMapEntry[];
}

/** `qemu-img snapshot` with an action (`-c`, `-a` or `-d`) and the name of a snapshot. */
export async function snapshotByQemu(image: KindImage, action: string, name: string): Promise<void> {
  await qemuImg(['snapshot', '-q', action, name, ...accessTo(image)]);
}

/** Fails unless qemu-img finds the image without errors and leaks. */
export async function expectClean(image: KindImage): Promise<void> {
  const result = await qemuImg(['check', ...accessTo(image)], { expectExit: null });
  expect(result.exit, `qemu-img check: ${result.stdout}${result.stderr}`).toBe(0);
}

function accessTo({ kind, path }: KindImage, more = ''): string[] {
  const key = kind.encryption === 'none' ? '' : ',encrypt.key-secret=s';
  return [...secretObject(kind), '--image-opts', `driver=qcow2,file.filename=${path}${key}${more}`];
}

function secretObject({ encryption }: ImageKind): string[] {
  return encryption === 'none' ? [] : ['--object', `secret,id=s,data=${secret}`];
}

async function prepare(kind: ImageKind, directory: string, size: number): Promise<KindImage> {
  const model = new PlainDisk(size);
  if (kind.backing !== 'none') {
    const base = await makeBase(kind, directory, size);
    model.write(base.subarray(0, size), 0);
  }
  return { kind, model, path: join(directory, 'image.qcow2'), dataPath: join(directory, 'data') };
}

/** Makes the backing file, of data with a hole, and gives its content. */
async function makeBase(kind: ImageKind, directory: string, size: number): Promise<Buffer> {
  const length = kind.backing.endsWith('long') ? roundUp(size) + 200 * 1024 : roundUp(size * 0.6);
  const content = pattern(7, length);
  content.fill(0, Math.floor(length / 4), Math.floor(length / 3));
  const base = join(directory, 'base');
  if (baseFormat(kind) === 'raw') {
    // No whole sector: the rest of the last one reads as zeros.
    content.fill(0, length - 212);
    await writeFile(base, content);
    await truncate(base, length - 212);
  } else {
    await writeFile(`${base}.raw`, content);
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=4k', `${base}.raw`, base]);
  }
  return content;
}

const baseFormat = ({ backing }: ImageKind): 'raw' | 'qcow2' => (backing.startsWith('raw') ? 'raw' : 'qcow2');
const roundUp = (bytes: number): number => Math.ceil(bytes / 512) * 512;

/** QEMU measures its key derivation in ticks of CPU time and gives up when none passed. */
async function untilTimed(attempt: () => Promise<ToolResult>): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    const result = await attempt();
    if (result.exit === 0) return;
    if (tries === 20 || !result.stderr.includes('accurate CPU usage')) throw new Error(result.stderr);
  }
}
