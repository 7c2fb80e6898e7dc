/** openNbd(): an NBD export as a disk. */
import type { Readable } from 'node:stream';
import type { ByteRange, Extent, ExtentQuery, Op, WritableDisk } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import { checkRange, createReadStream, nextData, nextHole, queryRange } from '../io/disk-queries.js';
import { canDo, type ExportFacts } from './client-handshake.js';
import { NbdClient, type ClientOptions, type ClientRequest } from './client.js';
import { allocationContext, bitmapContextPrefix, Command, State, stateDirty } from './protocol.js';
import { parseNbdUri } from './uri.js';
import { quote } from '../format/text.js';

export interface OpenNbdOptions extends ClientOptions {
  /** `r` (default) only reads; `r+` needs an export that may be written to. */
  mode?: 'r' | 'r+';
  /** Bitmaps of the server to be asked about ({@link NbdDisk.dirtyExtents}): those it exports as `qemu:dirty-bitmap:NAME`. */
  bitmaps?: readonly string[];
}

/** A run of the disk. */
export interface ByteRun {
  /** First byte. */
  start: number;
  /** Bytes. */
  length: number;
}

/** The longest piece of a read or write, so that several are under way, bytes. */
const pieceBytes = 2 * 1024 * 1024;
/** The longest range in one question, or one change without data, bytes. */
const maxRange = 2 ** 30;

/**
 * Opens an export of an NBD server, such as `qemu-nbd` or a running QEMU, as a disk.
 * @param uri `nbd://HOST[:PORT]/NAME` or `nbd+unix:///NAME?socket=PATH`; with `nbds` over TLS
 * @throws TypeError for what is no such URI; Qcow2Error `ERR_QCOW2_REMOTE` when the server cannot be reached or makes no
 * sense, `ERR_QCOW2_NOT_FOUND` for an export or a bitmap that is not there, `ERR_QCOW2_READ_ONLY`; the signal's reason
 */
export async function openNbd(uri: string | URL, options: OpenNbdOptions = {}): Promise<NbdDisk> {
  const { mode = 'r', bitmaps = [] } = options;
  const contexts = bitmaps.map((name) => bitmapContextPrefix + name);
  const client = await NbdClient.connect(parseNbdUri(uri), contexts, options);
  try {
    const missing = bitmaps.find((name) => !client.facts.contexts.has(bitmapContextPrefix + name));
    if (missing !== undefined) {
      throw new Qcow2Error('ERR_QCOW2_NOT_FOUND', `${client.name} shows no bitmap ${quote(missing)}`, {
        feature: 'bitmaps',
      });
    }
    if (mode === 'r+' && canDo(client.facts, 'readOnly'))
      throw readOnly(`${client.name} is a read-only export`);
    return new NbdDisk(client, mode === 'r+');
  } catch (error) {
    await client.close();
    throw error;
  }
}

export class NbdDisk implements WritableDisk {
  readonly #client: NbdClient;
  readonly writable: boolean;

  /** @internal */
  constructor(client: NbdClient, writable: boolean) {
    this.#client = client;
    this.writable = writable;
  }

  /** The URI, for messages. */
  get name(): string {
    return this.#client.name;
  }

  get size(): number {
    return this.#facts.size;
  }

  get #facts(): ExportFacts {
    return this.#client.facts;
  }

  async read(buffer: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    op.signal?.throwIfAborted();
    const { start, end } = checkRange(this.size, position, buffer.length);
    const { minimumBlock } = this.#facts;
    const target = Buffer.from(buffer.buffer, buffer.byteOffset, buffer.length);
    if (start % minimumBlock === 0 && end % minimumBlock === 0) return this.#read(target, start);
    // Some servers take whole blocks only.
    const from = start - (start % minimumBlock);
    const whole = Buffer.alloc(Math.ceil((end - from) / minimumBlock) * minimumBlock);
    await this.#read(whole, from);
    whole.copy(target, 0, start - from);
  }

  /** Writes all of `data` from `position` on; durable after {@link flush}. */
  async write(data: Uint8Array, position: number | bigint, op: Op = {}): Promise<void> {
    const { start } = this.#changing(position, data.length, op);
    await this.#inPieces(data.length, this.#pieceBytes, (at, length) => ({
      type: Command.write,
      position: start + at,
      length,
      data: data.subarray(at, at + length),
    }));
  }

  /** Makes a range read as zeros, with a hole where the server can. */
  async writeZeroes(position: number | bigint, length: number | bigint, op: Op = {}): Promise<void> {
    const { start, end } = this.#changing(position, length, op);
    if (canDo(this.#facts, 'sendWriteZeroes')) {
      return this.#overRange(Command.writeZeroes, start, end);
    }
    const zeros = Buffer.alloc(Math.min(end - start, this.#pieceBytes));
    for (let at = start; at < end; at += zeros.length) {
      op.signal?.throwIfAborted();
      await this.write(zeros.subarray(0, Math.min(zeros.length, end - at)), at);
    }
  }

  /** Tells the server that a range is not needed any more; it may read as anything then. */
  async discard(position: number | bigint, length: number | bigint, op: Op = {}): Promise<void> {
    const { start, end } = this.#changing(position, length, op);
    if (canDo(this.#facts, 'sendTrim')) await this.#overRange(Command.trim, start, end);
  }

  async flush(): Promise<void> {
    if (!this.writable || !canDo(this.#facts, 'sendFlush')) return;
    await this.#client.run({ type: Command.flush, position: 0, length: 0 });
  }

  /** The server's base:allocation; all is data where it does not tell. Every extent has the depth 0. */
  async *extents(query: ExtentQuery = {}): AsyncGenerator<Extent> {
    for await (const { start, length, flags } of this.#status(allocationContext, query)) {
      const type = (flags & State.zero) !== 0 ? 'zero' : 'data';
      yield { start, length, type, depth: 0, hostOffset: null };
    }
  }

  /**
   * The dirty ranges of a bitmap that was named in {@link OpenNbdOptions.bitmaps}, in order and merged.
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND` for another one
   */
  async *dirtyExtents(bitmap: string, query: ByteRange & Op = {}): AsyncGenerator<ByteRun> {
    const context = bitmapContextPrefix + bitmap;
    if (!this.#facts.contexts.has(context)) {
      throw new Qcow2Error('ERR_QCOW2_NOT_FOUND', `The bitmap ${quote(bitmap)} was not asked for`, {
        feature: 'bitmaps',
      });
    }
    for await (const { start, length, flags } of this.#status(context, query)) {
      if ((flags & stateDirty) !== 0) yield { start, length };
    }
  }

  nextData(position: number | bigint, op?: Op): Promise<number | null> {
    return nextData(this, position, op);
  }

  nextHole(position: number | bigint, op?: Op): Promise<number> {
    return nextHole(this, position, op);
  }

  createReadStream(range?: ByteRange & Op): Readable {
    return createReadStream(this, range);
  }

  /** Waits for what is under way and says goodbye. What was written is durable after {@link flush} only. */
  close(): Promise<void> {
    return this.#client.close();
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #pieceBytes(): number {
    const { maximumBlock, minimumBlock } = this.#facts;
    return Math.max(minimumBlock, Math.min(pieceBytes, maximumBlock));
  }

  #read(target: Buffer, start: number): Promise<void> {
    return this.#inPieces(target.length, this.#pieceBytes, (at, length) => ({
      type: Command.read,
      position: start + at,
      length,
      into: target.subarray(at, at + length),
    }));
  }

  #overRange(type: number, start: number, end: number): Promise<void> {
    return this.#inPieces(end - start, maxRange, (at, length) => ({ type, position: start + at, length }));
  }

  /** Several requests at once for one range; all of them end before it does. */
  async #inPieces(
    total: number,
    longest: number,
    request: (at: number, length: number) => ClientRequest,
  ): Promise<void> {
    if (total <= longest) {
      if (total > 0) await this.#client.run(request(0, total));
      return;
    }
    const requests: Promise<void>[] = [];
    for (let at = 0; at < total; at += longest) {
      requests.push(this.#client.run(request(at, Math.min(longest, total - at))));
    }
    for (const outcome of await Promise.allSettled(requests)) {
      if (outcome.status === 'rejected') throw outcome.reason as Error;
    }
  }

  /** The runs of a range in a context, merged. */
  async *#status(context: string, query: ByteRange & Op): AsyncGenerator<ByteRun & { flags: number }> {
    const { start, end } = queryRange(this.size, query);
    const id = this.#facts.contexts.get(context);
    if (id === undefined) {
      if (start < end) yield { start, length: end - start, flags: 0 };
      return;
    }
    const { minimumBlock } = this.#facts;
    let last: (ByteRun & { flags: number }) | undefined;
    for (let at = start; at < end;) {
      query.signal?.throwIfAborted();
      const from = at - (at % minimumBlock);
      const asked = Math.min(Math.ceil((end - from) / minimumBlock) * minimumBlock, maxRange);
      const runs = (await this.#client.blockStatus(from, asked)).get(id) ?? [{ length: asked, flags: 0 }];
      let position = from;
      for (const { length, flags } of runs) {
        const stop = Math.min(position + length, end);
        const begin = Math.max(position, at);
        position = stop;
        if (begin >= stop) continue;
        if (last?.flags === flags) last.length += stop - begin;
        else {
          if (last !== undefined) yield last;
          last = { start: begin, length: stop - begin, flags };
        }
      }
      at = position;
    }
    if (last !== undefined) yield last;
  }

  /** What comes before every change. */
  #changing(
    position: number | bigint,
    length: number | bigint,
    { signal }: Op,
  ): { start: number; end: number } {
    signal?.throwIfAborted();
    if (!this.writable) throw readOnly(`${this.name} is open read-only; open it with the mode 'r+'`);
    const { start, end } = checkRange(this.size, position, length);
    const { minimumBlock } = this.#facts;
    if (start % minimumBlock === 0 && end % minimumBlock === 0) return { start, end };
    throw new Qcow2Error(
      'ERR_QCOW2_UNSUPPORTED',
      `${this.name} only takes whole blocks of ${minimumBlock} bytes`,
      {
        feature: 'block size',
      },
    );
  }
}

const readOnly = (message: string): Qcow2Error => new Qcow2Error('ERR_QCOW2_READ_ONLY', message);
