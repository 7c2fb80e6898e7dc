/** How an image is named on a command line: a path, `json:{...}`, or a list of options with `--image-opts`. */
import type { ImageFormat } from '../options.js';
import { Failure } from './failure.js';
import { quote } from './json.js';
import { parseSwitch, splitList } from './o-options.js';
import { isRemoteDriver, remoteFromOptions } from './remote-options.js';

export interface ImageName {
  /** As given, for messages. */
  given: string;
  /** As `info` prints it. */
  shown: string;
  path: string;
  /** For an image on a server, where; `path` is the same as text then. */
  remote?: URL;
  /** The format asked for; probed when absent. */
  format?: ImageFormat;
  /** The secret that unlocks the image. */
  keySecret?: string;
  /** `file.locking=off`: takes no locks. */
  locking?: false;
  /** `backing=` or, in `json:`, null: what it has as backing file is left out, and it is only looked at. */
  backing?: 'none';
  /** The driver, where it is none of a format: `info` shows it in the place of one. */
  protocol?: string;
  /** `read-only=on`: is not to be changed. */
  readOnly?: true;
}

/**
 * Reads the name of an existing image.
 * @param format what `-f` said
 * @throws Failure in the words of qemu-img
 */
export function parseImageName(given: string, options: { imageOpts: boolean; format?: string }): ImageName {
  try {
    if (options.imageOpts) return fromOptions(given, listOptions(given));
    if (given.startsWith('json:')) {
      // What -f says counts more than what is inside.
      const { format } = options;
      return fromOptions(
        given,
        new Map([...jsonOptions(given), ...(format === undefined ? [] : [['driver', format] as const])]),
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
    throw new Failure(`Could not open '${given}': ${error.message}`, { cause: error });
  }
}

const nbdProtocols = ['nbd', 'nbds', 'nbd+unix', 'nbds+unix'];
const remoteProtocols = ['http', 'https', ...nbdProtocols];

/** The URL that a name given on the command line is, or null for the name of a file. */
export function remoteUrl(given: string): URL | null {
  const protocol = protocolOf(given);
  if (protocol === null || !remoteProtocols.includes(protocol)) return null;
  if (protocol === 'nbd' && !given.startsWith('nbd://')) return oldNbdName(given.slice('nbd:'.length));
  if (!URL.canParse(given)) throw new Failure(`'${given}' is no URL`);
  return new URL(given);
}

/** QEMU's own way to name an export: `unix:PATH` or `HOST:PORT`, and `:exportname=NAME` behind it. */
function oldNbdName(address: string): URL {
  if (address === '') throw new Failure('NBD server address missing');
  const [, server = '', name = ''] = /^(.*?)(?::exportname=(.*))?$/s.exec(address) ?? [];
  const path = `/${encodeURIComponent(name)}`;
  if (server.startsWith('unix:')) {
    return new URL(`nbd+unix://${path}?socket=${encodeURIComponent(server.slice('unix:'.length))}`);
  }
  const url = `nbd://${server}${path}`;
  if (!/:\d+$/.test(server) || !URL.canParse(url)) throw new Failure(`error parsing address '${server}'`);
  return new URL(url);
}

/** The export that a name given on the command line is, or null for anything else. */
export function exportUrl(given: string): URL | null {
  return nbdProtocols.includes(protocolOf(given) ?? '') ? remoteUrl(given) : null;
}

/**
 * The path in a plain name, without its `file:`.
 * @throws Failure for any other protocol
 */
export function localPath(name: string): string {
  const protocol = protocolOf(name);
  if (protocol === null) return name;
  if (protocol !== 'file') throw new Failure(`Unknown protocol '${protocol}'`);
  return name.slice('file:'.length);
}

/** What is before a colon that no slash precedes; null for a plain path (also one with a Windows drive letter). */
export function protocolOf(name: string): string | null {
  const match = /^([^:/]+):/.exec(name);
  const protocol = match?.[1];
  if (protocol === undefined || (process.platform === 'win32' && protocol.length === 1)) return null;
  return protocol;
}

/** A name found in an image, as one would write it where the image's own name is `path`. */
export function besideImage(path: string, name: string): string {
  if (name.startsWith('/') || protocolOf(name) !== null) return name;
  return path.slice(0, path.lastIndexOf('/') + 1) + name;
}

/** @throws Failure for a format this package does not have */
export function knownDriver(format: string): ImageFormat {
  if (format === 'qcow2' || format === 'raw') return format;
  throw new Failure(`Unknown driver '${format}'`);
}

type ImageOptions = ReadonlyMap<string, string>;

function listOptions(given: string): ImageOptions {
  const items = splitList(given);
  const [first] = items;
  if (first?.value === null) throw noSuchNode(first.name);
  return new Map(items.map(({ name, value }) => [name, value ?? 'on']));
}

function jsonOptions(given: string): ImageOptions {
  let parsed: unknown;
  try {
    parsed = JSON.parse(given.slice('json:'.length));
  } catch (cause) {
    throw new Failure(`Could not parse the JSON options: ${(cause as SyntaxError).message}`, { cause });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new Failure('Invalid JSON object given');
  }
  return new Map(flatten(parsed, ''));
}

/** `{"file": {"filename": "x"}}` says the same as `{"file.filename": "x"}`. */
function flatten(object: object, prefix: string): [string, string][] {
  return Object.entries(object).flatMap(([name, value]: [string, unknown]): [string, string][] => {
    if (typeof value === 'object' && value !== null) return flatten(value, `${prefix}${name}.`);
    return [[prefix + name, plainText(value as string | number | boolean | null)]];
  });
}

/** A value of JSON that is no object, as one would write it in a list. */
function plainText(value: string | number | boolean | null): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  return value === null ? '' : String(value);
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

function fromOptions(given: string, options: ImageOptions): ImageName {
  const driver = options.get('driver');
  const file = options.get('file');
  if (file !== undefined) throw noSuchNode(file);
  const backing = options.get('backing');
  if (backing !== undefined && backing !== '') throw noSuchNode(backing);
  if (driver === 'file') return fromFileDriver(given, options);
  if (isRemoteDriver(driver)) {
    const name = remoteName(given, remoteFromOptions(driver, options, ignoredOptions));
    return { ...name, format: 'raw', protocol: driver };
  }
  const format = driver === undefined ? undefined : knownDriver(driver);
  const remote = remoteFile(options);
  const path = remote?.href ?? options.get('file.filename');
  if (path === undefined) {
    throw new Failure(
      format === undefined
        ? 'Must specify either driver or file'
        : 'A block device must be specified for "file"',
    );
  }
  refuseUnknownOptions(options, format);
  const keySecret = options.get('encrypt.key-secret');
  const locking = options.get('file.locking');
  return {
    given,
    shown: keySecret === undefined ? path : shownWithSecret(path, keySecret),
    path,
    ...(remote === null ? {} : { remote }),
    ...(format === undefined ? {} : { format }),
    ...(keySecret === undefined ? {} : { keySecret }),
    ...(options.has('backing') ? { backing: 'none' as const } : {}),
    ...(locking !== undefined && isOff(locking) ? { locking: false as const } : {}),
    ...(parseSwitch('read-only', options.get('read-only') ?? 'off') ? { readOnly: true as const } : {}),
  };
}

const remoteName = (given: string, remote: URL): ImageName => ({
  given,
  shown: remote.href,
  path: remote.href,
  remote,
});

/** The server that the `file.` options name, or null for a file. */
function remoteFile(options: ImageOptions): URL | null {
  const driver = options.get('file.driver');
  if (!isRemoteDriver(driver))
    return driver === undefined ? remoteUrl(options.get('file.filename') ?? '') : null;
  const own = [...options].filter(([name]) => name.startsWith('file.'));
  const inner = new Map(own.map(([name, value]) => [name.slice('file.'.length), value]));
  return remoteFromOptions(driver, inner, ignoredFileOptions);
}

/** `driver=file,filename=x` is the bare file. */
function fromFileDriver(given: string, options: ImageOptions): ImageName {
  const path = options.get('filename');
  if (path === undefined) throw new Failure("The 'file' block driver requires a file name");
  return { given, shown: path, path, format: 'raw', protocol: 'file' };
}

function refuseUnknownOptions(options: ImageOptions, format: ImageFormat | undefined): void {
  for (const [name, value] of options) {
    if (['driver', 'file.filename', 'file.locking'].includes(name) || ignoredOptions.has(name)) continue;
    if (name === 'file.driver') {
      if (value !== 'file' && !isRemoteDriver(value)) throw new Failure(`Unknown driver '${value}'`);
    } else if (name.startsWith('file.')) {
      // Those of servers are looked at where their address is made of them.
      if (isRemoteDriver(options.get('file.driver'))) continue;
      const inner = name.slice('file.'.length);
      if (!ignoredFileOptions.has(inner)) {
        throw new Failure(`Block protocol 'file' doesn't support the option '${inner}'`);
      }
    } else if (!isQcow2Option(name) || format === 'raw') {
      throw new Failure(`Block format '${format ?? 'qcow2'}' does not support the option '${name}'`);
    }
  }
}

function isQcow2Option(name: string): boolean {
  return ['encrypt.key-secret', 'encrypt.format', 'backing'].includes(name) || ignoredQcow2Options.has(name);
}

function isOff(value: string): boolean {
  return value !== 'auto' && !parseSwitch('locking', value);
}

function noSuchNode(name: string): Failure {
  return new Failure(`Cannot find device='${name}' nor node-name='${name}'`);
}

function shownWithSecret(path: string, secret: string): string {
  const file = `{"driver": "file", "filename": ${quote(path)}}`;
  return `json:{"encrypt.key-secret": ${quote(secret)}, "driver": "qcow2", "file": ${file}}`;
}
