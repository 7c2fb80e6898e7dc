/** Finding out which format a file has. */
import type { ImageFormat } from '../options.js';
import { readPadded, type Storage } from './storage.js';

const qcow2Magic = Buffer.from('QFI\xfb', 'latin1');

/** The format that the first bytes of a file tell: what is not qcow2 is raw. */
export async function probeFormat(storage: Storage): Promise<ImageFormat> {
  const start = new Uint8Array(qcow2Magic.length);
  await readPadded(storage, start, 0);
  return qcow2Magic.equals(start) ? 'qcow2' : 'raw';
}
