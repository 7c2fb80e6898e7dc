// Nightly backup of a disk: a full stream, then a stream of what a bitmap says has changed, then restore and verify.
// node examples/nightly-backup.mjs DIRECTORY
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { create, difference, fromQcow2Stream, hash, open, toQcow2Stream, verify } from 'qcow2';

const [directory = 'nightly'] = process.argv.slice(2);
await mkdir(directory, { recursive: true });
const at = (name) => join(directory, name);
const MiB = 2 ** 20;

/** Writes a backup. An upload would announce `length` as its Content-Length. */
async function store(stream, name) {
  const length = await stream.sized();
  await pipeline(stream, createWriteStream(at(name)));
  console.log(`${name}: ${length} bytes`);
}

// A disk in use, with a bitmap that records what changes from now on.
const disk = await create(at('vm.qcow2'), 64 * MiB);
await disk.write(Buffer.alloc(10 * MiB, 'the first day. '), 8 * MiB);
await disk.bitmaps.create({ name: 'nightly' });

// The first night: everything, and the hashes of every 4 MiB of it.
await store(toQcow2Stream(disk), 'monday.qcow2');

// During the day the guest goes on.
await disk.write(Buffer.alloc(3 * MiB, 'the second day. '), 12 * MiB);
await disk.discard(8 * MiB, MiB);

// The second night: what has changed, on top of the first; then the bitmap begins anew.
const changes = difference(disk, { bitmap: 'nightly' });
const backing = { name: 'monday.qcow2', format: 'qcow2' };
await store(toQcow2Stream(disk, { changes, backing }), 'tuesday.qcow2');
const hashes = await hash(disk);
await disk.bitmaps.clear('nightly');
await disk.close();

// Restoring: the full one, and the incremental one onto it.
await fromQcow2Stream(createReadStream(at('monday.qcow2')), at('restored.raw'), { targetFormat: 'raw' });
await fromQcow2Stream(createReadStream(at('tuesday.qcow2')), at('restored.raw'), {
  targetFormat: 'raw',
  keepTarget: true,
});

// Verifying the restored disk, and the chain of backups as it lies there.
let wrong = 0;
for await (const { start, length } of verify(at('restored.raw'), hashes, { sourceFormat: 'raw' })) {
  console.log(`restored.raw is wrong at ${start}, ${length} bytes`);
  wrong += 1;
}
const chain = await open(at('tuesday.qcow2'), { resolve: 'same-directory' });
for await (const { start } of verify(chain, hashes)) {
  console.log(`the chain is wrong at ${start}`);
  wrong += 1;
}
await chain.close();
console.log(wrong === 0 ? 'verified' : `${wrong} blocks are wrong`);
process.exitCode = wrong === 0 ? 0 : 1;
