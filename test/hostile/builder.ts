/**
 * Builds images byte by byte from the specification, and knows what their guest content must be. It shares no code with
 * the library: what the library gets wrong is not wrong here in the same way.
 */
export const magic = 0x514649fb;
export const copied = 1n << 63n;
export const compressedFlag = 1n << 62n;
export const zeroFlag = 1n;

/** Offsets of the header's fields, bytes. */
export const at = {
  magic: 0,
  version: 4,
  backingFileOffset: 8,
  backingFileSize: 16,
  clusterBits: 20,
  size: 24,
  cryptMethod: 32,
  l1Size: 36,
  l1TableOffset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  nbSnapshots: 60,
  snapshotsOffset: 64,
  incompatible: 72,
  compatible: 80,
  autoclear: 88,
  refcountOrder: 96,
  headerLength: 100,
  compressionType: 104,
} as const;

export const extension = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const;

export interface Shape {
  version?: 2 | 3;
  clusterBits?: number;
  refcountOrder?: number;
  extendedL2?: boolean;
  headerLength?: number;
  compressionType?: number;
  /** Virtual size, bytes. */
  size?: number;
  /** More L1 entries than the disk needs. */
  spareL1Entries?: number;
}

/** The clusters that every image has, in this order: header, refcount table, refcount block, L1 table. */
export const refcountTableCluster = 1;
export const refcountBlockCluster = 2;
export const l1Cluster = 3;

export class ImageBuilder {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly size: number;
  readonly refcountOrder: number;
  readonly extendedL2: boolean;
  readonly headerLength: number;
  readonly entrySize: number;
  readonly l2Entries: number;
  /** Guest bytes of an L2 table. */
  readonly coverage: number;
  readonly l1Entries: number;
  /** What the guest must see. */
  readonly content: Buffer;
  bytes: Buffer;
  #extensionsEnd: number;

  constructor(shape: Shape = {}) {
    const { version = 3, clusterBits = 12, refcountOrder = 4, extendedL2 = false } = shape;
    this.version = version;
    this.clusterBits = clusterBits;
    this.clusterSize = 2 ** clusterBits;
    this.refcountOrder = refcountOrder;
    this.extendedL2 = extendedL2;
    this.headerLength = shape.headerLength ?? (version === 2 ? 72 : 112);
    this.entrySize = extendedL2 ? 16 : 8;
    this.l2Entries = this.clusterSize / this.entrySize;
    this.coverage = this.l2Entries * this.clusterSize;
    this.size = shape.size ?? this.coverage + 16 * this.clusterSize;
    this.l1Entries = Math.ceil(this.size / this.coverage) + (shape.spareL1Entries ?? 0);
    this.content = Buffer.alloc(this.size);
    this.bytes = Buffer.alloc(4 * this.clusterSize);
    this.#extensionsEnd = this.headerLength;
    this.#writeHeader(shape.compressionType ?? 0);
    this.u64(this.offsetOf(refcountTableCluster), BigInt(this.offsetOf(refcountBlockCluster)));
    for (let cluster = 0; cluster <= l1Cluster; cluster += 1) this.refcount(cluster, 1);
  }

  #writeHeader(compressionType: number): void {
    this.u32(at.magic, magic);
    this.u32(at.version, this.version);
    this.u32(at.clusterBits, this.clusterBits);
    this.u64(at.size, this.size);
    this.u32(at.l1Size, this.l1Entries);
    this.u64(at.l1TableOffset, this.offsetOf(l1Cluster));
    this.u64(at.refcountTableOffset, this.offsetOf(refcountTableCluster));
    this.u32(at.refcountTableClusters, 1);
    if (this.version === 2) return;
    const incompatible = (compressionType === 0 ? 0n : 8n) | (this.extendedL2 ? 16n : 0n);
    this.u64(at.incompatible, incompatible);
    this.u32(at.refcountOrder, this.refcountOrder);
    this.u32(at.headerLength, this.headerLength);
    if (this.headerLength > at.compressionType) this.bytes[at.compressionType] = compressionType;
  }

  u8(offset: number, value: number): this {
    this.bytes.writeUInt8(value, offset);
    return this;
  }

  u16(offset: number, value: number): this {
    this.bytes.writeUInt16BE(value, offset);
    return this;
  }

  u32(offset: number, value: number): this {
    this.bytes.writeUInt32BE(value, offset);
    return this;
  }

  u64(offset: number, value: number | bigint): this {
    this.bytes.writeBigUInt64BE(BigInt(value), offset);
    return this;
  }

  put(offset: number, data: Uint8Array | string): this {
    const source = typeof data === 'string' ? Buffer.from(data, 'latin1') : data;
    this.bytes.set(source, offset);
    return this;
  }

  offsetOf(cluster: number): number {
    return cluster * this.clusterSize;
  }

  /** Length of the file in clusters, counting a cut-off last one. */
  get clusters(): number {
    return Math.ceil(this.bytes.length / this.clusterSize);
  }

  /** Appends `count` clusters of zeros with refcount 1 and returns the number of the first. */
  add(count = 1): number {
    const first = this.clusters;
    const longer = Buffer.alloc((first + count) * this.clusterSize);
    this.bytes.copy(longer);
    this.bytes = longer;
    for (let cluster = first; cluster < first + count; cluster += 1) this.refcount(cluster, 1);
    return first;
  }

  /** Writes a refcount as the specification lays it out: below a byte from the lowest bit on, else big-endian. */
  refcount(cluster: number, value: number): this {
    const bits = 2 ** this.refcountOrder;
    const block = this.offsetOf(refcountBlockCluster);
    if (bits >= 8) {
      const width = bits / 8;
      for (let byte = 0; byte < width; byte += 1) {
        const shifted = (BigInt(value) >> BigInt(8 * (width - 1 - byte))) & 0xffn;
        this.u8(block + cluster * width + byte, Number(shifted));
      }
      return this;
    }
    const first = cluster * bits;
    const place = block + Math.floor(first / 8);
    const mask = (2 ** bits - 1) << (first % 8);
    const old = this.bytes.readUInt8(place);
    return this.u8(place, (old & ~mask) | (value << (first % 8)));
  }

  /** Offset of L1 entry `index`. */
  l1At(index: number): number {
    return this.bytes.readUInt32BE(at.l1TableOffset + 4) + index * 8;
  }

  /** Offset of the L2 entry of a guest cluster, making its L2 table where there is none. */
  l2At(guestCluster: number): number {
    const index = Math.floor(guestCluster / this.l2Entries);
    let entry = this.bytes.readBigUInt64BE(this.l1At(index));
    if (entry === 0n) {
      entry = copied | BigInt(this.offsetOf(this.add()));
      this.u64(this.l1At(index), entry);
    }
    const table = Number(entry & ~copied);
    return table + (guestCluster % this.l2Entries) * this.entrySize;
  }

  /** Offset of the L2 table that describes a guest cluster. */
  l2TableOf(guestCluster: number): number {
    return this.l2At(guestCluster) - (guestCluster % this.l2Entries) * this.entrySize;
  }

  /** Stores a cluster of guest data and returns its host cluster. */
  data(guestCluster: number, seed = guestCluster + 1): number {
    const entry = this.l2At(guestCluster);
    const host = this.add();
    const bytes = patternOf(seed, this.clusterSize);
    this.put(this.offsetOf(host), bytes);
    this.u64(entry, copied | BigInt(this.offsetOf(host)));
    if (this.extendedL2) this.u64(entry + 8, 0xffff_ffffn);
    this.guest(guestCluster, bytes);
    return host;
  }

  /** Says what the guest must see in a cluster. */
  guest(guestCluster: number, bytes: Uint8Array, offset = 0): this {
    const start = guestCluster * this.clusterSize + offset;
    const room = Math.max(0, this.size - start);
    this.content.set(bytes.subarray(0, room), start);
    return this;
  }

  /** An entry with the zero flag; with `host` it keeps a cluster full of stale bytes. */
  zero(guestCluster: number, withHost = false): number | null {
    const entry = this.l2At(guestCluster);
    const host = withHost ? this.add() : null;
    if (host !== null) this.bytes.fill(0xee, this.offsetOf(host), this.offsetOf(host + 1));
    const place = host === null ? 0n : copied | BigInt(this.offsetOf(host));
    if (this.extendedL2) this.u64(entry, place).u64(entry + 8, 0xffff_ffff_0000_0000n);
    else this.u64(entry, place | zeroFlag);
    return host;
  }

  /** Puts a compressed stream into clusters of its own; `content` is what it must decode to. Returns its offset. */
  compressed(guestCluster: number, stream: Uint8Array, content?: Uint8Array): number {
    const entry = this.l2At(guestCluster);
    const host = this.offsetOf(this.add(Math.ceil(stream.length / this.clusterSize)));
    this.put(host, stream);
    this.u64(entry, this.compressedEntry(host, Math.ceil(stream.length / 512)));
    if (content !== undefined) this.guest(guestCluster, content);
    return host;
  }

  /** The descriptor of compressed data at `host` that touches `sectors` sectors. */
  compressedEntry(host: number | bigint, sectors: number): bigint {
    const offsetBits = BigInt(62 - (this.clusterBits - 8));
    return compressedFlag | (BigInt(sectors - 1) << offsetBits) | BigInt(host);
  }

  /** Appends a header extension and returns the offset of its data. */
  extension(type: number, data: Uint8Array | string, length = data.length): number {
    const start = this.#extensionsEnd;
    this.u32(start, type).u32(start + 4, length);
    this.put(start + 8, data);
    this.#extensionsEnd = start + 8 + Math.ceil(data.length / 8) * 8;
    return start + 8;
  }

  get extensionsEnd(): number {
    return this.#extensionsEnd;
  }

  /** Names a backing file behind the extensions (with room for the mark of their end). */
  backing(name: string, offset = this.#extensionsEnd + 8): this {
    this.put(offset, name);
    return this.u64(at.backingFileOffset, offset).u32(at.backingFileSize, name.length);
  }

  truncate(length: number): this {
    this.bytes = Buffer.from(this.bytes.subarray(0, length));
    return this;
  }

  /** Lengthens the file with zeros, without counting the new clusters as used. */
  extendFile(length: number): this {
    const longer = Buffer.alloc(length);
    this.bytes.copy(longer);
    this.bytes = longer;
    return this;
  }
}

/** Bytes that tell where they come from and make no valid table: every byte has low bits that entries reserve. */
export function patternOf(seed: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let index = 0; index < length; index += 1) {
    bytes[index] = 0x06 | ((seed * 7 + index * 5 + (index >> 8)) & 0xb9);
  }
  return bytes;
}
