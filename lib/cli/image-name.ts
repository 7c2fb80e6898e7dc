/** The names of images: what becomes of one given on a command line, and which protocol a plain one has. */
import type { ImageFormat, OpenOptions } from '../options.js';
import { Failure } from './failure.js';

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
  /** The part of the file that is the image, by `offset` and `size` of the driver raw. */
  window?: NonNullable<OpenOptions['window']>;
  /** How `map` names the file, where a part of one is the image. */
  shownFile?: string;
  /** `backing=` or, in `json:`, null: what it has as backing file is left out, and it is only looked at. Else what to open. */
  backing?: 'none' | BackingName;
  /** The driver, where it is none of a format: `info` shows it in the place of one. */
  protocol?: string;
  /** `read-only=on`: is not to be changed. */
  readOnly?: true;
}

/** A backing file, or how it is to be opened, chosen by `backing.` options. */
export interface BackingName extends Omit<ImageName, 'path'> {
  /** Null for the file that the image names. */
  path: string | null;
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
