/** The messages a server sends, as bytes. */
import {
  HandshakeFlag,
  Info,
  magic,
  NbdErrno,
  OptionReply,
  putMagic,
  putUint64,
  replyFlagDone,
  ReplyType,
  simpleReplyBytes,
  simpleReplyMagic,
  structuredReplyBytes,
  structuredReplyMagic,
  type NbdErrorName,
} from './protocol.js';

/** What a client calls a request; 64 bits that come back as they are. */
export interface Cookie {
  readonly high: number;
  readonly low: number;
}

export function greeting(): Buffer {
  const bytes = Buffer.alloc(18);
  putMagic(bytes, magic.init, 0);
  putMagic(bytes, magic.option, 8);
  bytes.writeUInt16BE(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes, 16);
  return bytes;
}

export function optionReply(option: number, type: number, data: Buffer | string = ''): Buffer {
  const payload = typeof data === 'string' ? Buffer.from(data) : data;
  const bytes = Buffer.alloc(20 + payload.length);
  putMagic(bytes, magic.optionReply, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(payload.length, 16);
  payload.copy(bytes, 20);
  return bytes;
}

export function exportListing(option: number, name: string, description: string): Buffer {
  const nameBytes = Buffer.from(name);
  return optionReply(
    option,
    OptionReply.server,
    Buffer.concat([uint32(nameBytes.length), nameBytes, Buffer.from(description)]),
  );
}

export function contextListing(option: number, id: number, name: string): Buffer {
  return optionReply(option, OptionReply.metaContext, Buffer.concat([uint32(id), Buffer.from(name)]));
}

export function exportInfo(option: number, size: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeUInt16BE(Info.export, 0);
  putUint64(data, size, 2);
  data.writeUInt16BE(flags, 10);
  return optionReply(option, OptionReply.info, data);
}

export function blockSizeInfo(option: number, minimum: number, preferred: number, maximum: number): Buffer {
  const data = Buffer.alloc(14);
  data.writeUInt16BE(Info.blockSize, 0);
  data.writeUInt32BE(minimum, 2);
  data.writeUInt32BE(preferred, 6);
  data.writeUInt32BE(maximum, 10);
  return optionReply(option, OptionReply.info, data);
}

export function textInfo(option: number, type: number, text: string): Buffer {
  const data = Buffer.alloc(2 + Buffer.byteLength(text));
  data.writeUInt16BE(type, 0);
  data.write(text, 2);
  return optionReply(option, OptionReply.info, data);
}

/** The reply to NBD_OPT_EXPORT_NAME, which has a form of its own. */
export function exportNameReply(size: number, flags: number, noZeroes: boolean): Buffer {
  const bytes = Buffer.alloc(noZeroes ? 10 : 134);
  putUint64(bytes, size, 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

export function simpleReply(cookie: Cookie, error?: NbdErrorName): Buffer {
  const bytes = Buffer.allocUnsafe(simpleReplyBytes);
  putSimpleReply(bytes, cookie, error === undefined ? 0 : NbdErrno[error]);
  return bytes;
}

function putSimpleReply(bytes: Buffer, { high, low }: Cookie, errno: number): void {
  bytes.writeUInt32BE(simpleReplyMagic, 0);
  bytes.writeUInt32BE(errno, 4);
  bytes.writeUInt32BE(high, 8);
  bytes.writeUInt32BE(low, 12);
}

interface Chunk {
  readonly type: number;
  readonly isLast: boolean;
  /** Bytes of payload. */
  readonly length: number;
  /** How many of these are written behind the header here; the rest follows in buffers of its own. */
  readonly room: number;
}

/** Bytes before the data of a read that is answered in one piece. */
export const dataHeaderBytes = (isStructured: boolean): number =>
  isStructured ? structuredReplyBytes + 8 : simpleReplyBytes;

/** Writes what comes before the `length` bytes of the disk that follow in the same buffer. */
export function putDataHeader(
  bytes: Buffer,
  cookie: Cookie,
  position: number,
  length: number,
  isStructured: boolean,
): void {
  if (isStructured) {
    putChunkHeader(bytes, cookie, { type: ReplyType.offsetData, isLast: true, length: 8 + length });
    putUint64(bytes, position, structuredReplyBytes);
  } else putSimpleReply(bytes, cookie, 0);
}

function chunkHeader(cookie: Cookie, chunk: Chunk): Buffer {
  const bytes = Buffer.allocUnsafe(structuredReplyBytes + chunk.room);
  putChunkHeader(bytes, cookie, chunk);
  return bytes;
}

function putChunkHeader(
  bytes: Buffer,
  { high, low }: Cookie,
  { type, isLast, length }: Omit<Chunk, 'room'>,
): void {
  bytes.writeUInt32BE(structuredReplyMagic, 0);
  bytes.writeUInt16BE(isLast ? replyFlagDone : 0, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeUInt32BE(high, 8);
  bytes.writeUInt32BE(low, 12);
  bytes.writeUInt32BE(length, 16);
}

/** Ends a structured reply that succeeded. */
export const doneChunk = (cookie: Cookie): Buffer =>
  chunkHeader(cookie, { type: ReplyType.none, isLast: true, length: 0, room: 0 });

/** What comes before `length` bytes of the disk from `position` on. */
export function dataChunkHeader(cookie: Cookie, position: number, length: number, isLast: boolean): Buffer {
  const bytes = chunkHeader(cookie, { type: ReplyType.offsetData, isLast, length: 8 + length, room: 8 });
  putUint64(bytes, position, structuredReplyBytes);
  return bytes;
}

/** Says that bytes of the disk are zeros. */
export function holeChunk(cookie: Cookie, position: number, length: number, isLast: boolean): Buffer {
  const bytes = chunkHeader(cookie, { type: ReplyType.offsetHole, isLast, length: 12, room: 12 });
  putUint64(bytes, position, structuredReplyBytes);
  bytes.writeUInt32BE(length, structuredReplyBytes + 8);
  return bytes;
}

/** Ends a structured reply that failed. */
export function errorChunk(cookie: Cookie, error: NbdErrorName, message: string): Buffer {
  const text = Buffer.from(message);
  const room = 6 + text.length;
  const bytes = chunkHeader(cookie, { type: ReplyType.error, isLast: true, length: room, room });
  bytes.writeUInt32BE(NbdErrno[error], structuredReplyBytes);
  bytes.writeUInt16BE(text.length, structuredReplyBytes + 4);
  text.copy(bytes, structuredReplyBytes + 6);
  return bytes;
}

/** A run of one status. */
export interface StatusRun {
  length: number;
  readonly flags: number;
}

export function blockStatusChunk(
  cookie: Cookie,
  contextId: number,
  runs: readonly StatusRun[],
  isLast: boolean,
): Buffer {
  const room = 4 + 8 * runs.length;
  const bytes = chunkHeader(cookie, { type: ReplyType.blockStatus, isLast, length: room, room });
  bytes.writeUInt32BE(contextId, structuredReplyBytes);
  let at = structuredReplyBytes + 4;
  for (const { length, flags } of runs) {
    bytes.writeUInt32BE(length, at);
    bytes.writeUInt32BE(flags, at + 4);
    at += 8;
  }
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
