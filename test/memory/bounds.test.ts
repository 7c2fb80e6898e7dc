/**
 * Whole-image jobs take little memory however large the image is: one of 16 TiB, whose tables and data lie all over the file.
 * Needs the built package (dist).
 */
import { open, type FileHandle } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { qemuImg, run } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const inDirectory = useTempDir();
const mib = 2 ** 20;
const cluster = 65536;
const diskSize = 16 * 2 ** 40;

/** Refcounts in a block of a cluster, which so is for 2 GiB of the file. */
const perBlock = cluster / 2;
const blocks = 8192;
const l2Tables = 8;
const dataPerTable = blocks / l2Tables;
/** Where things are, in clusters: the tables in the first 2 GiB, one cluster of data in the middle of each 2 GiB. */
const place = { refcountTable: 1, l1: 2, l2: 6, blocks: 14, data: perBlock / 2 };
const l1Entries = diskSize / (cluster * (cluster / 8));
const copied = 1n << 63n;

const script = `
import { convert, open } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
const [job, source, target] = process.argv.slice(1);
const disk = await open(source);
const report = job === 'check' ? await disk.check() : await convert(disk, target, { targetFormat: 'qcow2' });
await disk.close();
const { corruptions, leaks } = report ?? {};
console.log(JSON.stringify({ corruptions, leaks, peak: process.resourceUsage().maxRSS * 1024 }));`;

async function peakOf(...args: string[]): Promise<{ corruptions?: number; leaks?: number; peak: number }> {
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script, ...args]);
  return JSON.parse(stdout) as { corruptions?: number; leaks?: number; peak: number };
}

it(
  'checks 16 TiB in less than 300 MiB, and converts them in less than 120',
  { timeout: 240_000 },
  async () => {
    const [huge, copy] = [inDirectory('huge.qcow2'), inDirectory('copy.qcow2')];
    await writeHugeImage(huge);
    const check = await peakOf('check', huge);
    expect(check).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(check.peak).toBeLessThan(300 * mib);
    const { peak } = await peakOf('convert', huge, copy);
    console.log(`peak of a check: ${check.peak / mib} MiB, of a conversion: ${peak / mib} MiB`);
    expect(peak).toBeLessThan(120 * mib);
    const { stdout } = await qemuImg(['compare', huge, copy]);
    expect(stdout).toContain('Images are identical');
  },
);

async function writeHugeImage(path: string): Promise<void> {
  const file = await open(path, 'w');
  try {
    const header = Buffer.alloc(104);
    header.write('QFI\xfb', 'latin1');
    header.writeUInt32BE(3, 4);
    header.writeUInt32BE(16, 20);
    header.writeBigUInt64BE(BigInt(diskSize), 24);
    header.writeUInt32BE(l1Entries, 36);
    header.writeBigUInt64BE(BigInt(place.l1 * cluster), 40);
    header.writeBigUInt64BE(BigInt(place.refcountTable * cluster), 48);
    header.writeUInt32BE(1, 56);
    header.writeUInt32BE(4, 96);
    header.writeUInt32BE(104, 100);
    await file.write(header, 0, header.length, 0);
    const used = place.blocks + blocks;
    await writeWords(file, place.refcountTable, blocks, (index) => BigInt((place.blocks + index) * cluster));
    for (let table = 0; table < l2Tables; table++) {
      const entry = Buffer.alloc(8);
      entry.writeBigUInt64BE(BigInt((place.l2 + table) * cluster) | copied);
      // Tables all over the disk.
      const index = (table * l1Entries) / l2Tables;
      await file.write(entry, 0, 8, place.l1 * cluster + index * 8);
      await writeWords(file, place.l2 + table, dataPerTable, (nth) => BigInt(dataAt(table, nth)) | copied);
    }
    const counts = Buffer.alloc(used * 2);
    for (let index = 0; index < used; index++) counts.writeUInt16BE(1, index * 2);
    await file.write(counts, 0, counts.length, place.blocks * cluster);
    for (let block = 0; block < blocks; block++) {
      await file.write(Buffer.of(0, 1), 0, 2, (place.blocks + block) * cluster + place.data * 2);
    }
    // A part of the clusters are holes, a part have data that packs badly, a part data that packs well.
    for (let nth = 0; nth < dataPerTable; nth += 8) {
      await file.write(pattern(nth, cluster), 0, cluster, dataAt(1, nth));
      await file.write(Buffer.alloc(cluster, 'text '), 0, cluster, dataAt(2, nth));
    }
    await file.truncate(dataAt(l2Tables - 1, dataPerTable - 1) + cluster);
  } finally {
    await file.close();
  }
}

/** Neighbours on the disk lie far apart in the file. */
function dataAt(table: number, nth: number): number {
  return ((nth * l2Tables + table) * perBlock + place.data) * cluster;
}

async function writeWords(file: FileHandle, at: number, count: number, word: (index: number) => bigint) {
  const bytes = Buffer.alloc(count * 8);
  for (let index = 0; index < count; index++) bytes.writeBigUInt64BE(word(index), index * 8);
  await file.write(bytes, 0, bytes.length, at * cluster);
}
