/** The transmission phase of a server: takes requests, several under way at once, and answers each when it is done. */
import { native } from '../native.js';
import type { BufferPool } from './buffer-pool.js';
import type { ByteReader } from './byte-reader.js';
import {
  asRequestError,
  blockStatus,
  change,
  checkRequest,
  prefetch,
  type Request,
  type RequestError,
  type Session,
} from './commands.js';
import { ProtocolViolation } from './endings.js';
import { Command, CommandFlag, getUint64, maxPayloadBytes, requestBytes, requestMagic } from './protocol.js';
import {
  blockStatusChunk,
  dataChunkHeader,
  dataHeaderBytes,
  doneChunk,
  errorChunk,
  holeChunk,
  putDataHeader,
  simpleReply,
  type Cookie,
} from './replies.js';
import type { Window } from './window.js';

/** What a transmission works with. */
export interface Line {
  readonly reader: ByteReader;
  readonly window: Window;
  readonly pool: BufferPool;
  /** Aborted when the client is gone. */
  readonly signal: AbortSignal;
  /** Sends buffers one behind the other; `sent` is called once the system has them, also if it never will. */
  readonly post: (buffers: readonly Buffer[], sent: () => void) => void;
  /** The same; resolves when the system has them, also if it never will. */
  readonly send: (buffers: readonly Buffer[]) => Promise<void>;
  /** Null when little is left to be sent, else a promise of that. */
  readonly whenSendable: () => Promise<void> | null;
  /** Told of failures of the disk. */
  readonly onFailure: (error: unknown) => void;
}

/** Zeros in a reply are looked for in units of this, bytes. */
const holeUnit = 4096;
/** A reply with more pieces than this goes on as one piece. */
const maxPieces = 16;
/** Longer reads are better off on the thread pool, beside what goes on here, bytes. */
const maxNowBytes = 256 * 1024;
/** What an answer about block status may take, bytes; it counts like data. */
const statusCost = 128 * 1024;

const noData = Buffer.alloc(0);

/**
 * Serves requests until the client says goodbye or goes away.
 * @throws ProtocolViolation, ConnectionLost
 */
export async function transmit(session: Session, line: Line): Promise<void> {
  const { reader, window } = line;
  for (;;) {
    const header = reader.take(requestBytes) ?? (await reader.next(requestBytes));
    if (header === null) return;
    const request = parseRequest(header);
    if (request.type === Command.disconnect) return;
    const isWrite = request.type === Command.write;
    if (isWrite && request.length > maxPayloadBytes) {
      throw new ProtocolViolation(`a write of ${request.length} bytes`);
    }
    if (request.type === Command.read) {
      const sendable = line.whenSendable();
      if (sendable !== null) await sendable;
    }
    const cost = costOf(request);
    if (!window.tryEnter(cost)) await window.enter(cost);
    if (answerNow(request, session, line, cost)) continue;
    try {
      const data = isWrite ? await payload(reader, request.length) : noData;
      void answer(request, data, session, line).finally(() => window.leave(cost));
    } catch (error) {
      window.leave(cost);
      throw error;
    }
  }
}

/**
 * Answers a read of what is in memory without a promise, straight from the buffer it was read to; false when it is to be answered
 * another way. What is wrong with a request or the disk is found that way, too.
 */
function answerNow(request: Request, session: Session, line: Line, cost: number): boolean {
  const { type, cookie, position, length, flags } = request;
  const { served, isStructured } = session;
  const isSmall = type === Command.read && length > 0 && length <= maxNowBytes;
  const isPlain = (flags & ~CommandFlag.df) === 0 && (flags === 0 || isStructured);
  if (!isSmall || !isPlain || position + length > served.size) return false;
  const { pool, window } = line;
  const headerBytes = dataHeaderBytes(isStructured);
  const reply = pool.take(headerBytes, length);
  const data = reply.subarray(headerBytes);
  if (!served.readNow(data, position)) {
    pool.give(reply);
    return false;
  }
  const pieces = isStructured && flags === 0 ? piecesOf(data) : [];
  if (pieces.length === 0) putDataHeader(reply, cookie, position, length, isStructured);
  line.post(pieces.length === 0 ? [reply] : replyInPieces(data, request, pieces), () => {
    pool.give(reply);
    window.leave(cost);
  });
  return true;
}

function parseRequest(header: Buffer): Request {
  if (header.readUInt32BE(0) !== requestMagic) throw new ProtocolViolation('no request magic');
  return {
    flags: header.readUInt16BE(4),
    type: header.readUInt16BE(6),
    cookie: { high: header.readUInt32BE(8), low: header.readUInt32BE(12) },
    position: getUint64(header, 16),
    length: header.readUInt32BE(24),
  };
}

function costOf({ type, length }: Request): number {
  if (type === Command.read || type === Command.write) return Math.min(length, maxPayloadBytes);
  return type === Command.blockStatus ? statusCost : 0;
}

async function payload(reader: ByteReader, length: number): Promise<Buffer> {
  const here = reader.take(length);
  if (here !== null) return here;
  const data = Buffer.allocUnsafeSlow(length);
  await reader.fill(data);
  return data;
}

/** Does what a request asks and sends what came of it; never fails. */
async function answer(request: Request, data: Buffer, session: Session, line: Line): Promise<void> {
  const { cookie, type } = request;
  try {
    checkRequest(request, session);
    switch (type) {
      case Command.read:
        await answerRead(request, session, line);
        return;
      case Command.blockStatus:
        await answerStatus(request, session, line);
        return;
      case Command.cache:
        await prefetch(request, session.served, line.signal);
        break;
      default:
        await change(request, session.served, data, line.signal);
    }
    await line.send([session.isStructured ? doneChunk(cookie) : simpleReply(cookie)]);
  } catch (error) {
    const told = asRequestError(error);
    if (told !== error && !line.signal.aborted) line.onFailure(error);
    await line.send([failure(cookie, told, session)]);
  }
}

function failure(cookie: Cookie, { errno, message }: RequestError, { isStructured }: Session): Buffer {
  return isStructured ? errorChunk(cookie, errno, message) : simpleReply(cookie, errno);
}

async function answerRead(request: Request, session: Session, line: Line): Promise<void> {
  const { position, length } = request;
  const buffer = line.pool.take(0, length);
  try {
    await session.served.disk.read(buffer, position);
    await line.send(readReply(buffer, request, session));
  } finally {
    line.pool.give(buffer);
  }
}

/** The bytes read, without their zeros where the client understands that. */
function readReply(
  buffer: Buffer,
  { cookie, position, flags }: Request,
  { isStructured }: Session,
): Buffer[] {
  if (!isStructured) return [simpleReply(cookie), buffer];
  if (buffer.length === 0) return [doneChunk(cookie)];
  const mayFragment = (flags & CommandFlag.df) === 0;
  const pieces = mayFragment ? piecesOf(buffer) : [];
  if (pieces.length === 0) return [dataChunkHeader(cookie, position, buffer.length, true), buffer];
  return replyInPieces(buffer, { cookie, position }, pieces);
}

function replyInPieces(
  buffer: Buffer,
  { cookie, position }: Pick<Request, 'cookie' | 'position'>,
  pieces: readonly Piece[],
): Buffer[] {
  return pieces.flatMap(({ start, end, isHole }) => {
    const at = position + start;
    const isLast = end === buffer.length;
    if (isHole) return [holeChunk(cookie, at, end - start, isLast)];
    return [dataChunkHeader(cookie, at, end - start, isLast), buffer.subarray(start, end)];
  });
}

interface Piece {
  readonly start: number;
  readonly end: number;
  readonly isHole: boolean;
}

const ends = new Float64Array(maxPieces);

/** Splits bytes into data and zeros; nothing when they are better sent in one piece. */
function piecesOf(buffer: Buffer): Piece[] {
  const count = native.zeroRuns(buffer, holeUnit, ends);
  const pieces: Piece[] = [];
  let start = 0;
  for (let index = 0; index < count; index += 1) {
    const end = ends[index] ?? start;
    if (end > start) pieces.push({ start, end, isHole: index % 2 === 1 });
    start = end;
  }
  if (pieces.length === 1 && pieces[0]?.isHole === false) return [];
  if (start < buffer.length) pieces.push({ start, end: buffer.length, isHole: false });
  return pieces;
}

async function answerStatus(request: Request, { contexts }: Session, line: Line): Promise<void> {
  const answers = await blockStatus(request, contexts, line.signal);
  await line.send(
    answers.map(({ id, runs }, index) =>
      blockStatusChunk(request.cookie, id, runs, index === answers.length - 1),
    ),
  );
}
