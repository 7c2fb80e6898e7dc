/** Says in qemu-img's words what went wrong, where it has words for it; else in the library's own. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { getSystemErrorMap } from 'node:util';
import { Failure, isTold, type Lines } from './failure.js';
import { Qcow2Error } from '../errors.js';

/** What the C library calls the errors that files meet. */
const systemErrors: Readonly<Record<string, string | undefined>> = {
  EACCES: 'Permission denied',
  EAGAIN: 'Resource temporarily unavailable',
  EBADF: 'Bad file descriptor',
  EBUSY: 'Device or resource busy',
  ECONNREFUSED: 'Connection refused',
  ECONNRESET: 'Connection reset by peer',
  EDQUOT: 'Disk quota exceeded',
  EEXIST: 'File exists',
  EFBIG: 'File too large',
  EINVAL: 'Invalid argument',
  EIO: 'Input/output error',
  EHOSTUNREACH: 'No route to host',
  EISDIR: 'Is a directory',
  ELOOP: 'Too many levels of symbolic links',
  EMFILE: 'Too many open files',
  ENAMETOOLONG: 'File name too long',
  ENETUNREACH: 'Network is unreachable',
  ENODEV: 'No such device',
  ENOENT: 'No such file or directory',
  ENOMEM: 'Cannot allocate memory',
  ENOSPC: 'No space left on device',
  ENOTDIR: 'Not a directory',
  ENOTSUP: 'Operation not supported',
  ENXIO: 'No such device or address',
  EPERM: 'Operation not permitted',
  EROFS: 'Read-only file system',
  ETIMEDOUT: 'Connection timed out',
  ETXTBSY: 'Text file busy',
};

/** The words for a system error, or null for any other error. */
export function systemErrorWords(error: unknown): string | null {
  if (!(error instanceof Error) || !('syscall' in error) || !('code' in error)) return null;
  const code = String(error.code);
  const words = Object.hasOwn(systemErrors, code) ? systemErrors[code] : undefined;
  if (words !== undefined) return words;
  const known = [...getSystemErrorMap().values()].find(([name]) => name === code);
  return known?.[1] ?? error.message;
}

/** The words for a system error; for any other error its message. */
export function systemErrorText(error: unknown): string {
  return systemErrorWords(error) ?? messageOf(error);
}

/** Why a file could not be created, for the errors that the system would have given. */
export function creationWords(error: unknown, path: string): string | null {
  if (path === '') return systemErrors.ENOENT ?? null;
  return isDirectory(path) ? (systemErrors.EISDIR ?? null) : systemErrorWords(error);
}

/** The file that a system error is about, or null. */
export function systemErrorPath(error: unknown): string | null {
  return error instanceof Error && 'path' in error && typeof error.path === 'string' ? error.path : null;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What is known about the image a command was working on when it failed. */
export interface Concerned {
  /** As the user or the referring image named it. */
  name: string;
  /** The file, where the name is more than its path. */
  path?: string;
  /** Whether it was to be changed. */
  writing?: boolean;
  /** Whether a passphrase had been given for it. */
  hasSecret?: boolean;
}

/** The reason behind `Could not open '...':` and the like, and a hint to print after it. */
export interface Reason {
  text: string;
  hint?: Lines;
}

/** Why an image could not be used. */
export function reasonOf(error: unknown, image: Concerned): Reason {
  if (error instanceof Failure)
    return { text: error.message, ...(error.hint === null ? {} : { hint: error.hint }) };
  if (error instanceof Qcow2Error) {
    const reason = formatReason(error, image);
    return { ...reason, text: 'Could not open backing file: '.repeat(error.depth ?? 0) + reason.text };
  }
  return { text: systemErrorText(error) };
}

/** The failure to open an image. */
export function openFailure(error: unknown, image: Concerned): Failure {
  return failure(`Could not open '${image.name}': `, openReason(error, image), error);
}

/** A failure whose message is a beginning and the reason. */
export function failure(beginning: string, reason: Reason, cause: unknown): Failure {
  return new Failure(`${beginning}${reason.text}`, {
    ...(reason.hint === undefined ? {} : { hint: reason.hint }),
    cause,
  });
}

/** An error as the user is told it: behind a beginning, unless it says all there is to say itself. */
export function explained(beginning: string, error: unknown, image: Concerned): unknown {
  return isTold(error) ? error : failure(beginning, reasonOf(error, image), error);
}

/** The failure of what reads one file and writes another, behind the name of the one that it is about. */
export function failureBetween(source: string, target: string, error: unknown): unknown {
  const name = isAboutTarget(error, source, target) ? target : source;
  return explained(`${name}: `, error, { name, writing: name === target });
}

/** What the system says without naming a file is said of writing, unless it was said of a read. */
function isAboutTarget(error: unknown, source: string, target: string): boolean {
  if (systemErrorWords(error) === null) return isDirectory(target);
  const path = systemErrorPath(error);
  if (path !== null) return resolve(path) !== resolve(source);
  return !(error instanceof Error && 'syscall' in error && error.syscall === 'read');
}

/** Why an image could not be opened. */
export function openReason(error: unknown, image: Concerned): Reason {
  const words = systemErrorWords(error);
  const path = image.path ?? image.name;
  if (path === '') return { text: "The 'file' block driver requires a file name" };
  if (isDirectory(path)) return { text: `'file' driver requires '${path}' to be a regular file` };
  if (words !== null) return { text: `Could not open '${path}': ${words}` };
  return reasonOf(error, image);
}

export function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function formatReason(error: Qcow2Error, image: Concerned): Reason {
  switch (error.code) {
    case 'ERR_QCOW2_NOT_QCOW2':
      return { text: 'Image is not in qcow2 format' };
    case 'ERR_QCOW2_LOCKED':
      return {
        text: `Failed to get ${image.writing === true ? '"write"' : 'shared "write"'} lock`,
        hint: `Is another process using the image [${image.path ?? image.name}]?`,
      };
    case 'ERR_QCOW2_SECRET':
      return {
        text:
          image.hasSecret === true
            ? 'Invalid password, cannot unlock any keyslot'
            : "Parameter 'encrypt.key-secret' is required for cipher",
      };
    case 'ERR_QCOW2_CORRUPT':
      if (error.feature !== 'corrupt bit') return { text: error.message };
      return { text: 'qcow2: Image is corrupt; cannot be opened read/write' };
    default:
      return { text: error.message };
  }
}
