// Writes the disk of a qcow2 image into a raw file with @xen-orchestra/qcow2: node xen-orchestra-convert.mjs IMAGE RAW
import { open } from 'node:fs/promises';
import { QCowAccessor } from '@xen-orchestra/qcow2';
import { filesOfNode } from './xen-orchestra-files.mjs';

const [image, raw] = process.argv.slice(2);
const disk = new QCowAccessor(filesOfNode(), image);
await disk.init();
const file = await open(raw, 'w');
await file.truncate(disk.getVirtualSize());
for await (const { index, data } of disk.diskBlocks()) {
  await file.write(data, 0, data.length, index * disk.getBlockSize());
}
await file.close();
await disk.close();
