// Backup of a running virtual machine's disk from QEMU's NBD server: everything the first time; later only what a dirty bitmap says
// has changed, as an image on top of the backup before. The bitmap and the export are made with QEMU's monitor
// (block-dirty-bitmap-add, nbd-server-start, block-export-add), or with qemu-nbd for a disk at rest.
// node examples/backup-running-vm.mjs NBD_URI TARGET                     a full backup
// node examples/backup-running-vm.mjs NBD_URI TARGET BITMAP BASE_NAME    what has changed since BASE_NAME
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { toQcow2Stream } from 'qcow2';
import { openNbd } from 'qcow2/nbd';

const [uri, target, bitmap, base] = process.argv.slice(2);
if (target === undefined) throw new Error('usage: backup-running-vm.mjs NBD_URI TARGET [BITMAP BASE_NAME]');

const disk = await openNbd(uri, bitmap === undefined ? {} : { bitmaps: [bitmap] });
try {
  const options =
    bitmap === undefined
      ? {}
      : { changes: disk.dirtyExtents(bitmap), backing: { name: base, format: 'qcow2' } };
  const stream = toQcow2Stream(disk, options);
  const length = await stream.sized(); // known before the first byte of data is read
  await pipeline(stream, createWriteStream(target));
  console.log(`${target}: ${length} bytes of a disk of ${disk.size}`);
} finally {
  await disk.close();
}
