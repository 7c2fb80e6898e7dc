/** A client that speaks NBD byte by byte, right or wrong as a test wants it. Independent of the library's own. */
import { connect, type Socket } from 'node:net';

export interface OptionReply {
  option: number;
  type: number;
  data: Buffer;
}

export interface Chunk {
  isLast: boolean;
  type: number;
  cookie: bigint;
  payload: Buffer;
}

export interface RequestFields {
  type: number;
  flags?: number;
  cookie?: bigint;
  offset?: bigint | number;
  length?: number;
  data?: Buffer;
}

export class NbdWire {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  #isOver = false;
  #wake: (() => void) | null = null;

  constructor(path: string) {
    this.socket = connect(path);
    this.socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake?.();
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => {
      this.#isOver = true;
      this.#wake?.();
    });
  }

  send(...parts: readonly Buffer[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** @throws when the connection ends first */
  async take(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.#isOver) throw new Error('the server hung up');
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  /** Resolves when the server has hung up; what it said before that is dropped. */
  async hungUp(): Promise<void> {
    while (!this.#isOver) await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  /** Takes the greeting and answers it. */
  async greet(clientFlags = 3): Promise<void> {
    const greeting = await this.take(18);
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('no NBD greeting');
    this.send(u32(clientFlags));
  }

  option(option: number, data: Buffer = Buffer.alloc(0), length = data.length): void {
    this.send(Buffer.from('IHAVEOPT'), u32(option), u32(length), data);
  }

  async optionReply(): Promise<OptionReply> {
    const header = await this.take(20);
    const data = await this.take(header.readUInt32BE(16));
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
  }

  /** All replies to an option, up to the ACK or the error. */
  async ask(option: number, data?: Buffer): Promise<OptionReply[]> {
    this.option(option, data);
    const replies: OptionReply[] = [];
    for (;;) {
      const reply = await this.optionReply();
      replies.push(reply);
      if (reply.type === 1 || reply.type >= 2 ** 31) return replies;
    }
  }

  /** Goes through the whole handshake, with structured replies and contexts where they are wanted. */
  async go(
    settings: { name?: string; structured?: boolean; contexts?: readonly string[] } = {},
  ): Promise<void> {
    const { name = '', structured = true, contexts = [] } = settings;
    await this.greet();
    if (structured) await this.ask(8);
    if (contexts.length > 0) await this.ask(10, contextQuery(name, contexts));
    const replies = await this.ask(7, infoQuery(name));
    if (replies.at(-1)?.type !== 1) throw new Error('NBD_OPT_GO was refused');
  }

  request({
    type,
    flags = 0,
    cookie = 1n,
    offset = 0,
    length = 0,
    data = Buffer.alloc(0),
  }: RequestFields): void {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(0x25609513, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(cookie, 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    this.send(header, data);
  }

  async chunk(): Promise<Chunk> {
    const header = await this.take(20);
    if (header.readUInt32BE(0) !== 0x668e33ef) throw new Error('no structured reply');
    const payload = await this.take(header.readUInt32BE(16));
    return {
      isLast: (header.readUInt16BE(4) & 1) !== 0,
      type: header.readUInt16BE(6),
      cookie: header.readBigUInt64BE(8),
      payload,
    };
  }

  /** All chunks of the next reply. */
  async chunks(): Promise<Chunk[]> {
    const chunks = [await this.chunk()];
    while (chunks.at(-1)?.isLast === false) chunks.push(await this.chunk());
    return chunks;
  }

  async simpleReply(length = 0): Promise<{ error: number; cookie: bigint; data: Buffer }> {
    const header = await this.take(16);
    if (header.readUInt32BE(0) !== 0x67446698) throw new Error('no simple reply');
    const error = header.readUInt32BE(4);
    const data = await this.take(error === 0 ? length : 0);
    return { error, cookie: header.readBigUInt64BE(8), data };
  }

  /** Sends a request and gives the error number of its reply, 0 for success. */
  async errorOf(fields: RequestFields): Promise<number> {
    this.request(fields);
    const last = (await this.chunks()).at(-1);
    return last !== undefined && last.type >= 0x8000 ? last.payload.readUInt32BE(0) : 0;
  }

  close(): void {
    this.socket.destroy();
  }
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export const text = (value: string): Buffer =>
  Buffer.concat([u32(Buffer.byteLength(value)), Buffer.from(value)]);

/** The data of NBD_OPT_INFO and NBD_OPT_GO. */
export const infoQuery = (name: string): Buffer => Buffer.concat([text(name), Buffer.from([0, 0])]);

/** The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export const contextQuery = (name: string, queries: readonly string[]): Buffer =>
  Buffer.concat([text(name), u32(queries.length), ...queries.map(text)]);
