/** `--object secret,id=...`: the passphrases a command line defines, by their name. */
import { readFileSync } from 'node:fs';
import { systemErrorText } from './error-text.js';
import { Failure } from './failure.js';
import { splitList } from './o-options.js';
import { readJson } from './read-json.js';

/** The secrets given so far. */
export class Secrets {
  readonly #byId = new Map<string, Uint8Array>();

  /**
   * Defines a secret from `secret,id=ID,data=TEXT` or `secret,id=ID,file=PATH`, or the same as a JSON object. With `keyid` and
   * `iv` it is encrypted with AES-256 in CBC mode by another secret.
   * @throws Failure in the words of qemu-img
   */
  define(definition: string): void {
    const { type, id, properties } = identify(definition);
    if (type !== 'secret') throw new Failure(`Parameter 'qom-type' does not accept value '${type}'`);
    const unexpected = [...properties.keys()].find(
      (name) => !['data', 'file', 'format', 'keyid', 'iv'].includes(name),
    );
    if (unexpected !== undefined) throw new Failure(`Parameter '${unexpected}' is unexpected`);
    const loaded = decode(load(properties.get('data'), properties.get('file')), properties.get('format'));
    const value = this.#decrypted(loaded, properties.get('keyid'), properties.get('iv'));
    if (this.#byId.has(id)) {
      throw new Failure(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    this.#byId.set(id, value);
  }

  #decrypted(data: Uint8Array, keyId: string | undefined, iv: string | undefined): Uint8Array {
    if (keyId === undefined) return data;
    const key = this.get(keyId);
    if (iv === undefined) throw new Failure('IV is required to decrypt secret');
    return decrypt(data, key, decode(Buffer.from(iv), 'base64'));
  }

  /** @throws Failure when no secret of that name was defined */
  get(id: string): Uint8Array {
    const secret = this.#byId.get(id);
    if (secret === undefined) throw new Failure(`No secret with id '${id}'`);
    return secret;
  }
}

/** Bytes of the key and of the IV of AES-256 in CBC mode. */
const keyBytes = 32;
const ivBytes = 16;

function decrypt(data: Uint8Array, key: Uint8Array, iv: Uint8Array): Uint8Array {
  if (key.length !== keyBytes) throw new Failure(`Key should be ${keyBytes} bytes in length`);
  if (iv.length !== ivBytes) throw new Failure(`IV should be ${ivBytes} bytes in length not ${iv.length}`);
  try {
    const decipher = process.getBuiltinModule('node:crypto').createDecipheriv('aes-256-cbc', key, iv);
    return Buffer.concat([decipher.update(data), decipher.final()]);
  } catch (cause) {
    throw new Failure('Incorrect number of padding bytes found on decrypted data', {
      hint: 'The key, the iv or the data is not the one the secret was encrypted with.',
      cause,
    });
  }
}

interface Definition {
  type: string;
  id: string;
  /** Everything else. */
  properties: Map<string, string>;
}

function identify(definition: string): Definition {
  const properties = definition.startsWith('{') ? fromJson(definition) : fromList(definition);
  const type = required(properties, 'qom-type');
  const id = required(properties, 'id');
  if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) {
    throw new Failure("Parameter 'id' expects an identifier", {
      hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    });
  }
  return { type, id, properties };
}

function required(properties: Map<string, string>, name: string): string {
  const value = properties.get(name);
  if (value === undefined) throw new Failure(`Parameter '${name}' is missing`);
  properties.delete(name);
  return value;
}

function fromList(definition: string): Map<string, string> {
  const [first, ...rest] = splitList(definition);
  const named =
    first?.value === null ? [{ name: 'qom-type', value: first.name }, ...rest] : splitList(definition);
  return new Map(named.map(({ name, value }) => [name, value ?? 'on']));
}

function fromJson(definition: string): Map<string, string> {
  const object = readJson(definition);
  if (!(object instanceof Map)) throw new Failure('Invalid JSON object given');
  const properties = new Map<string, string>();
  for (const [name, value] of object) {
    if (typeof value !== 'string')
      throw new Failure(`Invalid parameter type for '${name}', expected: string`);
    properties.set(name, value);
  }
  return properties;
}

function load(data: string | undefined, file: string | undefined): Buffer {
  if (data !== undefined && file !== undefined) throw new Failure("'file' and 'data' are mutually exclusive");
  if (data !== undefined) return Buffer.from(data);
  if (file === undefined) throw new Failure("Either 'file' or 'data' must be provided");
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new Failure(`Unable to read ${file}: Failed to open file “${file}”: ${systemErrorText(cause)}`, {
      cause,
    });
  }
}

function decode(bytes: Buffer, format = 'raw'): Uint8Array {
  if (format === 'raw') return bytes;
  if (format !== 'base64') throw new Failure(`Parameter 'format' does not accept value '${format}'`);
  const text = bytes.toString('latin1').replaceAll(/\s/g, '');
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw new Failure('Base64 data contains invalid characters');
  return Buffer.from(text, 'base64');
}
