/** Opens a path without ever waiting for it, and tells what is behind a descriptor: only files and block devices will do. */
import fs from 'node:fs';
import { promisify } from 'node:util';
import { Qcow2Error, withVisiblePath } from '../errors.js';
import { readFully } from './fd-io.js';

const { O_CREAT, O_RDONLY, O_RDWR } = fs.constants;
/** Opening a FIFO without it waits for the other end, perhaps for ever. Absent on Windows. */
const O_NONBLOCK = (fs.constants.O_NONBLOCK as number | undefined) ?? 0;

// Without node:fs/promises, which brings much along that a short program waits for.
export const openFd = promisify(fs.open);
export const closeFd = promisify(fs.close);
export const fstat = promisify(fs.fstat);
export const stat = promisify(fs.stat);
export const realpath = promisify(fs.realpath.native);

/** `r`: read-only; `r+`: read and write what is there; `create`: make the file where there is none. */
export type FileMode = 'r' | 'r+' | 'create';

const openFlags: Record<FileMode, number> = {
  r: O_RDONLY | O_NONBLOCK,
  'r+': O_RDWR | O_NONBLOCK,
  create: O_RDWR | O_CREAT | O_NONBLOCK,
};

/** What is behind a descriptor. */
export interface FileKind {
  /** Device and inode. */
  readonly identity: string;
  /** Bytes of a block device, whose size `fstat` does not tell; null for a regular file. */
  readonly deviceSize: number | null;
}

/** Opens a path; content is left as it is. */
export async function openWithoutWaiting(path: string, mode: FileMode): Promise<number> {
  try {
    return await openFd(path, openFlags[mode], 0o666);
  } catch (error) {
    // Directories (EISDIR), sockets and FIFOs (ENXIO) fail here already, with words that help nobody.
    const what = await stat(path).then(refusedKind, () => null);
    throw what === null ? withVisiblePath(error) : notAnImage(path, what, withVisiblePath(error));
  }
}

/**
 * Examines a descriptor.
 * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED` for what is no regular file (nor, without `regularOnly`, a block device)
 */
export async function examine(fd: number, name: string, regularOnly: boolean): Promise<FileKind> {
  const [stats, madeUp] = await Promise.all([
    fstat(fd, { bigint: true }),
    madeUpDevices(regularOnly ? ['/proc', '/sys'] : []),
  ]);
  const refused = refusedKind(stats);
  if (refused !== null) throw notAnImage(name, refused);
  if (regularOnly && stats.isBlockDevice()) throw notAnImage(name, 'a block device');
  const isMadeUp = madeUp.includes(stats.dev) && stats.dev !== (await deviceOf('/'));
  if (isMadeUp) throw notAnImage(name, 'made up by the system');
  return {
    identity: identityOfStats(stats),
    deviceSize: stats.isBlockDevice() ? await sizeByReading(fd) : null,
  };
}

/** Device and inode: the same for all names of one file. */
export const identityOfStats = ({ dev, ino }: fs.StatsBase<bigint>): string => `${dev}:${ino}`;

/** The identity of what a path names, undefined when it names nothing that can be looked at. */
export async function identityOfPath(path: string): Promise<string | undefined> {
  const stats = await stat(path, { bigint: true }).catch(() => undefined);
  return stats === undefined ? undefined : identityOfStats(stats);
}

/** Finds the end of what a descriptor can read, bytes: for block devices, where no call of Node tells it. */
export async function sizeByReading(fd: number): Promise<number> {
  const byte = new Uint8Array(1);
  const isThere = async (position: number): Promise<boolean> => (await readFully(fd, byte, position)) === 1;
  let end = 1;
  while (end < Number.MAX_SAFE_INTEGER && (await isThere(end - 1))) end *= 2;
  // Byte `low - 1` is there, byte `high - 1` is not.
  let low = Math.floor(end / 2);
  let high = end;
  while (high - low > 1) {
    const middle = low + Math.floor((high - low) / 2);
    if (await isThere(middle - 1)) low = middle;
    else high = middle;
  }
  return low;
}

function refusedKind(stats: fs.StatsBase<number> | fs.StatsBase<bigint>): string | null {
  if (stats.isFile() || stats.isBlockDevice()) return null;
  if (stats.isDirectory()) return 'a directory';
  if (stats.isFIFO()) return 'a FIFO';
  if (stats.isSocket()) return 'a socket';
  if (stats.isCharacterDevice()) return 'a character device';
  return 'of an unknown kind';
}

function notAnImage(name: string, what: string, cause?: unknown): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `${name} is ${what}; name a regular file or a block device that holds a disk image`,
    { cause },
  );
}

/** The device numbers of file systems whose files call themselves regular and are not; null for one that is not there. */
const madeUpDevices = (roots: readonly string[]): Promise<(bigint | null)[]> =>
  Promise.all(roots.map(deviceOf));

const deviceOf = (path: string): Promise<bigint | null> =>
  stat(path, { bigint: true }).then(
    ({ dev }) => dev,
    () => null,
  );
