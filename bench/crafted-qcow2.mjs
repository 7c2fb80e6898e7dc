// Qcow2 images written table by table, as the specification has them: with as many clusters as wanted, in any order in the
// file, and without the hours that a guest would take to make them so.
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { random, shuffled } from './random.mjs';

const headerLength = 104;
const refcountBits = 16;

/**
 * Writes an image in which `every`-th cluster (1: all, 2: every second) has data.
 * @param {string} path
 * @param {object} shape
 * @param {number} shape.size bytes of the disk
 * @param {number} shape.clusterSize bytes
 * @param {number} [shape.every]
 * @param {number | null} [shape.shuffleSeed] the order of the data clusters in the file; null: that of the disk
 * @param {((cluster: Buffer, guestCluster: number) => void) | null} [shape.fill] writes data; null leaves holes
 */
export function craftQcow2(path, { size, clusterSize, every = 1, shuffleSeed = null, fill = null }) {
  const entries = clusterSize / 8;
  const guestClusters = Math.ceil(size / clusterSize);
  const dataClusters = Math.ceil(guestClusters / every);
  const l2Tables = Math.ceil(guestClusters / entries);
  const l1Clusters = Math.ceil((l2Tables * 8) / clusterSize);
  const fixed = 1 + l1Clusters + l2Tables + dataClusters;
  const { blocks, tableClusters } = refcountStructure(fixed, clusterSize);
  const total = fixed + blocks + tableClusters;

  const refcountTable = 1;
  const firstBlock = refcountTable + tableClusters;
  const l1 = firstBlock + blocks;
  const firstL2 = l1 + l1Clusters;
  const firstData = firstL2 + l2Tables;
  const order = shuffleSeed === null ? null : shuffled(dataClusters, random(shuffleSeed));

  const fd = openSync(path, 'w');
  ftruncateSync(fd, total * clusterSize);
  const put = (buffer, cluster) => writeSync(fd, buffer, 0, buffer.length, cluster * clusterSize);
  put(
    header({
      size,
      clusterSize,
      l2Tables,
      l1: l1 * clusterSize,
      refcountTable: refcountTable * clusterSize,
      tableClusters,
    }),
    0,
  );
  put(
    pointers(blocks, (index) => (firstBlock + index) * clusterSize),
    refcountTable,
  );
  put(
    pointers(l2Tables, (index) => (firstL2 + index) * clusterSize, true),
    l1,
  );
  const counts = Buffer.alloc(clusterSize);
  for (let block = 0; block < blocks; block += 1) {
    counts.fill(0);
    const first = (block * clusterSize * 8) / refcountBits;
    const used = Math.min(clusterSize / 2, total - first);
    for (let i = 0; i < used; i += 1) counts.writeUInt16BE(1, i * 2);
    put(counts, firstBlock + block);
  }
  const table = Buffer.alloc(clusterSize);
  for (let index = 0; index < l2Tables; index += 1) {
    table.fill(0);
    for (let i = 0; i < entries; i += 1) {
      const guest = index * entries + i;
      if (guest >= guestClusters || guest % every !== 0) continue;
      const data = guest / every;
      writeEntry(table, i * 8, (firstData + (order === null ? data : order[data])) * clusterSize, true);
    }
    put(table, firstL2 + index);
  }
  if (fill !== null) {
    const cluster = Buffer.alloc(clusterSize);
    for (let data = 0; data < dataClusters; data += 1) {
      fill(cluster, data * every);
      put(cluster, firstData + (order === null ? data : order[data]));
    }
  }
  closeSync(fd);
}

/** Blocks and table clusters that count `fixed` clusters and themselves. */
function refcountStructure(fixed, clusterSize) {
  let blocks = 0;
  let tableClusters = 0;
  for (;;) {
    const total = fixed + blocks + tableClusters;
    const wantedBlocks = Math.ceil(total / ((clusterSize * 8) / refcountBits));
    const wantedTable = Math.ceil((wantedBlocks * 8) / clusterSize);
    if (wantedBlocks === blocks && wantedTable === tableClusters) return { blocks, tableClusters };
    blocks = wantedBlocks;
    tableClusters = wantedTable;
  }
}

function header({ size, clusterSize, l2Tables, l1, refcountTable, tableClusters }) {
  const bytes = Buffer.alloc(clusterSize);
  bytes.write('QFI\xfb', 0, 'latin1');
  bytes.writeUInt32BE(3, 4);
  bytes.writeUInt32BE(Math.log2(clusterSize), 20);
  bytes.writeBigUInt64BE(BigInt(size), 24);
  bytes.writeUInt32BE(l2Tables, 36);
  bytes.writeBigUInt64BE(BigInt(l1), 40);
  bytes.writeBigUInt64BE(BigInt(refcountTable), 48);
  bytes.writeUInt32BE(tableClusters, 56);
  bytes.writeUInt32BE(Math.log2(refcountBits), 96);
  bytes.writeUInt32BE(headerLength, 100);
  return bytes;
}

function pointers(count, at, isCopied = false) {
  const bytes = Buffer.alloc(count * 8);
  for (let index = 0; index < count; index += 1) writeEntry(bytes, index * 8, at(index), isCopied);
  return bytes;
}

/** COPIED is bit 63: a number could not hold it and the offset. */
function writeEntry(bytes, at, offset, isCopied) {
  bytes.writeUInt32BE(Math.floor(offset / 2 ** 32) + (isCopied ? 2 ** 31 : 0), at);
  bytes.writeUInt32BE(offset % 2 ** 32, at + 4);
}
