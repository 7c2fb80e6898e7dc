/** openTemporaryOverlay(): a disk that can be written to, on one that does not change. */
import { create } from './create.js';
import type { Disk, WritableDisk } from './disk.js';
import { openLayer, type Opened } from './open.js';
import { chain, Qcow2 } from './qcow2.js';
import { closeAll } from './storage/closable.js';
import { ScratchStorage, type ScratchOptions } from './storage/scratch.js';

/** Where what is written is kept meanwhile. */
export type TemporaryOverlayOptions = ScratchOptions;

/**
 * Puts a layer for writing on an open disk. What is written is gone when the layer is closed, or the process ends; the disk
 * below is only read, and closed with the layer. Nothing becomes durable, so flushing costs nothing.
 * @throws system errors of the file; writing fails with `ENOSPC` when `maxBytes` are used up
 */
export async function openTemporaryOverlay(
  disk: Disk,
  options: TemporaryOverlayOptions = {},
): Promise<WritableDisk> {
  const storage = await ScratchStorage.create(options);
  try {
    // The name says that there is something below; what that is comes with the call.
    const backing = { name: 'the disk below', format: 'raw', unchecked: true } as const;
    await (await create(storage, disk.size, { backing })).close();
    const makeDisk = (opened: Opened): Qcow2 => new Qcow2({ ...opened, owned: [storage, ...opened.owned] });
    // Nothing else is made of a qcow2 image.
    return (await openLayer(storage, 'qcow2', { mode: 'r+' }, { ...chain, makeDisk }, disk)) as WritableDisk;
  } catch (error) {
    await closeAll([storage]);
    throw error;
  }
}
