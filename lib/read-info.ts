/** Telling what there is to know about an image without opening it as a disk. */
import { openDataFile } from './data-file.js';
import { readHeader, readTables } from './metadata/header-io.js';
import type { ImageInfo } from './operations/info-report.js';
import { gatherInfo } from './operations/info.js';
import { openFile } from './open-file.js';
import type { ImageFormat, OpenOptions, Source } from './options.js';
import { closeAll, type Closable } from './storage/closable.js';
import { probeFormat } from './storage/probe.js';

/**
 * What {@link Qcow2.info} tells of an image, which is not opened as a disk for it: neither a backing file nor a secret is
 * needed, and less code is loaded. What cannot be opened for the image's own faults is refused here, too.
 * @param options `format` is found out unless given
 * @throws Qcow2Error and system errors as {@link open} does
 */
export async function readInfo(
  source: Source,
  options: Pick<OpenOptions, 'lock' | 'dataFile' | 'resolve' | 'window'> & { format?: ImageFormat } = {},
): Promise<{
  /** The format it has, or was said to have. */
  format: ImageFormat;
  /** Size of the disk, bytes. */
  virtualSize: number;
  /** What is in it; null for a raw image. */
  info: ImageInfo | null;
}> {
  const opened = await openFile(source, { ...options, mode: 'r' });
  const owned: Closable[] = opened.owned ? [opened.storage] : [];
  try {
    const { storage } = opened;
    const format = options.format ?? (await probeFormat(storage));
    if (format === 'raw') return { format, virtualSize: await storage.size(), info: null };
    const header = await readHeader(storage, false);
    await openDataFile(storage, header, options, [], owned);
    await readTables(storage, header);
    return { format, virtualSize: header.size, info: await gatherInfo({ header, storage }) };
  } finally {
    await closeAll(owned);
  }
}
