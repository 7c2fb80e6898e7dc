/** NBD URIs: `nbd://host:port/name`, `nbd+unix:///name?socket=path`, and the same with `nbds` for TLS. */
import { invalidArgValue } from '../errors.js';
import { defaultPort } from './protocol.js';

/** Where an export is to be found. */
export type NbdLocation = ({ socket: string } | { host: string; port: number }) & {
  /** Of the export. */
  name: string;
  isEncrypted: boolean;
};

export function nbdUri(location: NbdLocation): string {
  const scheme = location.isEncrypted ? 'nbds' : 'nbd';
  const path = `/${encodeURIComponent(location.name)}`;
  if ('socket' in location) return `${scheme}+unix://${path}?socket=${encodeURIComponent(location.socket)}`;
  const host = location.host.includes(':') ? `[${location.host}]` : location.host;
  return `${scheme}://${host}:${location.port}${path}`;
}

/** @throws TypeError `ERR_INVALID_ARG_VALUE` for what is no NBD URI */
export function parseNbdUri(uri: string | URL): NbdLocation {
  const url = URL.canParse(String(uri)) ? new URL(String(uri)) : null;
  const match = /^nbd(s?)(\+unix)?:$/.exec(url?.protocol ?? '');
  if (url === null || match === null) {
    throw invalidArgValue(
      'uri',
      'must be nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH',
      String(uri),
    );
  }
  const name = decodeURIComponent(url.pathname.replace(/^\//, ''));
  const isEncrypted = match[1] === 's';
  if (match[2] === undefined) {
    const port = url.port === '' ? defaultPort : Number(url.port);
    return { host: url.hostname.replace(/^\[(.*)\]$/, '$1') || 'localhost', port, name, isEncrypted };
  }
  const socket = url.searchParams.get('socket');
  if (socket === null || socket === '') {
    throw invalidArgValue('uri', 'must name a socket, as in nbd+unix:///NAME?socket=PATH', String(uri));
  }
  return { socket, name, isEncrypted };
}
