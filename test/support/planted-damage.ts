/** Damages an image file at a place named in the words of the format, reading the format by itself. */
import { readFile, writeFile } from 'node:fs/promises';

const offsetMask = 0x00ff_ffff_ffff_fe00n;
export const copied = 1n << 63n;

export class PlantedImage {
  readonly path: string;
  readonly bytes: Buffer;
  readonly clusterSize: number;
  readonly refcountBits: number;
  readonly l2EntrySize: number;

  private constructor(path: string, bytes: Buffer) {
    this.path = path;
    this.bytes = bytes;
    this.clusterSize = 2 ** bytes.readUInt32BE(20);
    const version = bytes.readUInt32BE(4);
    this.refcountBits = version === 2 ? 16 : 2 ** bytes.readUInt32BE(96);
    this.l2EntrySize = version === 3 && (bytes.readBigUInt64BE(72) & 16n) !== 0n ? 16 : 8;
  }

  static async open(path: string): Promise<PlantedImage> {
    return new PlantedImage(path, await readFile(path));
  }

  save(): Promise<void> {
    return writeFile(this.path, this.bytes);
  }

  get l1(): number {
    return Number(this.bytes.readBigUInt64BE(40));
  }

  get refcountTable(): number {
    return Number(this.bytes.readBigUInt64BE(48));
  }

  /** The value of an L1 or refcount table entry. */
  entry(table: number, index: number): bigint {
    return this.bytes.readBigUInt64BE(table + 8 * index);
  }

  setEntry(table: number, index: number, value: bigint): void {
    this.bytes.writeBigUInt64BE(value, table + 8 * index);
  }

  /** Where the L2 table of an L1 entry is. */
  l2(l1Index = 0): number {
    return Number(this.entry(this.l1, l1Index) & offsetMask);
  }

  l2Entry(index: number, l1Index = 0): bigint {
    return this.bytes.readBigUInt64BE(this.l2(l1Index) + index * this.l2EntrySize);
  }

  setL2Entry(index: number, value: bigint, l1Index = 0): void {
    this.bytes.writeBigUInt64BE(value, this.l2(l1Index) + index * this.l2EntrySize);
  }

  /** Host cluster number of the data of an L2 entry. */
  dataCluster(index: number): number {
    return Number(this.l2Entry(index) & offsetMask) / this.clusterSize;
  }

  refcountBlock(index = 0): number {
    return Number(this.entry(this.refcountTable, index) & offsetMask);
  }

  refcount(cluster: number): bigint {
    const { block, bit } = this.#place(cluster);
    let value = 0n;
    for (let i = 0; i < this.refcountBits; i += 1) {
      if (this.#bit(block, bit, i)) value |= 1n << BigInt(i);
    }
    return value;
  }

  setRefcount(cluster: number, value: bigint): void {
    const { block, bit } = this.#place(cluster);
    for (let i = 0; i < this.refcountBits; i += 1) {
      const [byte, mask] = this.#position(block, bit, i);
      const on = ((value >> BigInt(i)) & 1n) === 1n;
      this.bytes[byte] = on ? (this.bytes[byte] ?? 0) | mask : (this.bytes[byte] ?? 0) & ~mask;
    }
  }

  #place(cluster: number): { block: number; bit: number } {
    const perBlock = (this.clusterSize * 8) / this.refcountBits;
    return {
      block: this.refcountBlock(Math.floor(cluster / perBlock)),
      bit: (cluster % perBlock) * this.refcountBits,
    };
  }

  #bit(block: number, bit: number, i: number): boolean {
    const [byte, mask] = this.#position(block, bit, i);
    return ((this.bytes[byte] ?? 0) & mask) !== 0;
  }

  /** Refcounts of 8 bits and more are big-endian; smaller ones fill bytes from the lowest bit on. */
  #position(block: number, bit: number, i: number): [byte: number, mask: number] {
    if (this.refcountBits < 8) return [block + Math.floor((bit + i) / 8), 1 << ((bit + i) % 8)];
    const bytes = this.refcountBits / 8;
    return [block + bit / 8 + bytes - 1 - Math.floor(i / 8), 1 << (i % 8)];
  }
}

export interface Damage {
  name: string;
  plant: (image: PlantedImage) => void;
  /** `statistics`: QEMU counts the cluster of the damaged entry as allocated, this package does not. */
  unlike?: 'statistics';
}

/** Past the end of the file, but not far, as QEMU grows a file to where a refcount block is said to be. */
const pastEnd = ({ bytes, clusterSize }: PlantedImage): bigint =>
  BigInt((Math.ceil(bytes.length / clusterSize) + 8) * clusterSize);

/** Damage to an image made by qemu-img whose first four clusters hold data. */
export const damages: readonly Damage[] = [
  { name: 'none', plant: () => undefined },
  {
    name: 'a refcount too high',
    plant: (image) => image.setRefcount(image.dataCluster(1), image.refcountBits === 1 ? 1n : 3n),
  },
  { name: 'a refcount of 0', plant: (image) => image.setRefcount(image.dataCluster(1), 0n) },
  { name: 'a lost cluster', plant: (image) => image.setL2Entry(1, 0n) },
  { name: 'COPIED clear in L2', plant: (image) => image.setL2Entry(1, image.l2Entry(1) & ~copied) },
  { name: 'COPIED set in L2', plant: (image) => image.setL2Entry(1, image.l2Entry(1) | copied) },
  {
    name: 'COPIED clear in L1',
    plant: (image) => image.setEntry(image.l1, 0, image.entry(image.l1, 0) & ~copied),
  },
  {
    name: 'COPIED set in L1',
    plant: (image) => image.setEntry(image.l1, 0, image.entry(image.l1, 0) | copied),
  },
  { name: 'an L2 entry past the end', plant: (image) => image.setL2Entry(1, pastEnd(image) | copied) },
  {
    name: 'an L1 entry past the end',
    plant: (image) => image.setEntry(image.l1, 0, pastEnd(image) | copied),
  },
  {
    name: 'a reserved bit in an L2 entry',
    unlike: 'statistics',
    plant: (image) => image.setL2Entry(1, image.l2Entry(1) | 4n),
  },
  {
    name: 'a reserved bit in an L1 entry',
    plant: (image) => image.setEntry(image.l1, 0, image.entry(image.l1, 0) | 4n),
  },
  { name: 'two entries for one cluster', plant: (image) => image.setL2Entry(1, image.l2Entry(2)) },
  { name: 'data in the L1 table', plant: (image) => image.setL2Entry(1, BigInt(image.l1) | copied) },
  {
    name: 'data in a refcount block',
    plant: (image) => image.setL2Entry(1, BigInt(image.refcountBlock()) | copied),
  },
  { name: 'no refcount block', plant: (image) => image.setEntry(image.refcountTable, 0, 0n) },
  {
    name: 'a refcount block past the end',
    plant: (image) => image.setEntry(image.refcountTable, 0, pastEnd(image)),
  },
  {
    name: 'a reserved bit in the refcount table',
    plant: (image) => image.setEntry(image.refcountTable, 0, image.entry(image.refcountTable, 0) | 2n),
  },
];
