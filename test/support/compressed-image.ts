/** Compressed clusters in whole images, by the words of the specification alone: taking them out and putting them in. */
import { readFile, writeFile } from 'node:fs/promises';
import { qemuImg } from './oracle.js';

export interface StoredCluster {
  /** Guest offset of the cluster, bytes. */
  guest: number;
  /** From the start of the stream to the end of its last sector, or of the file. */
  input: Buffer;
}

const sectorSize = 512;
const compressedFlag = 1n << 62n;
const copiedFlag = 1n << 63n;
const offsetMask = 0x00ff_ffff_ffff_fe00n;

interface Layout {
  clusterBits: number;
  clusterSize: number;
  l1Size: number;
  l1Offset: number;
}

function layout(image: Buffer): Layout {
  const clusterBits = image.readUInt32BE(20);
  return {
    clusterBits,
    clusterSize: 2 ** clusterBits,
    l1Size: image.readUInt32BE(36),
    l1Offset: Number(image.readBigUInt64BE(40)),
  };
}

/** The compressed clusters of the active disk, in guest order. */
export function compressedClusters(image: Buffer): StoredCluster[] {
  const { clusterBits, clusterSize, l1Size, l1Offset } = layout(image);
  const offsetBits = BigInt(62 - (clusterBits - 8));
  const found: StoredCluster[] = [];
  for (let l1Index = 0; l1Index < l1Size; l1Index += 1) {
    const table = Number(image.readBigUInt64BE(l1Offset + l1Index * 8) & offsetMask);
    if (table === 0) continue;
    for (let l2Index = 0; l2Index < clusterSize / 8; l2Index += 1) {
      const entry = image.readBigUInt64BE(table + l2Index * 8);
      if ((entry & compressedFlag) === 0n) continue;
      const offset = Number(entry & ((1n << offsetBits) - 1n));
      const sectors = Number((entry & (compressedFlag - 1n)) >> offsetBits) + 1;
      const end = offset - (offset % sectorSize) + sectors * sectorSize;
      found.push({
        guest: (l1Index * (clusterSize / 8) + l2Index) * clusterSize,
        input: image.subarray(offset, end),
      });
    }
  }
  return found;
}

/**
 * Makes an image whose first clusters are the given streams, which lie one behind the other in `packed`; a length of 0
 * leaves that cluster unallocated. Its refcounts do not know of them, so it is for reading only.
 */
export async function writeCompressedImage(
  path: string,
  compressionType: 'zlib' | 'zstd',
  clusterSize: number,
  packed: Uint8Array,
  lengths: readonly number[],
): Promise<void> {
  const options = `compression_type=${compressionType},cluster_size=${clusterSize}`;
  const size = lengths.length * clusterSize;
  await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, path, String(size)]);
  const image = await readFile(path);
  const { clusterBits, l1Offset } = layout(image);
  if (lengths.length > clusterSize / 8) throw new Error('one L2 table must do');

  const tableOffset = Math.ceil(image.length / clusterSize) * clusterSize;
  const table = Buffer.alloc(clusterSize);
  const offsetBits = BigInt(62 - (clusterBits - 8));
  let offset = tableOffset + clusterSize;
  lengths.forEach((length, index) => {
    if (length === 0) return;
    const moreSectors = Math.floor((offset + length - 1) / sectorSize) - Math.floor(offset / sectorSize);
    table.writeBigUInt64BE(compressedFlag | (BigInt(moreSectors) << offsetBits) | BigInt(offset), index * 8);
    offset += length;
  });
  image.writeBigUInt64BE(BigInt(tableOffset) | copiedFlag, l1Offset);
  const padding = Buffer.alloc(tableOffset - image.length);
  await writeFile(path, Buffer.concat([image, padding, table, packed, Buffer.alloc(sectorSize)]));
}
