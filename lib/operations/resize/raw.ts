/** Raw files as disks: changing their size and reserving their space. */
import { toBytes } from '../../format/units.js';
import { invalidArgValue, Qcow2Error } from '../../errors.js';
import { openSource, type Source } from '../../storage/open-source.js';
import { writeZeros, type Storage } from '../../storage/storage.js';

/** How a raw image gets its new size. */
export interface ResizeRawOptions {
  /** Allows making the file smaller: what is past its new end is lost. */
  shrink?: boolean;
  /** What to do with the new part of a grown file: leave it a hole (`off`, default), reserve its space, or write zeros. */
  preallocation?: 'off' | 'falloc' | 'full';
  /** `false` takes no file lock; see {@link OpenOptions}. */
  lock?: boolean;
}

/**
 * Resizes a raw disk; durable when it resolves.
 * @param size bytes
 * @throws Qcow2Error `ERR_QCOW2_DATA_LOSS` when the file would become smaller and `shrink` is not set
 */
export async function resizeRaw(
  source: Source,
  size: number | bigint,
  options: ResizeRawOptions = {},
): Promise<void> {
  const bytes = toBytes('size', size);
  const { shrink = false, preallocation = 'off', lock = true } = options;
  if (!['off', 'falloc', 'full'].includes(preallocation)) {
    throw invalidArgValue('preallocation', "must be 'off', 'falloc' or 'full' for a raw file", preallocation);
  }
  const { storage, owned } = await openSource(source, { mode: 'r+', lock });
  try {
    const before = await storage.size();
    if (bytes < before && preallocation !== 'off') {
      throw invalidArgValue('preallocation', 'is for growing a disk', preallocation);
    }
    if (bytes < before && !shrink) {
      throw new Qcow2Error(
        'ERR_QCOW2_DATA_LOSS',
        `${storage.name} has ${before} bytes; what is past ${bytes} would be lost. Pass shrink: true to drop it`,
        { feature: 'size' },
      );
    }
    await storage.truncate(bytes);
    if (preallocation === 'falloc') await reserveRaw(storage, before, bytes);
    if (preallocation === 'full') await writeZeros(storage, before, bytes - before);
    await storage.flush();
  } finally {
    if (owned) await storage.close();
  }
}

/** Reserves space for bytes [start, end), which read as zeros; by writing them where there is no other way. */
export async function reserveRaw(storage: Storage, start: number, end: number): Promise<void> {
  if (start >= end || (await storage.allocate?.(start, end - start)) === true) return;
  await writeZeros(storage, start, end - start);
}
