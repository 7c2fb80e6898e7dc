/** One client of a server: its socket, TLS, time limits, and how it ends. */
import type { Socket } from 'node:net';
import { createServer as createTlsServer, type TlsOptions, type TLSSocket } from 'node:tls';
import { log } from '../log.js';
import type { Budget } from './budget.js';
import type { BufferPool } from './buffer-pool.js';
import { ByteReader } from './byte-reader.js';
import { ConnectionLost, ProtocolViolation } from './endings.js';
import { negotiate } from './negotiation.js';
import type { ServedExport } from './served-export.js';
import { transmit } from './transmission.js';
import { Window } from './window.js';

export interface ConnectionLimits {
  /** Requests of one connection under way at once. */
  readonly maxRequests: number;
  /** Bytes that these may read or write. */
  readonly maxRequestBytes: number;
  /** Time for the whole handshake, milliseconds. */
  readonly handshakeTimeout: number;
  /** A message that does not move for so long ends the connection, milliseconds. */
  readonly stallTimeout: number;
}

export interface ConnectionOptions {
  readonly exports: readonly ServedExport[];
  readonly tls: TlsOptions | null;
  readonly limits: ConnectionLimits;
  readonly pool: BufferPool;
  /** Shared by all connections. */
  readonly budget: Budget;
  readonly onFailure: (error: unknown) => void;
}

/** How long a client may take to read its last replies when the server closes, milliseconds. */
const partingTime = 1000;

/** Replies that are ready together are sent together, up to so many bytes: meanwhile the client has nothing to do. */
const maxTogether = 256 * 1024;
/** While so much waits to be sent, what is in memory already is not answered: it would only be copied there, bytes. */
const maxUnsent = 1024 * 1024;

const noBytes = Buffer.alloc(0);

export class Connection {
  #socket: Socket | TLSSocket;
  #reader: ByteReader;
  readonly #options: ConnectionOptions;
  readonly #window: Window;
  readonly #gone = new AbortController();
  /** What waits for the system to take bytes. */
  readonly #sending = new Set<() => void>();
  /** Wakes who waits until little is left to be sent. */
  #wake: () => void = () => undefined;
  /** Resolves when the connection is closed and nothing is under way for it. Never rejects. */
  readonly ended: Promise<void>;

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#options = options;
    const { maxRequests, maxRequestBytes } = options.limits;
    this.#window = new Window(maxRequests, maxRequestBytes, options.budget);
    this.#socket = socket;
    this.#reader = this.#attach(socket);
    this.ended = this.#run();
  }

  /** Takes no more requests, answers those under way and hangs up. */
  async close(): Promise<void> {
    this.#watch(partingTime);
    this.#reader.finish();
    await this.ended;
  }

  async #run(): Promise<void> {
    const { limits, exports, onFailure, pool, tls } = this.#options;
    const deadline = setTimeout(() => this.#socket.destroy(), limits.handshakeTimeout);
    const post = (buffers: readonly Buffer[], sent: () => void): void => this.#post(buffers, sent);
    const send = (buffers: readonly Buffer[]): Promise<void> => new Promise((sent) => post(buffers, sent));
    try {
      const startTls = tls === null ? null : () => this.#startTls(tls);
      const session = await negotiate({ reader: () => this.#reader, send, startTls, exports });
      clearTimeout(deadline);
      if (session !== null) {
        this.#watch(limits.stallTimeout);
        const { signal } = this.#gone;
        await transmit(session, {
          reader: this.#reader,
          window: this.#window,
          pool,
          signal,
          post,
          send,
          whenSendable: () => this.#whenSendable(),
          onFailure,
        });
      }
      // What the client asked for before its goodbye is done and answered.
      await this.#window.empty();
      this.#socket.end();
      this.#socket.setTimeout(partingTime, () => this.#socket.destroy());
    } catch (error) {
      this.#socket.destroy();
      if (!(error instanceof ProtocolViolation || error instanceof ConnectionLost)) onFailure(error);
      else log('an NBD client was dropped: %s', error.message);
    } finally {
      clearTimeout(deadline);
    }
    await this.#whenClosed();
    await this.#window.empty();
  }

  /** Listens to a socket; its errors are ends of the connection like any other. */
  #attach(socket: Socket | TLSSocket): ByteReader {
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (socket === this.#socket) this.#release();
    });
    return new ByteReader(socket);
  }

  #release(): void {
    this.#gone.abort(new ConnectionLost('the client is gone'));
    for (const done of this.#sending) done();
    this.#wake();
  }

  async #whenClosed(): Promise<void> {
    const { signal } = this.#gone;
    if (signal.aborted) return;
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
  }

  /** Sends buffers in one go, with those of other replies that are ready now; `sent` is called once, maybe at once. */
  #post(buffers: readonly Buffer[], sent: () => void): void {
    const socket = this.#socket;
    if (!socket.writable) {
      sent();
      return;
    }
    if (socket.writableCorked === 0) {
      socket.cork();
      process.nextTick(() => socket.uncork());
    }
    const done = (): void => {
      if (!this.#sending.delete(done)) return;
      sent();
      if (socket.writableLength < maxUnsent) this.#wake();
    };
    this.#sending.add(done);
    const last = buffers.length - 1;
    for (let index = 0; index < last; index += 1) socket.write(buffers[index] ?? noBytes);
    socket.write(buffers[last] ?? noBytes, done);
    if (socket.writableLength >= maxTogether) socket.uncork();
  }

  /** Null when little is left to be sent, else a promise of that. */
  #whenSendable(): Promise<void> | null {
    if (this.#socket.writableLength < maxUnsent || this.#gone.signal.aborted) return null;
    return new Promise((resolve) => (this.#wake = resolve));
  }

  /** Lets a real TLS server take the socket over, so that its rules for certificates hold. */
  async #startTls(options: TlsOptions): Promise<void> {
    const plain = this.#socket;
    // Bytes that came before TLS did could have been slipped in by someone else.
    if (!this.#reader.release()) throw new ProtocolViolation('data between STARTTLS and TLS');
    const server = createTlsServer({ minVersion: 'TLSv1.2', ...options });
    const encrypted = await new Promise<TLSSocket>((resolve, reject) => {
      server.once('secureConnection', resolve);
      server.once('tlsClientError', (cause) =>
        reject(new ConnectionLost(`TLS failed: ${cause.message}`, { cause })),
      );
      plain.once('close', () => reject(new ConnectionLost('the connection was closed')));
      server.emit('connection', plain);
    });
    this.#socket = encrypted;
    this.#reader = this.#attach(encrypted);
    if (encrypted.destroyed) this.#release();
  }

  /** Ends the connection when a message that has begun, in or out, stands still. An idle client may stay. */
  #watch(stallTimeout: number): void {
    const socket = this.#socket;
    const look = (): void => {
      if (this.#reader.isStarved || socket.writableLength > 0) socket.destroy();
      else socket.setTimeout(stallTimeout);
    };
    socket.setTimeout(stallTimeout);
    socket.on('timeout', look);
  }
}
