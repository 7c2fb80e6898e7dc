/** Images on servers, for names such as `https://host/disk.qcow2` and `nbd+unix:///?socket=path`. */
import { NbdStorage, openNbd } from '../nbd/index.js';
import type { Source } from '../options.js';

/** What the library is to open for a URL. A connection that is idle does not keep the program from ending. */
export async function openRemote(url: URL, mode: 'r' | 'r+' = 'r'): Promise<Source> {
  if (url.protocol === 'http:' || url.protocol === 'https:') return url;
  return openNbdStorage(url, mode);
}

/** An export of an NBD server as a store of bytes. */
export async function openNbdStorage(url: URL, mode: 'r' | 'r+'): Promise<NbdStorage> {
  return new NbdStorage(await openNbd(url, { mode }));
}
