/** A client's connection to an export: requests in flight, and their replies as they come. */
import type { ConnectionOptions } from 'node:tls';
import type { Socket } from 'node:net';
import { Qcow2Error } from '../errors.js';
import { quote } from '../format/text.js';
import { RequestSlots } from '../storage/request-slots.js';
import { tlsFailure } from '../storage/tls-failure.js';
import type { ByteReader } from './byte-reader.js';
import { Handshake, type ExportFacts } from './client-handshake.js';
import { ProtocolViolation } from './endings.js';
import {
  Command,
  getUint64,
  isErrorType,
  NbdErrno,
  replyFlagDone,
  ReplyType,
  simpleReplyBytes,
  simpleReplyMagic,
  structuredReplyBytes,
  structuredReplyMagic,
} from './protocol.js';
import type { StatusRun } from './replies.js';
import { commandRequest } from './requests.js';
import { nbdUri, type NbdLocation } from './uri.js';

export interface ClientOptions {
  /** For `nbds:` URIs, what `node:tls` takes for a client, such as `ca`, `cert` and `key`. */
  tls?: ConnectionOptions;
  /** Requests under way at once; 16 by default. */
  concurrency?: number;
  /** Milliseconds without a sign of life, while something is waited for, that end the connection; 60000 by default. */
  timeout?: number;
  /** Aborting it ends the connection. */
  signal?: AbortSignal;
}

export interface ClientRequest {
  readonly type: number;
  readonly flags?: number;
  readonly position: number;
  readonly length: number;
  /** What a write writes. */
  readonly data?: Uint8Array;
  /** Where a read reads to. */
  readonly into?: Buffer;
}

interface Pending extends ClientRequest {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Which parts of a read have come. */
  readonly parts: { start: number; end: number }[];
  /** Context id -> its runs. */
  readonly status: Map<number, StatusRun[]>;
  failure: Error | null;
}

/** An error message or block status is no longer, bytes. */
const maxChunkBytes = 1024 * 1024;

export class NbdClient {
  readonly facts: ExportFacts;
  /** For messages. */
  readonly name: string;
  readonly #socket: Socket;
  readonly #reader: ByteReader;
  readonly #slots: RequestSlots;
  readonly #pending = new Map<number, Pending>();
  readonly #timeout: number;
  #lastCookie = 0;
  #ending: Error | null = null;
  #whenIdle: (() => void) | null = null;
  readonly #closed: Promise<void>;

  private constructor(
    { socket, reader }: Handshake,
    facts: ExportFacts,
    name: string,
    options: ClientOptions,
  ) {
    this.facts = facts;
    this.name = name;
    this.#socket = socket;
    this.#reader = reader;
    this.#slots = new RequestSlots(options.concurrency ?? 16);
    this.#timeout = options.timeout ?? 60_000;
    socket.on('timeout', () => {
      if (this.#pending.size > 0) socket.destroy(new Error(`no sign of life for ${this.#timeout} ms`));
    });
    this.#closed = new Promise((resolve) => socket.once('close', () => resolve()));
    // A connection on which nothing is waited for keeps no program alive.
    socket.unref();
    void this.#receive();
  }

  /**
   * Connects to an export.
   * @param contexts metadata contexts wanted beside base:allocation
   * @throws Qcow2Error `ERR_QCOW2_REMOTE`, `ERR_QCOW2_NOT_FOUND`, `ERR_QCOW2_UNSUPPORTED`; the signal's reason
   */
  static async connect(
    location: NbdLocation,
    contexts: readonly string[],
    options: ClientOptions,
  ): Promise<NbdClient> {
    const { signal, timeout = 60_000, tls = {} } = options;
    signal?.throwIfAborted();
    const name = nbdUri(location);
    const handshake = new Handshake(location, { tls, contexts });
    const { socket } = handshake;
    const reasons: Error[] = [];
    const end = (error: Error): void => {
      reasons.push(error);
      handshake.socket.destroy();
    };
    const timer = setTimeout(() => end(new Error(`no handshake within ${timeout} ms`)), timeout);
    const stop = (): void => end(signal?.reason as Error);
    signal?.addEventListener('abort', stop, { once: true });
    socket.once('close', () => signal?.removeEventListener('abort', stop));
    socket.on('error', (error) => reasons.push(error));
    try {
      return new NbdClient(handshake, await handshake.run(), name, options);
    } catch (error) {
      handshake.socket.destroy();
      signal?.throwIfAborted();
      throw error instanceof Qcow2Error ? error : remote(name, reasons[0] ?? error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Resolves when the server has done it.
   * @throws Qcow2Error `ERR_QCOW2_REMOTE`, `ERR_QCOW2_CLOSED`; what the server answers as an error with a system code
   */
  async run(request: ClientRequest): Promise<void> {
    await this.#slots.run(() => this.#send(request));
  }

  /** The status of a range, or at least of its beginning, in each context by its id. */
  async blockStatus(position: number, length: number): Promise<ReadonlyMap<number, StatusRun[]>> {
    return (await this.#slots.run(() => this.#send({ type: Command.blockStatus, position, length }))).status;
  }

  /** Says goodbye once nothing is under way any more. */
  async close(): Promise<void> {
    if (this.#ending === null) {
      this.#ending = new Qcow2Error('ERR_QCOW2_CLOSED', `${this.name} is closed`);
      if (this.#pending.size > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
      this.#socket.ref();
      this.#socket.end(commandRequest(0, Command.disconnect, 0, 0, 0));
      this.#socket.setTimeout(1000, () => this.#socket.destroy());
    }
    await this.#closed;
  }

  #send(request: ClientRequest): Promise<Pending> {
    if (this.#ending !== null) return Promise.reject(this.#ending);
    const { type, flags = 0, position, length, data } = request;
    const cookie = this.#newCookie();
    return new Promise((resolve, reject) => {
      const pending: Pending = {
        ...request,
        resolve: () => resolve(pending),
        reject,
        parts: [],
        status: new Map(),
        failure: null,
      };
      this.#pending.set(cookie, pending);
      this.#socket.setTimeout(this.#timeout);
      this.#socket.ref();
      this.#socket.cork();
      this.#socket.write(commandRequest(cookie, type, flags, position, length));
      if (data !== undefined) this.#socket.write(data);
      this.#socket.uncork();
    });
  }

  #newCookie(): number {
    do this.#lastCookie = (this.#lastCookie + 1) % 2 ** 32;
    while (this.#pending.has(this.#lastCookie));
    return this.#lastCookie;
  }

  /** Takes replies until the connection ends, whatever ends it. */
  async #receive(): Promise<void> {
    try {
      for (;;) await this.#takeReply();
    } catch (error) {
      this.#ending ??= remote(this.name, error);
      this.#socket.destroy();
      for (const { reject } of this.#pending.values()) reject(remote(this.name, error));
      this.#pending.clear();
      this.#whenIdle?.();
    }
  }

  async #takeReply(): Promise<void> {
    const mark = (await this.#reader.read(4)).readUInt32BE();
    if (mark === simpleReplyMagic) return this.#takeSimpleReply();
    if (mark === structuredReplyMagic && this.facts.isStructured) return this.#takeChunk();
    throw new ProtocolViolation('a reply without magic');
  }

  async #takeSimpleReply(): Promise<void> {
    const header = await this.#reader.read(simpleReplyBytes - 4);
    const errno = header.readUInt32BE(0);
    const { cookie, pending } = this.#find(header, 4);
    if (errno !== 0) pending.failure = serverFailure(errno, '', this.name);
    else if (pending.type === Command.read) {
      if (this.facts.isStructured) throw new ProtocolViolation('a simple reply to a read');
      await this.#takeData(pending, pending.position, pending.length);
    }
    this.#finish(cookie, pending);
  }

  async #takeChunk(): Promise<void> {
    const header = await this.#reader.read(structuredReplyBytes - 4);
    const isLast = (header.readUInt16BE(0) & replyFlagDone) !== 0;
    const type = header.readUInt16BE(2);
    const length = header.readUInt32BE(12);
    const { cookie, pending } = this.#find(header, 4);
    if (type === ReplyType.offsetData && length > 8) {
      const position = getUint64(await this.#reader.read(8), 0);
      await this.#takeData(pending, position, length - 8);
    } else if (length > maxChunkBytes) {
      throw new ProtocolViolation(`a chunk of ${length} bytes`);
    } else {
      takeSmallChunk(pending, type, await this.#reader.read(length), this.name);
    }
    if (isLast) this.#finish(cookie, pending);
  }

  /** Bytes of a read, straight to where they are wanted. */
  async #takeData(
    { into, position, parts, length: asked }: Pending,
    start: number,
    length: number,
  ): Promise<void> {
    const at = start - position;
    if (into === undefined || at < 0 || at + length > asked)
      throw new ProtocolViolation('data nobody asked for');
    parts.push({ start: at, end: at + length });
    await this.#reader.fill(into.subarray(at, at + length));
  }

  /** The request a reply is for. */
  #find(header: Buffer, at: number): { cookie: number; pending: Pending } {
    const cookie = getUint64(header, at);
    const pending = this.#pending.get(cookie);
    if (pending === undefined) throw new ProtocolViolation('a reply nobody waits for');
    return { cookie, pending };
  }

  #finish(cookie: number, pending: Pending): void {
    if (pending.failure === null) refuseIncomplete(pending);
    this.#pending.delete(cookie);
    if (pending.failure === null) pending.resolve();
    else pending.reject(pending.failure);
    if (this.#pending.size === 0) {
      this.#socket.setTimeout(0);
      this.#socket.unref();
      this.#whenIdle?.();
    }
  }
}

/** Holes, block status, errors and ends. */
function takeSmallChunk(pending: Pending, type: number, payload: Buffer, name: string): void {
  if (type === ReplyType.none && payload.length === 0) return;
  if (type === ReplyType.offsetHole && payload.length === 12 && pending.into !== undefined) {
    const start = getUint64(payload, 0) - pending.position;
    const end = start + payload.readUInt32BE(8);
    if (start < 0 || end > pending.length) throw new ProtocolViolation('a hole nobody asked for');
    pending.parts.push({ start, end });
    pending.into.fill(0, start, end);
    return;
  }
  if (type === ReplyType.blockStatus && payload.length >= 12 && payload.length % 8 === 4) {
    pending.status.set(payload.readUInt32BE(0), statusRuns(payload));
    return;
  }
  if (isErrorType(type) && payload.length >= 6) {
    const text = payload.toString('utf8', 6, 6 + payload.readUInt16BE(4));
    pending.failure ??= serverFailure(payload.readUInt32BE(0), text, name);
    return;
  }
  throw new ProtocolViolation(`a chunk of type ${type} with ${payload.length} bytes`);
}

function statusRuns(payload: Buffer): StatusRun[] {
  const runs: StatusRun[] = [];
  for (let at = 4; at < payload.length; at += 8) {
    const run = { length: payload.readUInt32BE(at), flags: payload.readUInt32BE(at + 4) };
    if (run.length === 0) throw new ProtocolViolation('a status of nothing');
    runs.push(run);
  }
  return runs;
}

/** Every byte of a read has to come once. */
function refuseIncomplete({ type, length, parts }: Pending): void {
  if (type !== Command.read) return;
  let at = 0;
  for (const { start, end } of parts.sort((a, b) => a.start - b.start)) {
    if (start !== at) throw new ProtocolViolation('a read with gaps or overlaps');
    at = end;
  }
  if (at !== length) throw new ProtocolViolation('a read that is not complete');
}

/** What the server answers, like the error of a system call. */
function serverFailure(errno: number, text: string, name: string): Error {
  const code = Object.entries(NbdErrno).find(([, value]) => value === errno)?.[0] ?? 'EIO';
  const why = text === '' ? '' : `: ${quote(text)}`;
  return Object.assign(new Error(`${code}: the server of ${name} refuses${why}`), {
    code,
    errno,
    syscall: 'nbd',
  });
}

function remote(name: string, cause: unknown): Qcow2Error {
  const why = tlsFailure(cause) ?? (cause instanceof Error ? cause.message : String(cause));
  return new Qcow2Error('ERR_QCOW2_REMOTE', `${name}: ${why}`, { cause });
}
