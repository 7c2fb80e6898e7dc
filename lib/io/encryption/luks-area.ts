/** Reading the LUKS header of an image. */
import { Qcow2Error } from '../../errors.js';
import type { Header } from '../../format/header.js';
import { maxLuksAreaBytes } from '../../format/luks.js';
import { readExactly, type Storage } from '../../storage/storage.js';

/** The bytes of the LUKS header and its key material. */
export async function readLuksArea(storage: Storage, header: Header): Promise<Uint8Array> {
  const pointer = header.encryption;
  if (pointer === null || pointer.length > maxLuksAreaBytes) {
    throw new Qcow2Error(
      'ERR_QCOW2_INVALID_HEADER',
      `The encryption header must be there and have at most ${maxLuksAreaBytes} bytes`,
      { feature: 'encryption header' },
    );
  }
  const area = new Uint8Array(pointer.length);
  await readExactly(storage, area, pointer.offset, 'the encryption header');
  return area;
}
