/** Images on servers, for names such as `https://host/disk.qcow2` and `nbd+unix:///?socket=path`. */
import { NbdStorage, openNbd } from '../nbd/index.js';
import type { Source } from '../options.js';
import { failure, reasonOf, systemErrorWords } from './error-text.js';
import { Failure } from './failure.js';

/** What the library is to open for a URL. A connection that is idle does not keep the program from ending. */
export async function openRemote(url: URL, mode: 'r' | 'r+' = 'r'): Promise<Source> {
  if (url.protocol === 'http:' || url.protocol === 'https:') return url;
  return openNbdStorage(url, mode);
}

/** An export of an NBD server as a store of bytes. @throws Failure when there is no server */
export async function openNbdStorage(url: URL, mode: 'r' | 'r+'): Promise<NbdStorage> {
  if (url.protocol.endsWith('+unix:') && !url.searchParams.has('socket')) {
    throw new Failure('No valid URL specified', {
      hint: 'It must name a socket: nbd+unix:///NAME?socket=PATH',
    });
  }
  try {
    return new NbdStorage(await openNbd(url, { mode }));
  } catch (error) {
    throw connectionFailure(error, url) ?? error;
  }
}

/** An export in which a new image is to be made: it is there already, and keeps its size. */
export async function openExport(url: URL): Promise<NbdStorage> {
  try {
    return await openNbdStorage(url, 'r+');
  } catch (error) {
    const beginning = "Protocol driver 'nbd' does not support image creation, and opening the image failed: ";
    throw failure(beginning, reasonOf(error, { name: url.href, writing: true }), error);
  }
}

/** In the words of qemu-img why nobody answered; null for what happened later. */
function connectionFailure(error: unknown, url: URL): Failure | null {
  const outer = error instanceof Error ? error.cause : undefined;
  // One error for each address of the host.
  const cause: unknown = outer instanceof AggregateError ? outer.errors[0] : outer;
  const words = systemErrorWords(cause);
  if (words === null) return null;
  const server = url.searchParams.get('socket') ?? `${url.hostname}:${url.port === '' ? '10809' : url.port}`;
  const text = isLookup(cause)
    ? `address resolution failed for ${server}: Name or service not known`
    : `Failed to connect to '${server}': ${words}`;
  return new Failure(text, { cause: error });
}

function isLookup(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error && error.syscall === 'getaddrinfo';
}
