/** What an image calls its parts does nothing to a terminal or a log in which messages end up, whatever goes wrong with them. */
import { expect, it } from 'vitest';
import { create, MemoryStorage, open, Qcow2Error, type Qcow2 } from '../../lib/index.js';

const evil = '\u001b[31m\u009b5m\u202e\r\n\u007f';
const clusterSize = 4096;

/** Damage to an image that has a snapshot and a bitmap with evil names. */
const damages: Record<string, (image: Buffer) => void> = {
  none: () => undefined,
  'the L1 table of the snapshot past the end': (image) =>
    image.writeBigUInt64BE(2n ** 40n, snapshotTable(image)),
  'an L1 table of the snapshot that is too small': (image) =>
    image.writeUInt32BE(0, snapshotTable(image) + 8),
  'an entry of its L1 table past the end': (image) =>
    image.writeBigUInt64BE(2n ** 40n, Number(image.readBigUInt64BE(snapshotTable(image)))),
  'a reserved bit in its L2 table': (image) => {
    const l1 = Number(image.readBigUInt64BE(snapshotTable(image)));
    const l2 = Number(image.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
    image.writeBigUInt64BE(image.readBigUInt64BE(l2) | 4n, l2);
  },
  'a disk of another size in the snapshot': (image) =>
    image.writeBigUInt64BE(BigInt(clusterSize), snapshotTable(image) + 48),
  'the table of the bitmap past the end': (image) => image.writeBigUInt64BE(2n ** 40n, directory(image)),
  'a bitmap in use': (image) => image.writeUInt32BE(1, directory(image) + 12),
  'a bitmap with unknown flags': (image) => image.writeUInt32BE(2 ** 31, directory(image) + 12),
};

const works: Record<string, (disk: Qcow2) => Promise<unknown>> = {
  'opening the snapshot': (disk) => disk.snapshots.open(evil),
  'applying the snapshot': (disk) => disk.snapshots.apply(evil),
  'deleting the snapshot while it is open': async (disk) => {
    await disk.snapshots.open(evil);
    await disk.snapshots.delete(evil);
  },
  'deleting the snapshot': (disk) => disk.snapshots.delete(evil),
  'deleting one that is not there': (disk) => disk.snapshots.delete(`${evil}!`),
  'a bitmap of that name': (disk) => disk.bitmaps.create({ name: evil }),
  'reading the bitmap': (disk) => disk.bitmaps.bits(evil),
  'enabling the bitmap': (disk) => disk.bitmaps.enable(evil),
  'merging bitmaps': (disk) => disk.bitmaps.merge(evil, [`${evil}!`]),
  'removing the bitmap': (disk) => disk.bitmaps.remove(evil),
  'version 2': (disk) => disk.amend({ version: 2 }),
  'other refcounts': (disk) => disk.amend({ refcountBits: 64 }),
  compacting: (disk) => disk.compact(),
  'a write': (disk) => disk.write(Buffer.alloc(512), 0),
};

it.each(Object.entries(damages))('messages are plain text: %s', async (_name, damage) => {
  const bytes = await evilImage();
  damage(bytes);
  let told = 0;
  for (const [name, work] of Object.entries(works)) {
    const disk = await open(new MemoryStorage(bytes), { mode: 'r+' });
    const error: unknown = await work(disk).then(
      () => null,
      (reason: unknown) => reason,
    );
    for (const { message, where } of (await disk.check()).findings) {
      told += 1;
      expect(`${message} ${where}`, name).toMatch(/^[\x20-\x7e]+$/);
    }
    await disk.close();
    if (error === null) continue;
    told += 1;
    expect(error, name).toBeInstanceOf(Qcow2Error);
    expect((error as Qcow2Error).message, name).toMatch(/^[\x20-\x7e]+$/);
  }
  expect(told).toBeGreaterThan(0);
});

async function evilImage(): Promise<Buffer> {
  const image = new MemoryStorage();
  const disk = await create(image, 64 * clusterSize, { clusterSize });
  await disk.write(Buffer.alloc(4 * clusterSize, 1), 0);
  await disk.snapshots.create({ name: evil });
  await disk.bitmaps.create({ name: evil });
  await disk.close();
  const bytes = image.toBuffer();
  // The id is one byte: an escape.
  bytes[snapshotTable(bytes) + 40 + bytes.readUInt32BE(snapshotTable(bytes) + 36)] = 0x1b;
  return bytes;
}

const snapshotTable = (image: Buffer): number => Number(image.readBigUInt64BE(64));

function directory(image: Buffer): number {
  let at = image.readUInt32BE(100);
  while (image.readUInt32BE(at) !== 0x23852875) at += 8 + Math.ceil(image.readUInt32BE(at + 4) / 8) * 8;
  return Number(image.readBigUInt64BE(at + 24));
}
