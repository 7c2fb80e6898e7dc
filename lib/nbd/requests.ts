/** The messages a client sends, as bytes. */
import { magic, putMagic, putUint64, requestBytes, requestMagic } from './protocol.js';

export function optionRequest(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(16 + data.length);
  putMagic(bytes, magic.option, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  data.copy(bytes, 16);
  return bytes;
}

/** The data of NBD_OPT_GO: the export, and which facts are wanted. */
export function infoQueryData(name: string, wanted: readonly number[]): Buffer {
  const facts = Buffer.alloc(2 + 2 * wanted.length);
  facts.writeUInt16BE(wanted.length, 0);
  wanted.forEach((fact, index) => facts.writeUInt16BE(fact, 2 + 2 * index));
  return Buffer.concat([text(name), facts]);
}

/** The data of NBD_OPT_SET_META_CONTEXT. */
export function contextQueryData(name: string, contexts: readonly string[]): Buffer {
  return Buffer.concat([text(name), uint32(contexts.length), ...contexts.map(text)]);
}

/** A request for a command; the cookie is a number of 32 bits. */
export function commandRequest(
  cookie: number,
  type: number,
  flags: number,
  position: number,
  length: number,
): Buffer {
  const bytes = Buffer.allocUnsafe(requestBytes);
  bytes.writeUInt32BE(requestMagic, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  putUint64(bytes, cookie, 8);
  putUint64(bytes, position, 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

function text(value: string): Buffer {
  return Buffer.concat([uint32(Buffer.byteLength(value)), Buffer.from(value)]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
