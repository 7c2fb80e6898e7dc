/** The handshake of a server: fixed newstyle, until the client has chosen an export. */
import type { ByteReader } from './byte-reader.js';
import type { ChosenContext, Session } from './commands.js';
import { ProtocolViolation } from './endings.js';
import {
  InvalidOption,
  parseContextQuery,
  parseInfoQuery,
  parseName,
  type ContextQuery,
} from './option-data.js';
import {
  bitmapContextPrefix,
  HandshakeFlag,
  hasMagic,
  Info,
  magic,
  maxPayloadBytes,
  Option,
  OptionReply,
} from './protocol.js';
import {
  blockSizeInfo,
  contextListing,
  exportInfo,
  exportListing,
  exportNameReply,
  greeting,
  optionReply,
  textInfo,
} from './replies.js';
import type { ServedExport } from './served-export.js';

/** What the handshake works with. */
export interface Talk {
  /** Takes what the client sends; another one once TLS is on. */
  readonly reader: () => ByteReader;
  readonly send: (buffers: readonly Buffer[]) => Promise<void>;
  /** Goes over to TLS; null where it is not offered. Where it is, clients have to. */
  readonly startTls: (() => Promise<void>) | null;
  readonly exports: readonly ServedExport[];
}

/** Longer options are answered with an error, bytes. */
const maxOptionBytes = 64 * 1024;

interface OptionRequest {
  readonly option: number;
  readonly data: Buffer;
}

/**
 * Talks until the client has chosen an export.
 * @returns null when it went away or gave up
 * @throws ProtocolViolation, ConnectionLost
 */
export async function negotiate(talk: Talk): Promise<Session | null> {
  await talk.send([greeting()]);
  const flags = (await talk.reader().read(4)).readUInt32BE();
  if ((flags & ~(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)) !== 0) {
    throw new ProtocolViolation(`client flags ${flags}`);
  }
  return new Haggling(talk, flags).run();
}

/** What has been agreed on so far. */
class Haggling {
  readonly #talk: Talk;
  readonly #isFixed: boolean;
  readonly #noZeroes: boolean;
  #isTls = false;
  #isStructured = false;
  #contextsOf: ServedExport | null = null;
  #contexts: ChosenContext[] = [];

  constructor(talk: Talk, clientFlags: number) {
    this.#talk = talk;
    this.#isFixed = (clientFlags & HandshakeFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (clientFlags & HandshakeFlag.noZeroes) !== 0;
  }

  async run(): Promise<Session | null> {
    for (;;) {
      const request = await this.#next();
      if (request === null) return null;
      const { option } = request;
      if (option === Option.exportName) return this.#chooseSilently(request);
      if (!this.#isFixed) throw new ProtocolViolation(`option ${option} without fixed newstyle`);
      if (option === Option.abort) {
        await this.#reply(option, OptionReply.ack);
        return null;
      }
      const session = await this.#answer(request);
      if (session !== null) return session;
    }
  }

  /** The next option whose data is not too long. */
  async #next(): Promise<OptionRequest | null> {
    for (;;) {
      const reader = this.#talk.reader();
      const header = await reader.next(16);
      if (header === null) return null;
      if (!hasMagic(header, magic.option, 0)) throw new ProtocolViolation('no option magic');
      const option = header.readUInt32BE(8);
      const length = header.readUInt32BE(12);
      if (length <= maxOptionBytes) return { option, data: await reader.read(length) };
      if (length > maxPayloadBytes || option === Option.exportName) {
        throw new ProtocolViolation(`an option of ${length} bytes`);
      }
      await reader.skip(length);
      await this.#reply(option, OptionReply.errTooBig, `at most ${maxOptionBytes} bytes`);
    }
  }

  /** NBD_OPT_EXPORT_NAME, which has no way to say no but to hang up. */
  async #chooseSilently({ data }: OptionRequest): Promise<Session> {
    const served = this.#mustEncrypt ? undefined : this.#find(nameOrViolation(data));
    if (served === undefined) throw new ProtocolViolation('no such export');
    const flags = served.transmissionFlags(this.#isStructured);
    await this.#talk.send([exportNameReply(served.size, flags, this.#noZeroes)]);
    return this.#session(served);
  }

  /** Answers any other option; a session when the client is done. */
  async #answer({ option, data }: OptionRequest): Promise<Session | null> {
    if (option !== Option.startTls && this.#mustEncrypt) {
      await this.#reply(option, OptionReply.errTlsRequired, 'TLS comes first here');
      return null;
    }
    try {
      switch (option) {
        case Option.startTls:
          await this.#startTls(data);
          return null;
        case Option.list:
          await this.#list(data);
          return null;
        case Option.structuredReply:
          refuseData(data);
          this.#isStructured = true;
          await this.#reply(option, OptionReply.ack);
          return null;
        case Option.info:
        case Option.go:
          return await this.#inform(option, data);
        case Option.listMetaContext:
        case Option.setMetaContext:
          await this.#metaContexts(option, data);
          return null;
        default:
          await this.#reply(option, OptionReply.errUnsupported, `option ${option} is not known here`);
          return null;
      }
    } catch (error) {
      if (!(error instanceof InvalidOption)) throw error;
      await this.#reply(option, OptionReply.errInvalid, error.message);
      return null;
    }
  }

  async #startTls(data: Buffer): Promise<void> {
    refuseData(data);
    if (this.#isTls) throw new InvalidOption('TLS is on already');
    if (this.#talk.startTls === null) {
      await this.#reply(Option.startTls, OptionReply.errPolicy, 'this server has no TLS');
      return;
    }
    await this.#reply(Option.startTls, OptionReply.ack);
    await this.#talk.startTls();
    this.#isTls = true;
    // What was agreed on in the clear may not have come from this client.
    this.#isStructured = false;
    this.#contexts = [];
    this.#contextsOf = null;
  }

  async #list(data: Buffer): Promise<void> {
    refuseData(data);
    const { exports } = this.#talk;
    await this.#talk.send([
      ...exports.map(({ name, description }) => exportListing(Option.list, name, description)),
      optionReply(Option.list, OptionReply.ack),
    ]);
  }

  /** NBD_OPT_INFO and NBD_OPT_GO. */
  async #inform(option: number, data: Buffer): Promise<Session | null> {
    const { name, wanted } = parseInfoQuery(data);
    const served = this.#find(name);
    if (served === undefined) {
      await this.#reply(option, OptionReply.errUnknownExport, 'no export of that name');
      return null;
    }
    const replies = [
      exportInfo(option, served.size, served.transmissionFlags(this.#isStructured)),
      blockSizeInfo(option, 1, served.preferredBlock, maxPayloadBytes),
    ];
    if (wanted.includes(Info.name)) replies.push(textInfo(option, Info.name, served.name));
    if (wanted.includes(Info.description) && served.description !== '') {
      replies.push(textInfo(option, Info.description, served.description));
    }
    await this.#talk.send([...replies, optionReply(option, OptionReply.ack)]);
    return option === Option.go ? this.#session(served) : null;
  }

  async #metaContexts(option: number, data: Buffer): Promise<void> {
    if (!this.#isStructured) throw new InvalidOption('metadata contexts need structured replies');
    const query = parseContextQuery(data);
    const isChoice = option === Option.setMetaContext;
    const served = this.#find(query.name);
    if (isChoice) this.#contexts = [];
    if (served === undefined) {
      await this.#reply(option, OptionReply.errUnknownExport, 'no export of that name');
      return;
    }
    const names = [...served.contexts.keys()];
    const found = isChoice ? names.filter((name) => query.queries.includes(name)) : listed(names, query);
    if (isChoice) this.#choose(served, found);
    await this.#talk.send([
      ...found.map((name) => contextListing(option, isChoice ? names.indexOf(name) + 1 : 0, name)),
      optionReply(option, OptionReply.ack),
    ]);
  }

  #choose(served: ServedExport, names: readonly string[]): void {
    this.#contextsOf = served;
    this.#contexts = [...served.contexts].flatMap(([name, source], index) =>
      names.includes(name) ? [{ id: index + 1, source }] : [],
    );
  }

  #session(served: ServedExport): Session {
    // Contexts hold for the export they were chosen for.
    const contexts = this.#contextsOf === served ? this.#contexts : [];
    return { served, isStructured: this.#isStructured, contexts };
  }

  /** The export of a name; a lone export is also the default one. */
  #find(name: string): ServedExport | undefined {
    const { exports } = this.#talk;
    const found = exports.find((served) => served.name === name);
    return found ?? (name === '' && exports.length === 1 ? exports[0] : undefined);
  }

  get #mustEncrypt(): boolean {
    return this.#talk.startTls !== null && !this.#isTls;
  }

  #reply(option: number, type: number, text?: string): Promise<void> {
    return this.#talk.send([optionReply(option, type, text)]);
  }
}

/** Queries of a listing may end in a colon and then stand for all that begin so; no query stands for all. */
function listed(names: readonly string[], { queries }: ContextQuery): string[] {
  const families = ['base:', 'qemu:', bitmapContextPrefix];
  return names.filter(
    (name) =>
      queries.length === 0 ||
      queries.some((query) => query === name || (families.includes(query) && name.startsWith(query))),
  );
}

function refuseData(data: Buffer): void {
  if (data.length > 0) throw new InvalidOption('this option takes no data');
}

function nameOrViolation(data: Buffer): string {
  try {
    return parseName(data);
  } catch (cause) {
    throw new ProtocolViolation('no export name', { cause });
  }
}
