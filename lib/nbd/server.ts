/** serveNbd(): disks offered to NBD clients over a Unix socket or TCP. */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { TlsOptions } from 'node:tls';
import type { Disk } from '../disk.js';
import { invalidArgValue, outOfRange } from '../errors.js';
import { Budget } from './budget.js';
import { BufferPool } from './buffer-pool.js';
import { Connection, type ConnectionLimits } from './connection.js';
import { defaultPort } from './protocol.js';
import { ServedExport, type NbdExport } from './served-export.js';
import { nbdUri } from './uri.js';

/** How disks are served. */
export interface ServeOptions {
  /** Path of a Unix socket to make; who may connect is up to the directory it is in. Excludes `host` and `port`. */
  socket?: string;
  /** The address to listen at; 127.0.0.1 by default. */
  host?: string;
  /** 10809 by default; 0 takes any free one. */
  port?: number;
  /**
   * Makes clients use TLS: what `node:tls` needs for a server, such as `key` and `cert`, with `ca`, `requestCert: true` and
   * `rejectUnauthorized: true` for clients to prove who they are.
   */
  tls?: TlsOptions;
  /** Clients at once; more are turned away. 64 by default. */
  maxConnections?: number;
  /** Requests of one client under way at once; 128 by default. More wait in its socket. */
  maxRequests?: number;
  /** Bytes these may read or write in memory at once; 64 MiB by default. One request has up to 32 MiB. */
  maxRequestBytes?: number;
  /**
   * Bytes that the requests of all clients may read or write in memory at once; 256 MiB by default. Those of more wait their
   * turn, but for one of up to 1 MiB of each client.
   */
  maxTotalBytes?: number;
  /** Milliseconds for a handshake; 10000 by default. */
  handshakeTimeout?: number;
  /** Milliseconds in which a message begun must move; 60000 by default. A client between messages may be idle for ever. */
  stallTimeout?: number;
  /** Told of what clients are only told the kind of: failures of a disk. */
  onError?: (error: unknown) => void;
}

/** What {@link serveNbd} takes for a single disk beside the server's options. */
export type ServeDiskOptions = ServeOptions & Omit<NbdExport, 'disk'>;

/** Where a server listens. */
export type NbdAddress =
  | {
      /** Path of the Unix socket. */
      socket: string;
    }
  | {
      /** The address listened on, as text. */
      host: string;
      /** The TCP port, also where 0 was asked for. */
      port: number;
    };

/** Memory for buffers that are used again, bytes. */
const poolBytes = 32 * 1024 * 1024;

/** A server that is listening. */
export class NbdServer implements AsyncDisposable {
  readonly #server: Server;
  readonly #exports: readonly ServedExport[];
  readonly #isEncrypted: boolean;
  readonly #connections: Set<Connection>;
  /** Where it listens. */
  readonly address: NbdAddress;
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(
    server: Server,
    exports: readonly ServedExport[],
    isEncrypted: boolean,
    connections: Set<Connection>,
  ) {
    this.#server = server;
    this.#exports = exports;
    this.#isEncrypted = isEncrypted;
    this.#connections = connections;
    this.address = addressOf(server);
  }

  /** Clients connected now. */
  get connections(): number {
    return this.#connections.size;
  }

  /** The NBD URI of an export, by default the first: `nbd://host:port/name` or `nbd+unix:///name?socket=path`. */
  uri(name = this.#exports[0]?.name ?? ''): string {
    return nbdUri({ ...this.address, name, isEncrypted: this.#isEncrypted });
  }

  /**
   * Takes no more clients and requests, answers what is under way and hangs up. The disks stay open, and what was written
   * to them is durable after their own `flush` or `close`.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await Promise.all([...this.#connections].map((connection) => connection.close()));
    await closed;
  }
}

/**
 * Offers a disk, or several under names of their own, to NBD clients such as `qemu-img`, `nbdcopy` and the Linux kernel.
 * Resolves once clients can connect.
 * @throws TypeError, RangeError for options; Qcow2Error as for {@link NbdExport}; system errors of listening
 */
export async function serveNbd(
  disk: Disk | readonly NbdExport[],
  options: ServeDiskOptions = {},
): Promise<NbdServer> {
  const limits = checkLimits(options);
  const given = isList(disk) ? disk : [{ ...options, disk }];
  const exports = await Promise.all(given.map((each) => ServedExport.prepare(each)));
  refuseSameNames(exports);
  const { tls = null, onError = () => undefined } = options;
  const pool = new BufferPool(poolBytes);
  const budget = new Budget(options.maxTotalBytes ?? 256 * 1024 * 1024);
  const connections = new Set<Connection>();
  const accept = (socket: Socket): void => {
    const connection = new Connection(socket, { exports, tls, limits, pool, budget, onFailure: onError });
    connections.add(connection);
    void connection.ended.then(() => connections.delete(connection));
  };
  const server = createServer({ noDelay: true }, accept);
  server.maxConnections = options.maxConnections ?? 64;
  await listen(server, options);
  server.on('error', onError);
  return new NbdServer(server, exports, tls !== null, connections);
}

function isList(disk: Disk | readonly NbdExport[]): disk is readonly NbdExport[] {
  return Array.isArray(disk);
}

function checkLimits(options: ServeOptions): ConnectionLimits {
  const { maxRequests = 128, maxRequestBytes = 64 * 1024 * 1024 } = options;
  const { handshakeTimeout = 10_000, stallTimeout = 60_000, maxConnections, maxTotalBytes } = options;
  const limits = { maxRequests, maxRequestBytes, handshakeTimeout, stallTimeout };
  for (const [name, value] of Object.entries({ ...limits, maxConnections, maxTotalBytes })) {
    if (value !== undefined && (!Number.isSafeInteger(value) || value < 1)) {
      throw outOfRange(name, 'an integer from 1 on', value);
    }
  }
  return limits;
}

function refuseSameNames(exports: readonly ServedExport[]): void {
  const names = exports.map(({ name }) => name);
  if (names.length === 0) throw invalidArgValue('exports', 'must have at least one export', names);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw invalidArgValue('name', 'must not be that of two exports', twice);
}

async function listen(server: Server, { socket, host, port }: ServeOptions): Promise<void> {
  if (socket !== undefined && (host !== undefined || port !== undefined)) {
    throw invalidArgValue('socket', 'excludes host and port', socket);
  }
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    const ready = (): void => {
      server.off('error', reject);
      resolve();
    };
    if (socket !== undefined) server.listen(socket, ready);
    else server.listen(port ?? defaultPort, host ?? '127.0.0.1', ready);
  });
}

function addressOf(server: Server): NbdAddress {
  const address = server.address() as string | AddressInfo;
  return typeof address === 'string' ? { socket: address } : { host: address.address, port: address.port };
}
