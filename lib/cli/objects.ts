/** `--object secret,id=...`: the passphrases a command line defines, by their name. */
import { readFileSync } from 'node:fs';
import { systemErrorText } from './error-text.js';
import { Failure } from './failure.js';
import { splitList } from './o-options.js';

/** The secrets given so far. */
export class Secrets {
  readonly #byId = new Map<string, Uint8Array>();

  /**
   * Defines a secret from `secret,id=ID,data=TEXT` or `secret,id=ID,file=PATH`, or the same as a JSON object.
   * @throws Failure in the words of qemu-img
   */
  define(definition: string): void {
    const { type, id, properties } = identify(definition);
    if (type !== 'secret') throw new Failure(`Parameter 'qom-type' does not accept value '${type}'`);
    const unexpected = [...properties.keys()].find((name) => !['data', 'file', 'format'].includes(name));
    if (unexpected !== undefined) throw new Failure(`Parameter '${unexpected}' is unexpected`);
    const value = decode(load(properties.get('data'), properties.get('file')), properties.get('format'));
    if (this.#byId.has(id)) {
      throw new Failure(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    this.#byId.set(id, value);
  }

  /** @throws Failure when no secret of that name was defined */
  get(id: string): Uint8Array {
    const secret = this.#byId.get(id);
    if (secret === undefined) throw new Failure(`No secret with id '${id}'`);
    return secret;
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
  try {
    return new Map(
      Object.entries(JSON.parse(definition) as object).map(([name, value]) => [name, String(value)]),
    );
  } catch (cause) {
    throw new Failure('JSON parse error, invalid object definition', { cause });
  }
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
