/**
 * Keeps other processes from an image that one of them changes, with the byte locks that QEMU uses. They are
 * open-file-description locks, of Linux only: elsewhere nothing is locked, because POSIX locks, which any close of the
 * file in this process drops, would promise what they do not keep.
 */
import { Qcow2Error } from '../errors.js';
import { log } from '../log.js';
import { LockState, native } from '../native.js';

/** QEMU's permissions by number: what a user of the image does, or forbids others to do. */
const permission = { consistentRead: 0, write: 1, resize: 3 } as const;
type Permission = (typeof permission)[keyof typeof permission];

/** A shared lock on byte 100 + p says "I do p"; one on byte 200 + p says "nobody else may do p". */
const usedByte = (p: Permission): number => 100 + p;
const unsharedByte = (p: Permission): number => 200 + p;

/** Who reads needs an image that nobody changes; who writes must be the only one to. */
const unshared: readonly Permission[] = [permission.write, permission.resize];
const used: Record<'r' | 'r+', readonly Permission[]> = {
  r: [permission.consistentRead],
  'r+': [permission.consistentRead, permission.write, permission.resize],
};

/**
 * Locks an image for reading (others may read, none may write) or for writing (nobody else may use it). A second open
 * file of this process counts as another process. The locks end with the returned function or when the descriptor closes.
 * @param name of the image, for the message
 * @throws Qcow2Error `ERR_QCOW2_LOCKED`; system errors of file systems that cannot lock (`ENOLCK`)
 */
export function acquireImageLock(fd: number, mode: 'r' | 'r+', name: string): () => void {
  const taken: number[] = [];
  const release = (): void => {
    for (const byte of taken.splice(0)) native.lockBytes(fd, byte, 1, 'unlock');
  };
  try {
    // Taken first and looked at second: of two that come at once at least one sees the other.
    for (const byte of [...used[mode].map(usedByte), ...unshared.map(unsharedByte)]) {
      if (isInTheWay(native.lockBytes(fd, byte, 1, 'read'))) throw locked(name, mode);
      taken.push(byte);
    }
    for (const byte of [...used[mode].map(unsharedByte), ...unshared.map(usedByte)]) {
      if (isInTheWay(native.probeLock(fd, byte, 1))) throw locked(name, mode);
    }
  } catch (error) {
    release();
    throw error;
  }
  if (process.platform === 'linux') log('locked %s for %s', name, mode === 'r' ? 'reading' : 'writing');
  return release;
}

function isInTheWay(state: number): boolean {
  return state === LockState.conflict;
}

function locked(name: string, mode: 'r' | 'r+'): Qcow2Error {
  const remedy =
    mode === 'r'
      ? 'It may be written to (by a running virtual machine, for example). Stop that process, or read a snapshot it makes; ' +
        'reading without a lock may show a torn image'
      : 'Two that write destroy an image. Stop the other process (a running virtual machine, qemu-nbd, a backup) first';
  return new Qcow2Error('ERR_QCOW2_LOCKED', `${name} is in use by another process. ${remedy}.`);
}
