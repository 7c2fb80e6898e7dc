/** What clients send with the options of the handshake, as records. */
import { maxStringBytes } from './protocol.js';

/** The data of an option breaks the protocol. */
export class InvalidOption extends Error {
  override readonly name = 'InvalidOption';
}

/** NBD_OPT_INFO and NBD_OPT_GO. */
export interface InfoQuery {
  readonly name: string;
  /** What the client wants to know, see {@link Info}. */
  readonly wanted: readonly number[];
}

/** NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export interface ContextQuery {
  readonly name: string;
  readonly queries: readonly string[];
}

/** @throws InvalidOption */
export function parseInfoQuery(data: Buffer): InfoQuery {
  const fields = new Fields(data);
  const name = fields.text();
  const wanted = Array.from({ length: fields.uint16() }, () => fields.uint16());
  fields.end();
  return { name, wanted };
}

/** @throws InvalidOption */
export function parseContextQuery(data: Buffer): ContextQuery {
  const fields = new Fields(data);
  const name = fields.text();
  const count = fields.uint32();
  const queries: string[] = [];
  while (queries.length < count) queries.push(fields.text());
  fields.end();
  return { name, queries };
}

/** A name as it stands in an option. @throws InvalidOption */
export function parseName(bytes: Buffer): string {
  if (bytes.length > maxStringBytes) throw new InvalidOption('a string is too long');
  if (bytes.includes(0)) throw new InvalidOption('a string has a NUL in it');
  return bytes.toString('utf8');
}

/** Takes fields off the front; every one is checked to be there. */
class Fields {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Buffer) {
    this.#data = data;
  }

  uint16(): number {
    return this.#take(2).readUInt16BE();
  }

  uint32(): number {
    return this.#take(4).readUInt32BE();
  }

  /** A string with its length before it. */
  text(): string {
    return parseName(this.#take(this.uint32()));
  }

  end(): void {
    if (this.#at !== this.#data.length) throw new InvalidOption('the lengths in the option do not add up');
  }

  #take(length: number): Buffer {
    if (length > this.#data.length - this.#at) throw new InvalidOption('the option is too short');
    this.#at += length;
    return this.#data.subarray(this.#at - length, this.#at);
  }
}
