/** The handshake of a client: from the greeting to the facts about the export. */
import { connect as connectTls, type ConnectionOptions } from 'node:tls';
import { connect, isIP, type Socket } from 'node:net';
import { Qcow2Error } from '../errors.js';
import { quote } from '../format/text.js';
import { tlsFailure } from '../storage/tls-failure.js';
import { ByteReader } from './byte-reader.js';
import { ConnectionLost, ProtocolViolation } from './endings.js';
import {
  allocationContext,
  getUint64,
  HandshakeFlag,
  hasMagic,
  Info,
  magic,
  maxPayloadBytes,
  Option,
  OptionReply,
  TransmissionFlag,
} from './protocol.js';
import { contextQueryData, infoQueryData, optionRequest } from './requests.js';
import type { NbdLocation } from './uri.js';

/** What a server tells of an export. */
export interface ExportFacts {
  /** Bytes. */
  readonly size: number;
  /** See {@link TransmissionFlag}. */
  readonly flags: number;
  /** Requests must be multiples of it, bytes. */
  readonly minimumBlock: number;
  /** The most bytes of a read or write. */
  readonly maximumBlock: number;
  readonly isStructured: boolean;
  /** Name -> id of the contexts that the server has and the client asked for. */
  readonly contexts: ReadonlyMap<string, number>;
}

export interface HandshakeOptions {
  readonly tls: ConnectionOptions;
  /** Wanted beside base:allocation; those that are not there are left out of the facts. */
  readonly contexts: readonly string[];
}

interface Reply {
  readonly type: number;
  readonly data: Buffer;
}

/** No reply in a handshake is longer, bytes. */
const maxReplyBytes = 64 * 1024;
/** No option has more replies than this. */
const maxReplies = 10_000;

/** Memory that a socket reads into, bytes. */
const socketBytes = 256 * 1024;

/** Connects to where a location says. */
function connectSocket(location: NbdLocation): { socket: Socket; reader: ByteReader } {
  const place =
    'socket' in location
      ? { path: location.socket }
      : { host: location.host, port: location.port, noDelay: true };
  if (location.isEncrypted) {
    const socket = connect(place);
    return { socket, reader: new ByteReader(socket) };
  }
  // Always the same memory: new one for each 64 KiB costs more than to copy out of it.
  const buffer = Buffer.allocUnsafeSlow(socketBytes);
  const callback = (length: number): boolean => {
    reader.feed(buffer.subarray(0, length));
    return true;
  };
  const socket = connect({ ...place, onread: { buffer, callback } });
  const reader = new ByteReader(socket);
  return { socket, reader };
}

export class Handshake {
  socket: Socket;
  reader: ByteReader;
  readonly #location: NbdLocation;
  readonly #options: HandshakeOptions;

  constructor(location: NbdLocation, options: HandshakeOptions) {
    const { socket, reader } = connectSocket(location);
    this.socket = socket;
    this.reader = reader;
    this.#location = location;
    this.#options = options;
  }

  /**
   * @throws ProtocolViolation, ConnectionLost; Qcow2Error `ERR_QCOW2_NOT_FOUND` when there is no such export,
   * `ERR_QCOW2_UNSUPPORTED` for a server that is too old, `ERR_QCOW2_REMOTE` for other refusals
   */
  async run(): Promise<ExportFacts> {
    await this.#greet();
    if (this.#location.isEncrypted) await this.#startTls();
    const isStructured = await this.#firstAnswer();
    const contexts = isStructured ? await this.#chooseContexts() : new Map<string, number>();
    return { isStructured, contexts, ...(await this.#go()) };
  }

  async #greet(): Promise<void> {
    const start = await this.reader.read(16);
    if (!hasMagic(start, magic.init, 0)) throw new ProtocolViolation('it does not speak NBD');
    if (!hasMagic(start, magic.option, 8)) throw tooOld();
    const flags = (await this.reader.read(2)).readUInt16BE();
    if ((flags & HandshakeFlag.fixedNewstyle) === 0) throw tooOld();
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(flags & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes));
    this.socket.write(answer);
  }

  async #startTls(): Promise<void> {
    if (!(await this.#succeeds(Option.startTls))) {
      throw new Qcow2Error('ERR_QCOW2_UNSUPPORTED', 'The NBD server has no TLS, which the URI asks for', {
        feature: 'TLS',
      });
    }
    const plain = this.socket;
    if (!this.reader.release()) throw new ProtocolViolation('data between STARTTLS and TLS');
    const host = 'host' in this.#location ? this.#location.host : 'localhost';
    const servername = isIP(host) === 0 ? { servername: host } : {};
    const encrypted = connectTls({
      minVersion: 'TLSv1.2',
      host,
      ...servername,
      ...this.#options.tls,
      socket: plain,
    });
    await new Promise<void>((resolve, reject) => {
      encrypted.once('secureConnect', resolve);
      encrypted.once('error', reject);
      encrypted.once('close', () => reject(new ConnectionLost('the connection was closed')));
    });
    this.socket = encrypted;
    this.reader = new ByteReader(encrypted);
  }

  /** Whether the server has structured replies. A server that looks at the client's certificate may end TLS here. */
  async #firstAnswer(): Promise<boolean> {
    try {
      return await this.#succeeds(Option.structuredReply);
    } catch (error) {
      if (!this.#location.isEncrypted || !(error instanceof ConnectionLost) || tlsFailure(error) !== null)
        throw error;
      throw new ConnectionLost(
        `${error.message} as soon as TLS was there; the server may want another certificate from the client (tls.cert and tls.key)`,
        { cause: error },
      );
    }
  }

  async #chooseContexts(): Promise<Map<string, number>> {
    const wanted = [allocationContext, ...this.#options.contexts];
    const replies = await this.#ask(Option.setMetaContext, contextQueryData(this.#location.name, wanted));
    const contexts = new Map<string, number>();
    // A server without contexts, or without the export, which is noticed next.
    if (isError(replies.at(-1))) return contexts;
    for (const { type, data } of replies) {
      if (type !== OptionReply.metaContext || data.length < 4) continue;
      const name = data.toString('utf8', 4);
      if (wanted.includes(name)) contexts.set(name, data.readUInt32BE(0));
    }
    return contexts;
  }

  async #go(): Promise<Pick<ExportFacts, 'size' | 'flags' | 'minimumBlock' | 'maximumBlock'>> {
    const { name } = this.#location;
    const replies = await this.#ask(Option.go, infoQueryData(name, [Info.blockSize]));
    const last = replies.at(-1);
    if (isError(last)) throw refusal(last, name);
    let facts: { size: number; flags: number } | null = null;
    let blocks = { minimumBlock: 1, maximumBlock: maxPayloadBytes };
    for (const { type, data } of replies) {
      if (type !== OptionReply.info || data.length < 2) continue;
      const kind = data.readUInt16BE(0);
      if (kind === Info.export && data.length === 12) {
        facts = { size: getUint64(data, 2), flags: data.readUInt16BE(10) };
      }
      if (kind === Info.blockSize && data.length === 14) blocks = blockSizes(data);
    }
    if (facts === null) throw new ProtocolViolation('the size of the export is missing');
    if (!Number.isSafeInteger(facts.size)) {
      throw new Qcow2Error('ERR_QCOW2_UNSUPPORTED', `The export has 2^53 bytes or more`, { feature: 'size' });
    }
    return { ...facts, ...blocks };
  }

  async #succeeds(option: number): Promise<boolean> {
    return !isError((await this.#ask(option)).at(-1));
  }

  /** Sends an option and takes all replies to it. */
  async #ask(option: number, data?: Buffer): Promise<Reply[]> {
    this.socket.write(optionRequest(option, data));
    const replies: Reply[] = [];
    while (replies.length < maxReplies) {
      const header = await this.reader.read(20);
      const type = header.readUInt32BE(12);
      const length = header.readUInt32BE(16);
      if (!hasMagic(header, magic.optionReply, 0) || header.readUInt32BE(8) !== option) {
        throw new ProtocolViolation('a reply that is none');
      }
      if (length > maxReplyBytes) throw new ProtocolViolation(`a reply of ${length} bytes`);
      const reply = { type, data: Buffer.from(await this.reader.read(length)) };
      replies.push(reply);
      if (type === OptionReply.ack || isError(reply)) return replies;
    }
    throw new ProtocolViolation('too many replies');
  }
}

function blockSizes(data: Buffer): Pick<ExportFacts, 'minimumBlock' | 'maximumBlock'> {
  const minimumBlock = data.readUInt32BE(2);
  const maximum = data.readUInt32BE(10);
  const isPower = minimumBlock > 0 && Number.isInteger(Math.log2(minimumBlock));
  if (!isPower || minimumBlock > 65536 || maximum < minimumBlock) {
    throw new ProtocolViolation(`block sizes from ${minimumBlock} to ${maximum}`);
  }
  const most = Math.min(maximum, maxPayloadBytes);
  return { minimumBlock, maximumBlock: most - (most % minimumBlock) };
}

const isError = (reply: Reply | undefined): reply is Reply => reply !== undefined && reply.type >= 2 ** 31;

function refusal({ type, data }: Reply, name: string): Qcow2Error {
  const why = data.length === 0 ? '' : `: ${quote(data.toString('utf8'))}`;
  if (type === OptionReply.errUnknownExport) {
    return new Qcow2Error('ERR_QCOW2_NOT_FOUND', `The NBD server has no export ${quote(name)}${why}`, {
      feature: 'export',
    });
  }
  if (type === OptionReply.errUnsupported) return tooOld();
  const what =
    type === OptionReply.errTlsRequired ? 'wants TLS; use nbds: in the URI' : `refuses (${type - 2 ** 31})`;
  return new Qcow2Error('ERR_QCOW2_REMOTE', `The NBD server ${what}${why}`, { feature: 'handshake' });
}

const tooOld = (): Qcow2Error =>
  new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    'The NBD server does not know the handshake of today (NBD_OPT_GO)',
    {
      feature: 'handshake',
    },
  );

export const canDo = (
  { flags }: Pick<ExportFacts, 'flags'>,
  feature: keyof typeof TransmissionFlag,
): boolean => (flags & TransmissionFlag[feature]) !== 0;
