/** The numbers of the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd), for the server and the client. */

/** "NBDMAGIC", "IHAVEOPT" and the other marks that messages begin with, as pairs of 32 bits. */
export const magic = {
  init: [0x4e42444d, 0x41474943],
  option: [0x49484156, 0x454f5054],
  optionReply: [0x0003e889, 0x045565a9],
} as const;
export const requestMagic = 0x25609513;
export const simpleReplyMagic = 0x67446698;
export const structuredReplyMagic = 0x668e33ef;

export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

const optionError = 2 ** 31;
export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  /** The server does not know the option. */
  errUnsupported: optionError + 1,
  errPolicy: optionError + 2,
  errInvalid: optionError + 3,
  errTlsRequired: optionError + 5,
  errUnknownExport: optionError + 6,
  errShutdown: optionError + 7,
  errBlockSizeRequired: optionError + 8,
  errTooBig: optionError + 9,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
} as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = {
  /** Force unit access: the reply may only come once the change is durable. */
  fua: 1 << 0,
  /** Zeros are to keep their space. */
  noHole: 1 << 1,
  /** Do not fragment the reply to a read. */
  df: 1 << 2,
  /** One extent for each context is enough. */
  reqOne: 1 << 3,
  /** Zero only if that is faster than writing. */
  fastZero: 1 << 4,
} as const;

export const replyFlagDone = 1;

const chunkError = 2 ** 15;
export const ReplyType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: chunkError + 1,
  errorOffset: chunkError + 2,
} as const;
/** Whether a chunk type, be it known or not, tells of an error. */
export const isErrorType = (type: number): boolean => (type & chunkError) !== 0;

/** Flags of the context base:allocation. */
export const State = { hole: 1, zero: 2 } as const;
/** The flag of the contexts qemu:dirty-bitmap:NAME. */
export const stateDirty = 1;

export const allocationContext = 'base:allocation';
export const depthContext = 'qemu:allocation-depth';
export const bitmapContextPrefix = 'qemu:dirty-bitmap:';

/** The error numbers that replies may carry, by their names. */
export const NbdErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdErrorName = keyof typeof NbdErrno;

/** The longest string (export name, query, message), bytes. */
export const maxStringBytes = 4096;
/** What every implementation takes in one read or write, and so the most this one asks for or takes, bytes. */
export const maxPayloadBytes = 32 * 1024 * 1024;
export const defaultPort = 10809;

export const requestBytes = 28;
export const simpleReplyBytes = 16;
export const structuredReplyBytes = 20;

/** Writes 64 bits. */
export function putUint64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  buffer.writeUInt32BE(value % 2 ** 32, at + 4);
}

/** Reads 64 bits; what is past 2^53 comes out inexact, and so past any size that this package knows. */
export function getUint64(buffer: Buffer, at: number): number {
  return buffer.readUInt32BE(at) * 2 ** 32 + buffer.readUInt32BE(at + 4);
}

/** Writes one of the 64-bit marks. */
export function putMagic(buffer: Buffer, [high, low]: readonly [number, number], at: number): void {
  buffer.writeUInt32BE(high, at);
  buffer.writeUInt32BE(low, at + 4);
}

/** Whether one of the 64-bit marks is there. */
export function hasMagic(buffer: Buffer, [high, low]: readonly [number, number], at: number): boolean {
  return buffer.readUInt32BE(at) === high && buffer.readUInt32BE(at + 4) === low;
}
