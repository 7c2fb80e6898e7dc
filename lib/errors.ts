/** The errors of this package: one class for what is wrong with an image, Node's own kinds for wrong arguments. */
import { quote, visible } from './format/text.js';

/** Every code a {@link Qcow2Error} can carry, with what it stands for. */
export const errorCodes = {
  /** The file does not begin with the QCOW2 magic. */
  ERR_QCOW2_NOT_QCOW2: 'the file does not begin with the QCOW2 magic',
  /** A field of the header or of a header extension breaks the specification. */
  ERR_QCOW2_INVALID_HEADER: 'a field of the header or of a header extension breaks the specification',
  /** The image uses something this package or this machine cannot do. */
  ERR_QCOW2_UNSUPPORTED: 'the image uses something this package or this machine cannot do',
  /** A table, entry or compressed cluster of the image is damaged. */
  ERR_QCOW2_CORRUPT: 'a table, entry or compressed cluster of the image is damaged',
  /** A change was asked of a disk that is open read-only. */
  ERR_QCOW2_READ_ONLY: 'a change was asked of a disk that is open read-only',
  /** The disk or storage is closed. */
  ERR_QCOW2_CLOSED: 'the disk or storage is closed',
  /** Another process uses the image. */
  ERR_QCOW2_LOCKED: 'another process uses the image',
  /** The image refers to another file and the resolve policy refuses it. */
  ERR_QCOW2_REFERENCE_DENIED: 'the image refers to another file and the resolve policy refuses it',
  /** A backing or data file is missing, loops, is too deep or is no regular file. */
  ERR_QCOW2_REFERENCE: 'a backing or data file is missing, loops, is too deep or is no regular file',
  /** The image is encrypted and the secret is missing or wrong. */
  ERR_QCOW2_SECRET: 'the image is encrypted and the secret is missing or wrong',
  /** The operation would lose data and was not told that it may. */
  ERR_QCOW2_DATA_LOSS: 'the operation would lose data and was not told that it may',
  /** The operation cannot be combined with what the image holds or with its options. */
  ERR_QCOW2_CONFLICT: 'the operation cannot be combined with what the image holds or with its options',
  /** A limit of the format would be passed. */
  ERR_QCOW2_LIMIT: 'a limit of the format would be passed',
  /** An earlier write or flush failed, so this handle no longer promises durability. */
  ERR_QCOW2_FAILED: 'an earlier write or flush failed, so this handle no longer promises durability',
  /** A server did not give what was asked of it, or could not be reached. */
  ERR_QCOW2_REMOTE: 'a server did not give what was asked of it, or could not be reached',
  /** A file on a server is not what it was when it was opened. */
  ERR_QCOW2_CHANGED: 'a file on a server is not what it was when it was opened',
  /** The native addon could not be loaded. */
  ERR_QCOW2_NATIVE: 'the native addon could not be loaded',
  /** No snapshot, bitmap or key slot of that name exists. */
  ERR_QCOW2_NOT_FOUND: 'no snapshot, bitmap or key slot of that name exists',
} as const;

/** One of the keys of {@link errorCodes}. */
export type Qcow2ErrorCode = keyof typeof errorCodes;

/** What a {@link Qcow2Error} tells besides its message. */
export interface Qcow2ErrorDetails {
  /** Where in the host file (bytes) the trouble was found. */
  offset?: number;
  /** The feature, field or option concerned, in the words of the specification. */
  feature?: string;
  /** The error that led to this one. */
  cause?: unknown;
}

/** What is wrong with an image, or with what was asked of it. */
export class Qcow2Error extends Error {
  /** `Qcow2Error`. */
  override readonly name = 'Qcow2Error';
  /** What is wrong, as a key of {@link errorCodes}. */
  readonly code: Qcow2ErrorCode;
  /** Where in the host file the trouble was found, bytes. */
  readonly offset?: number;
  /** The feature, field or option concerned, in the words of the specification. */
  readonly feature?: string;
  /** For an image that could not be opened, how far below it the file is that is the reason: 1 for its backing file. */
  depth?: number;

  /**
   * For adapters that report what is wrong with an image in the same manner.
   * @param details where it was found, and what led to it
   */
  constructor(code: Qcow2ErrorCode, message: string, details: Qcow2ErrorDetails = {}) {
    // Names of files may come from images.
    super(visible(message), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    if (details.offset !== undefined) this.offset = details.offset;
    if (details.feature !== undefined) this.feature = details.feature;
  }
}

/** A RangeError with Node's code, for an argument outside what is possible. */
export function outOfRange(name: string, expected: string, received: unknown): RangeError {
  const error = new RangeError(
    `The value of "${name}" is out of range. It must be ${expected}. Received ${show(received)}`,
  );
  return Object.assign(error, { code: 'ERR_OUT_OF_RANGE' });
}

/** A TypeError with Node's code, for an argument of the wrong type. */
export function invalidArgType(name: string, expected: string, received: unknown): TypeError {
  const error = new TypeError(`The "${name}" argument must be ${expected}. Received ${show(received)}`);
  return Object.assign(error, { code: 'ERR_INVALID_ARG_TYPE' });
}

/** A TypeError with Node's code, for an argument of the right type that makes no sense. */
export function invalidArgValue(name: string, reason: string, received: unknown): TypeError {
  const error = new TypeError(`The argument "${name}" ${reason}. Received ${show(received)}`);
  return Object.assign(error, { code: 'ERR_INVALID_ARG_VALUE' });
}

/** A system error, whose message has the path as it is, with that shown as text; its `path` stays. Others are left alone. */
export function withVisiblePath(error: unknown): unknown {
  if (!(error instanceof Error && 'syscall' in error)) return error;
  const { message, stack } = error;
  error.message = visible(message);
  if (stack !== undefined) error.stack = stack.replace(message, () => error.message);
  return error;
}

/** Whether an error is a {@link Qcow2Error} with one of these codes. */
export function hasCode(error: unknown, ...codes: Qcow2ErrorCode[]): error is Qcow2Error {
  return error instanceof Qcow2Error && codes.includes(error.code);
}

function show(value: unknown): string {
  if (typeof value === 'string') return quote(value.length > 64 ? `${value.slice(0, 64)}…` : value);
  if (typeof value === 'bigint') return `${String(value)}n`;
  if (typeof value === 'object' && value !== null) return `an instance of ${value.constructor.name}`;
  return String(value);
}
