/** Encrypted images made by hand or by qemu-img, and QEMU's tools run on them. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { pattern } from './pattern.js';

export const clusterSize = 65536;

/** The guest cluster that {@link minimalImage} has allocated; different from its place in the file. */
export const allocatedGuestCluster = 3;

interface MinimalImage {
  image: Buffer;
  /** Where the only allocated guest cluster lies, bytes; the file may end before it. */
  hostOffset: number;
}

/**
 * A version 3 image of 1 MiB with one allocated cluster: header, refcount table, refcount block, L1 table, L2 table, then
 * the LUKS area. `hostOffset` may lie anywhere behind it; what is past the first 32768 clusters has no refcount.
 */
export function minimalImage(luksArea: Uint8Array, hostOffset?: number): MinimalImage {
  const luksClusters = Math.ceil(luksArea.length / clusterSize);
  const luksCluster = 5;
  const data = hostOffset ?? (luksCluster + luksClusters) * clusterSize;
  const image = Buffer.alloc((luksCluster + luksClusters + (hostOffset === undefined ? 1 : 0)) * clusterSize);
  image.write('QFI\xfb', 0, 'latin1');
  image.writeUInt32BE(3, 4);
  image.writeUInt32BE(16, 20);
  image.writeBigUInt64BE(1048576n, 24);
  image.writeUInt32BE(2, 32);
  image.writeUInt32BE(1, 36);
  image.writeBigUInt64BE(BigInt(3 * clusterSize), 40);
  image.writeBigUInt64BE(BigInt(clusterSize), 48);
  image.writeUInt32BE(1, 56);
  image.writeUInt32BE(4, 96);
  image.writeUInt32BE(104, 100);
  image.writeUInt32BE(0x0537be77, 104);
  image.writeUInt32BE(16, 108);
  image.writeBigUInt64BE(BigInt(luksCluster * clusterSize), 112);
  image.writeBigUInt64BE(BigInt(luksArea.length), 120);
  image.writeBigUInt64BE(BigInt(2 * clusterSize), clusterSize);
  for (let cluster = 0; cluster * clusterSize < image.length; cluster += 1) {
    image.writeUInt16BE(1, 2 * clusterSize + 2 * cluster);
  }
  const copied = 1n << 63n;
  image.writeBigUInt64BE(BigInt(4 * clusterSize) | copied, 3 * clusterSize);
  image.writeBigUInt64BE(BigInt(data) | copied, 4 * clusterSize + 8 * allocatedGuestCluster);
  image.set(luksArea, luksCluster * clusterSize);
  return { image, hostOffset: data };
}

/** The encryption area of an image, found through its header extensions. */
export function luksArea(path: string): Uint8Array {
  const image = readFileSync(path);
  const headerLength = image.readUInt32BE(4) === 2 ? 72 : image.readUInt32BE(100);
  for (let at = headerLength; ; at += 8 + Math.ceil(image.readUInt32BE(at + 4) / 8) * 8) {
    const type = image.readUInt32BE(at);
    if (type === 0) throw new Error(`${path} has no full disk encryption header extension`);
    if (type !== 0x0537be77) continue;
    const offset = Number(image.readBigUInt64BE(at + 8));
    const length = Number(image.readBigUInt64BE(at + 16));
    return Uint8Array.from(image.subarray(offset, offset + length));
  }
}

/** Where an image keeps an allocated guest cluster, bytes; qemu-img map does not say so of encrypted images. */
export function hostOffsetOf(path: string, guestOffset: number): number {
  const image = readFileSync(path);
  const address = 0x00fffffffffffe00n;
  const l2Table = Number(image.readBigUInt64BE(Number(image.readBigUInt64BE(40))) & address);
  const entry = image.readBigUInt64BE(l2Table + 8 * Math.floor(guestOffset / clusterSize)) & address;
  if (entry === 0n) throw new Error(`guest offset ${String(guestOffset)} is not allocated in ${path}`);
  return Number(entry) + (guestOffset % clusterSize);
}

const secretObjects = (secret: string, id = 's'): string[] => [
  '--object',
  `secret,id=${id},format=base64,data=${Buffer.from(secret).toString('base64')}`,
];
const imageOptions = (path: string): string[] => [
  '--image-opts',
  `driver=qcow2,file.filename=${path},encrypt.key-secret=s`,
];

/** Creates an encrypted image of `size` bytes with qemu-img; `options` are its `-o` options. */
export function qemuCreate(path: string, secret: string, options: string, size: number): void {
  runTimed('qemu-img', [
    ...['create', '-q', '-f', 'qcow2', ...secretObjects(secret)],
    ...['-o', options, path, String(size)],
  ]);
}

/** Changes the key slots of an image with qemu-img; `options` may name the new secret as `n`. */
export function qemuAmend(path: string, secret: string, newSecret: string, options: string): void {
  const args = ['amend', ...secretObjects(secret), ...secretObjects(newSecret, 'n'), ...imageOptions(path)];
  runTimed('qemu-img', [...args, '-o', options]);
}

/** For commands that derive a key: QEMU measures CPU time in ticks and gives up when none passed, on some machines often. */
function runTimed(command: string, args: string[]): void {
  for (let attempt = 1; ; attempt += 1) {
    try {
      run(command, args);
      return;
    } catch (error) {
      if (attempt === 20 || !String(error).includes('accurate CPU usage')) throw error;
    }
  }
}

/** Runs qemu-io commands on an encrypted image and returns what it printed; fails when qemu-io complains. */
export function qemuIo(path: string, secret: string, ...commands: string[]): string {
  const output = run('qemu-io', [
    ...secretObjects(secret),
    ...imageOptions(path),
    ...commands.flatMap((command) => ['-c', command]),
  ]);
  if (/verification failed|error|failed/i.test(output)) throw new Error(output);
  return output;
}

/** Everything the guest sees, as QEMU decrypts it. */
export function qemuReadAll(path: string, secret: string): Buffer {
  const raw = `${path}.raw`;
  run('qemu-img', ['convert', '-O', 'raw', ...secretObjects(secret), ...imageOptions(path), raw]);
  return readFileSync(raw);
}

/** Has QEMU write random-looking bytes to a guest offset, and returns them. */
export function qemuWriteRandom(
  path: string,
  secret: string,
  seed: number,
  at: number,
  length: number,
): Buffer {
  const bytes = pattern(seed, length);
  writeFileSync(`${path}.in`, bytes);
  qemuIo(path, secret, `write -s ${path}.in ${at} ${length}`);
  return bytes;
}

/** What qemu-img says of an encrypted image; nothing in it needs the secret. */
export function qemuInfo(path: string): Record<string, unknown> {
  return JSON.parse(run('qemu-img', ['info', '--output=json', path])) as Record<string, unknown>;
}

/** What qemu-img check has to say; fails when it finds an error. */
export function qemuCheck(path: string, secret: string): string {
  return run('qemu-img', ['check', ...secretObjects(secret), ...imageOptions(path)]);
}

function run(command: string, args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
