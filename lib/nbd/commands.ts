/** What each request of a client does to the disk. */
import { hasCode } from '../errors.js';
import { statusOf, type StatusSource } from './block-status.js';
import { Command, CommandFlag, maxPayloadBytes, type NbdErrorName } from './protocol.js';
import type { Cookie, StatusRun } from './replies.js';
import type { ServedDisk, ServedExport } from './served-export.js';

export interface Request {
  readonly cookie: Cookie;
  readonly type: number;
  readonly flags: number;
  /** First byte on the disk. */
  readonly position: number;
  /** Bytes. */
  readonly length: number;
}

/** A metadata context that the client has chosen. */
export interface ChosenContext {
  readonly id: number;
  readonly source: StatusSource;
}

/** What a client and a server have agreed on. */
export interface Session {
  readonly served: ServedExport;
  readonly isStructured: boolean;
  readonly contexts: readonly ChosenContext[];
}

/** A request that is answered with an error. */
export class RequestError extends Error {
  override readonly name = 'RequestError';
  readonly errno: NbdErrorName;

  constructor(errno: NbdErrorName, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.errno = errno;
  }
}

interface CommandRules {
  readonly flags: number;
  readonly changes: boolean;
  /** What a range past the end of the disk is answered with; null where there is no range. */
  readonly pastEnd: NbdErrorName | null;
}

const { fua, noHole, df, reqOne, fastZero } = CommandFlag;

const rules = new Map<number, CommandRules>([
  [Command.read, { flags: fua | df, changes: false, pastEnd: 'EINVAL' }],
  [Command.write, { flags: fua, changes: true, pastEnd: 'ENOSPC' }],
  [Command.flush, { flags: fua, changes: false, pastEnd: null }],
  [Command.trim, { flags: fua, changes: true, pastEnd: 'EINVAL' }],
  [Command.cache, { flags: fua, changes: false, pastEnd: 'EINVAL' }],
  [Command.writeZeroes, { flags: fua | noHole | fastZero, changes: true, pastEnd: 'ENOSPC' }],
  [Command.blockStatus, { flags: fua | reqOne, changes: false, pastEnd: 'EINVAL' }],
]);

/** @throws RequestError for what the protocol does not allow */
export function checkRequest({ type, flags, position, length }: Request, session: Session): void {
  const { served } = session;
  const rule = rules.get(type);
  if (rule === undefined) throw new RequestError('EINVAL', `unknown command ${type}`);
  if ((flags & ~rule.flags) !== 0)
    throw new RequestError('EINVAL', `flags ${flags} do not fit command ${type}`);
  if ((flags & df) !== 0 && !session.isStructured) {
    throw new RequestError('EINVAL', 'the flag DF needs structured replies');
  }
  if (rule.changes && served.writable === null) throw new RequestError('EPERM', 'the export is read-only');
  if (rule.pastEnd !== null && position + length > served.size) {
    throw new RequestError(rule.pastEnd, `the disk ends at byte ${served.size}`);
  }
  if (type === Command.read && length > maxPayloadBytes) {
    throw new RequestError('EOVERFLOW', `at most ${maxPayloadBytes} bytes in one read`);
  }
  if (type === Command.blockStatus && (length === 0 || session.contexts.length === 0)) {
    throw new RequestError('EINVAL', 'block status needs a range and a chosen context');
  }
}

const block = 1024 * 1024;
const zeros = Buffer.alloc(block);

/** Does what changes the disk or makes it durable; `data` belongs to a write. @throws RequestError, and what the disk throws */
export async function change(
  { type, flags, position, length }: Request,
  served: ServedExport,
  data: Buffer,
  signal: AbortSignal,
): Promise<void> {
  const disk = served.writable;
  // Nothing was written through this export.
  if (disk === null) return;
  if (type === Command.write) await disk.write(data, position);
  if (type === Command.trim) await disk.discard?.(position, length);
  if (type === Command.writeZeroes) await zero(disk, served, { flags, position, length }, signal);
  if (type === Command.flush || (flags & fua) !== 0) await disk.flush();
}

async function zero(
  disk: ServedDisk,
  { hasFastZeroes }: ServedExport,
  { flags, position, length }: Pick<Request, 'flags' | 'position' | 'length'>,
  signal: AbortSignal,
): Promise<void> {
  const keepsSpace = (flags & noHole) !== 0;
  if ((flags & fastZero) !== 0 && (keepsSpace || !hasFastZeroes)) {
    throw new RequestError('ENOTSUP', 'zeros are not quicker than data here');
  }
  if (!keepsSpace) return disk.writeZeroes(position, length);
  for (let at = 0; at < length; at += block) {
    signal.throwIfAborted();
    await disk.write(zeros.subarray(0, Math.min(block, length - at)), position + at);
  }
}

/** Reads a range for nobody, so that the system has it in memory. */
export async function prefetch(
  { position, length }: Request,
  { disk }: ServedExport,
  signal: AbortSignal,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(block, length));
  for (let at = 0; at < length; at += block) {
    signal.throwIfAborted();
    await disk.read(buffer.subarray(0, Math.min(block, length - at)), position + at);
  }
}

/** The status of a range in each of the chosen contexts. */
export async function blockStatus(
  { position, length, flags }: Request,
  contexts: readonly ChosenContext[],
  signal: AbortSignal,
): Promise<{ id: number; runs: StatusRun[] }[]> {
  const query = { start: position, length, signal };
  const answers: { id: number; runs: StatusRun[] }[] = [];
  for (const { id, source } of contexts) {
    answers.push({ id, runs: await statusOf(source, query, (flags & reqOne) !== 0) });
  }
  return answers;
}

/** What a client is told of a failure: the kind, and no paths or offsets of the server's files. */
export function asRequestError(error: unknown): RequestError {
  if (error instanceof RequestError) return error;
  const code = (error as NodeJS.ErrnoException | undefined)?.code ?? 'unknown error';
  return new RequestError(errnoOf(error, code), `the disk failed: ${code}`, error);
}

function errnoOf(error: unknown, code: string): NbdErrorName {
  if (hasCode(error, 'ERR_QCOW2_CLOSED')) return 'ESHUTDOWN';
  if (hasCode(error, 'ERR_QCOW2_READ_ONLY')) return 'EPERM';
  if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(code)) return 'ENOSPC';
  return code === 'ENOMEM' ? 'ENOMEM' : 'EIO';
}
