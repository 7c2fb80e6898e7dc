/** Reads how an image is named on a command line: a path, `json:{...}`, or a list of options with `--image-opts`. */
import type { ImageFormat, OpenOptions } from '../options.js';
import { Failure } from './failure.js';
import { knownDriver, localPath, remoteUrl } from './image-name.js';
import type { BackingName, ImageName } from './image-name.js';
import { quote } from './json.js';
import { parseSwitch, splitList } from './o-options.js';
import { JsonNumber, readJson } from './read-json.js';
import type { JsonValue } from './read-json.js';
import { isRemoteDriver, remoteFromOptions } from './remote-options.js';
import { sizeParameter } from './sizes.js';

type Window = NonNullable<OpenOptions['window']>;
/** By their full names, `file.filename` among them. */
type ImageOptions = ReadonlyMap<string, string>;

export interface NameOptions {
  imageOpts: boolean;
  /** What `-f` said. */
  format?: string;
  /** Refuses what is said of a backing file, but that it be left out. */
  withoutBacking?: boolean;
}

/**
 * Reads the name of an existing image.
 * @throws Failure in the words of qemu-img
 */
export function parseImageName(given: string, options: NameOptions): ImageName {
  try {
    if (options.imageOpts) return nameFromOptions(given, listOptions(given), false, options.withoutBacking);
    if (given.startsWith('json:')) {
      // What -f says counts more than what is inside.
      const { format } = options;
      return nameFromOptions(
        given,
        new Map([...jsonOptions(given), ...(format === undefined ? [] : [['driver', format] as const])]),
        true,
        options.withoutBacking,
      );
    }
    const format = options.format === undefined ? undefined : knownDriver(options.format);
    const remote = remoteUrl(given);
    const path = remote === null ? localPath(given) : given;
    return {
      given,
      shown: path,
      path,
      ...(remote === null ? {} : { remote }),
      ...(format === undefined ? {} : { format }),
    };
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const hint = error.hint === null ? {} : { hint: error.hint };
    throw new Failure(`Could not open '${given}': ${error.message}`, { ...hint, cause: error });
  }
}

function listOptions(given: string): ImageOptions {
  const items = splitList(given);
  const [first] = items;
  if (first?.value === null) throw noSuchNode(first.name);
  return new Map(items.map(({ name, value }) => [name, value ?? 'on']));
}

function jsonOptions(given: string): ImageOptions {
  const parsed = readOptions(given.slice('json:'.length));
  if (!(parsed instanceof Map)) throw new Failure('Invalid JSON object given');
  return new Map([...parsed].flatMap(([name, value]) => flatten(name, value)));
}

function readOptions(text: string): JsonValue {
  try {
    return readJson(text);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    throw new Failure(`Could not parse the JSON options: ${error.message}`, { cause: error });
  }
}

/** `{"file": {"filename": "x"}}` says the same as `{"file.filename": "x"}`. */
function flatten(name: string, value: JsonValue): [string, string][] {
  if (typeof value !== 'object' || value === null || value instanceof JsonNumber)
    return [[name, plainText(value)]];
  return [...value.entries()].flatMap(([inner, one]) => flatten(`${name}.${inner}`, one));
}

/** A value of JSON that is no object, as one would write it in a list. */
function plainText(value: string | boolean | null | JsonNumber): string {
  if (value instanceof JsonNumber) return value.text;
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  return value ?? '';
}

/** Options that are understood by any format and change nothing here. */
const ignoredOptions = new Set([
  'read-only',
  'auto-read-only',
  'force-share',
  'discard',
  'detect-zeroes',
  'node-name',
  'cache.direct',
  'cache.no-flush',
]);

/** Options of qcow2 that only tune QEMU's caches and writes. */
const ignoredQcow2Options = new Set([
  'lazy-refcounts',
  'cache-size',
  'l2-cache-size',
  'l2-cache-entry-size',
  'refcount-cache-size',
  'cache-clean-interval',
  'pass-discard-request',
  'pass-discard-snapshot',
  'pass-discard-other',
  'overlap-check',
]);

const ignoredFileOptions = new Set(['aio', 'drop-cache', ...ignoredOptions]);
const knownFileOptions = new Set(['driver', 'filename', 'locking']);
const knownQcow2Options = new Set(['encrypt.key-secret', 'encrypt.format']);
/** The part of the file that is shown. */
const rawOptions = ['offset', 'size'];

function nameFromOptions(
  given: string,
  options: ImageOptions,
  isJson: boolean,
  withoutBacking = false,
): ImageName {
  if (withoutBacking) refuseBackingOptions(options);
  const { path, ...name } = imageFromOptions(given, options, isJson);
  if (path !== null) return { ...name, path };
  throw new Failure(
    options.has('driver')
      ? 'A block device must be specified for "file"'
      : 'Must specify either driver or file',
  );
}

function imageFromOptions(
  given: string,
  options: ImageOptions,
  isJson: boolean,
  isBacking = false,
): BackingName {
  const driver = options.get('driver');
  if (options.has('file')) throw noSuchNode(options.get('file') ?? '');
  if (driver === 'file') return fromFileDriver(given, options);
  if (isRemoteDriver(driver)) {
    const { href } = remoteFromOptions(driver, options, ignoredOptions);
    return { given, shown: href, path: href, remote: new URL(href), format: 'raw', protocol: driver };
  }
  const format = driver === undefined ? undefined : knownDriver(driver);
  const file = fileFromOptions(under('file', options), isJson);
  const window = windowFromOptions(options, file);
  const backing = backingFromOptions(given, options, format, isJson);
  // Of an image without a file it is told first that it has none.
  if (file !== null || isBacking) refuseUnknownOptions(options, format);
  const keySecret = options.get('encrypt.key-secret');
  return {
    given,
    ...(file?.name ?? { path: null }),
    shown: file === null ? '' : shownName(file, options, isJson),
    ...(format === undefined ? {} : { format }),
    ...(keySecret === undefined ? {} : { keySecret }),
    ...(backing === null ? {} : { backing }),
    ...(window === null ? {} : { window }),
    ...(parseSwitch('read-only', options.get('read-only') ?? 'off') ? { readOnly: true as const } : {}),
  };
}

/** The options behind a name and a dot, without that. */
function under(name: string, options: ImageOptions): ImageOptions {
  const inner = [...options].filter(([option]) => option.startsWith(`${name}.`));
  return new Map(inner.map(([option, value]) => [option.slice(name.length + 1), value]));
}

/** What an image is in: a file, a part of one, or something on a server. */
interface FilePart {
  readonly name: Pick<ImageName, 'path' | 'remote' | 'locking' | 'window' | 'shownFile'>;
  /** As `info` writes it in JSON. */
  readonly json: string;
}

function fileFromOptions(options: ImageOptions, isJson: boolean): FilePart | null {
  const driver = options.get('driver');
  if (isRemoteDriver(driver)) return remotePart(remoteFromOptions(driver, options, ignoredFileOptions));
  if (driver === 'raw') return windowedPart(options, isJson);
  if (driver !== undefined && driver !== 'file') throw new Failure(`Unknown driver '${driver}'`);
  const path = options.get('filename');
  if (path === undefined && driver === undefined) return null;
  if (path === undefined) throw withoutName();
  const unknown = [...options.keys()].find(
    (name) => !knownFileOptions.has(name) && !ignoredFileOptions.has(name),
  );
  if (unknown !== undefined) {
    throw new Failure(`Block protocol 'file' doesn't support the option '${unknown}'`);
  }
  const remote = remoteUrl(path);
  if (remote !== null) return remotePart(remote);
  const locking = options.get('locking');
  const isLockless = locking !== undefined && isOff(locking);
  return {
    name: { path, ...(isLockless ? { locking: false as const } : {}) },
    json: `{"driver": "file", "filename": ${quote(path)}}`,
  };
}

function remotePart(remote: URL): FilePart {
  const { href } = remote;
  return { name: { path: href, remote }, json: `{"driver": "file", "filename": ${quote(href)}}` };
}

/** The driver raw below a format: the part of a file that the image is in. */
function windowedPart(options: ImageOptions, isJson: boolean): FilePart | null {
  const file = fileFromOptions(under('file', options), isJson);
  if (file === null) return null;
  refuseUnknownOptions(options, 'raw');
  const json = rawJson(file, options, isJson);
  const window = windowFromOptions(options, file);
  if (window === null) return { ...file, json };
  return { name: { ...file.name, window, shownFile: `json:${json}` }, json };
}

/** What `offset` and `size` say, or null without them. */
function windowFromOptions(options: ImageOptions, file: FilePart | null): Window | null {
  const [offset, size] = rawOptions.map((name) => {
    const text = options.get(name);
    return text === undefined ? undefined : sizeParameter(name, text);
  });
  if (offset === undefined && size === undefined) return null;
  if (size !== undefined && size % 512n !== 0n) throw new Failure('Specified size is not multiple of 512');
  if (file?.name.window !== undefined) {
    throw new Failure('A part of a part of a file cannot be opened: give one offset and size');
  }
  return { ...(offset === undefined ? {} : { offset }), ...(size === undefined ? {} : { size }) };
}

/** The first of the options that say what backing file to open, the driver before all others. */
function backingOption(options: ImageOptions): string | undefined {
  if (options.has('backing.driver')) return 'backing.driver';
  return [...options.keys()].find((name) => name.startsWith('backing.'));
}

function refuseBackingOptions(options: ImageOptions): void {
  const option = backingOption(options);
  const isNode = (options.get('backing') ?? '') !== '';
  const name = isNode && option !== 'backing.driver' ? 'backing' : option;
  if (name === undefined) return;
  const driver = options.get('driver');
  throw unsupportedOption(driver === undefined ? undefined : knownDriver(driver), name);
}

/** What `backing.` options say; null without them. */
function backingFromOptions(
  given: string,
  options: ImageOptions,
  format: ImageFormat | undefined,
  isJson: boolean,
): 'none' | BackingName | null {
  const node = options.get('backing');
  const inner = under('backing', options);
  const first = backingOption(options);
  if (first === undefined && (node === undefined || node === '')) return node === undefined ? null : 'none';
  if (format === 'raw') throw new Failure("Driver doesn't support backing files");
  if (first !== undefined && node === '') throw unsupportedOption(format, first);
  try {
    if (first === undefined) throw noSuchNode(node ?? '');
    if (node !== undefined || inner.has('file')) {
      throw new Failure(
        'Cannot reference an existing block device with additional options or a new filename',
      );
    }
    return imageFromOptions(given, inner, isJson, true);
  } catch (error) {
    throw error instanceof Failure ? ofBackingFile(error) : error;
  }
}

/** What was said of the image, said of its backing file. */
export function ofBackingFile(error: Failure): Failure {
  const hint = error.hint === null ? {} : { hint: error.hint };
  return new Failure(`Could not open backing file: ${error.message}`, { ...hint, cause: error });
}

/** `driver=file,filename=x` is the bare file. */
function fromFileDriver(given: string, options: ImageOptions): ImageName {
  const path = options.get('filename');
  if (path === undefined) throw withoutName();
  return { given, shown: path, path, format: 'raw', protocol: 'file' };
}

function refuseUnknownOptions(options: ImageOptions, format: ImageFormat | undefined): void {
  for (const name of options.keys()) {
    if (name === 'driver' || ignoredOptions.has(name) || /^(file|backing)\./.test(name)) continue;
    const isKnown =
      (format !== 'raw' && (knownQcow2Options.has(name) || ignoredQcow2Options.has(name))) ||
      (format !== 'qcow2' && rawOptions.includes(name)) ||
      name === 'backing';
    if (!isKnown) throw unsupportedOption(format, name);
  }
}

/** The failure for an option that a format does not have. */
export function unsupportedOption(format: ImageFormat | undefined, name: string): Failure {
  return new Failure(`Block format '${format ?? 'qcow2'}' does not support the option '${name}'`);
}

function isOff(value: string): boolean {
  return value !== 'auto' && !parseSwitch('locking', value);
}

function withoutName(): Failure {
  return new Failure("The 'file' block driver requires a file name");
}

function noSuchNode(name: string): Failure {
  return new Failure(`Cannot find device='${name}' nor node-name='${name}'`);
}

/** The name that `info` prints: what the options add to that of a file can only be said in JSON. */
function shownName(file: FilePart, options: ImageOptions, isJson: boolean): string {
  const secret = options.get('encrypt.key-secret');
  if (secret !== undefined) {
    return `json:{"encrypt.key-secret": ${quote(secret)}, "driver": "qcow2", "file": ${file.json}}`;
  }
  if (rawOptions.some((name) => options.has(name))) return `json:${rawJson(file, options, isJson)}`;
  return file.name.window === undefined ? file.name.path : `json:{"driver": "qcow2", "file": ${file.json}}`;
}

function rawJson(file: FilePart, options: ImageOptions, isJson: boolean): string {
  const [offset = '', size = ''] = rawOptions.map((name) => {
    const text = options.get(name);
    if (text === undefined) return '';
    return `"${name}": ${isJson && /^\d+$/.test(text) ? text : quote(text)}, `;
  });
  return `{${offset}"driver": "raw", ${size}"file": ${file.json}}`;
}
