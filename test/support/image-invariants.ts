/**
 * What must be true of every image, whatever happened to it: counted by the words of the specification alone, in the
 * plainest way. For small images, as bytes.
 */

export interface Inspection {
  /** Broken invariants: references to clusters with too low a refcount, false COPIED flags, tables that cannot be. */
  readonly problems: string[];
  /** Clusters whose refcount is higher than the references to them. */
  readonly leaks: number;
  /** The DIRTY bit: the refcounts mean nothing. */
  readonly dirty: boolean;
  readonly size: number;
  readonly snapshots: readonly { name: string; l1Offset: number; l1Size: number }[];
}

const offsetMask = 0x00ff_ffff_ffff_fe00n;
const copiedFlag = 1n << 63n;
const compressedFlag = 1n << 62n;

class Inspector {
  readonly problems: string[] = [];
  readonly #image: Buffer;
  readonly #clusterBits: number;
  readonly #clusterSize: number;
  readonly #version: number;
  readonly #references = new Map<number, number>();
  /** Clusters that an entry of the active tables claims for itself alone, with the place of the claim. */
  readonly #claims: { cluster: number; place: string }[] = [];

  constructor(image: Buffer) {
    this.#image = image;
    this.#version = image.readUInt32BE(4);
    this.#clusterBits = image.readUInt32BE(20);
    this.#clusterSize = 2 ** this.#clusterBits;
  }

  inspect(): Inspection {
    const image = this.#image;
    this.#refer(0, this.#clusterSize, 'header');
    const table = Number(image.readBigUInt64BE(48));
    const tableBytes = image.readUInt32BE(56) * this.#clusterSize;
    this.#refer(table, tableBytes, 'refcount table');
    for (let at = 0; at < tableBytes; at += 8) {
      const block = this.#entry(table + at);
      if (block !== 0n) this.#refer(Number(block), this.#clusterSize, `refcount block ${at / 8}`);
    }
    this.#referExtensions();
    this.#followL1(Number(image.readBigUInt64BE(40)), image.readUInt32BE(36), 'active');
    const snapshots = this.#snapshots();
    for (const { name, l1Offset, l1Size } of snapshots) this.#followL1(l1Offset, l1Size, name);
    const dirty = (this.#incompatible() & 1n) !== 0n;
    const leaks = dirty ? 0 : this.#compare(table, tableBytes);
    return { problems: this.problems, leaks, dirty, size: Number(image.readBigUInt64BE(24)), snapshots };
  }

  #incompatible(): bigint {
    return this.#version < 3 ? 0n : this.#image.readBigUInt64BE(72);
  }

  #referExtensions(): void {
    const bitmapsTrusted = this.#version >= 3 && (this.#entry(88) & 1n) !== 0n;
    let hasBitmaps = false;
    let at = this.#version < 3 ? 72 : this.#image.readUInt32BE(100);
    for (let type = this.#u32(at); type !== 0 && at < this.#clusterSize; type = this.#u32(at)) {
      if (type === 0x0537be77)
        this.#refer(Number(this.#entry(at + 8)), Number(this.#entry(at + 16)), 'encryption header');
      // Without its autoclear bit the extension means nothing.
      if (type === 0x23852875 && bitmapsTrusted) {
        hasBitmaps = true;
        this.#referBitmaps(Number(this.#entry(at + 24)), Number(this.#entry(at + 16)));
      }
      at += 8 + Math.ceil(this.#u32(at + 4) / 8) * 8;
    }
    if (bitmapsTrusted && !hasBitmaps)
      this.problems.push('the autoclear bit of bitmaps is set without their extension');
  }

  #referBitmaps(directory: number, bytes: number): void {
    this.#refer(directory, bytes, 'bitmap directory');
    for (let at = directory; at < directory + bytes;) {
      const table = Number(this.#entry(at));
      const entries = this.#u32(at + 8);
      this.#refer(table, entries * 8, 'bitmap table');
      for (let index = 0; index < entries; index += 1) {
        const host = Number(this.#entry(table + index * 8) & offsetMask);
        if (host !== 0) this.#refer(host, this.#clusterSize, `bitmap table entry ${index}`, true);
      }
      const nameLength = this.#image.readUInt16BE(at + 18);
      at += Math.ceil((24 + this.#u32(at + 20) + nameLength) / 8) * 8;
    }
  }

  #snapshots(): { name: string; l1Offset: number; l1Size: number }[] {
    const found: { name: string; l1Offset: number; l1Size: number }[] = [];
    const start = Number(this.#image.readBigUInt64BE(64));
    let at = start;
    let end = start;
    for (let i = 0; i < this.#image.readUInt32BE(60); i += 1) {
      const idLength = this.#image.readUInt16BE(at + 12);
      const nameLength = this.#image.readUInt16BE(at + 14);
      const nameStart = at + 40 + this.#u32(at + 36) + idLength;
      found.push({
        name: this.#image.toString('utf8', nameStart, nameStart + nameLength),
        l1Offset: Number(this.#entry(at)),
        l1Size: this.#u32(at + 8),
      });
      end = nameStart + nameLength;
      at = Math.ceil(end / 8) * 8;
    }
    if (end > start) this.#refer(start, end - start, 'snapshot table');
    return found;
  }

  #followL1(offset: number, entries: number, name: string): void {
    if (entries > 0) this.#refer(offset, entries * 8, `${name} L1 table`);
    for (let index = 0; index < entries; index += 1) {
      const entry = this.#entry(offset + index * 8);
      const table = Number(entry & offsetMask);
      if (table === 0) continue;
      const place = `${name} L1 entry ${index}`;
      this.#refer(table, this.#clusterSize, place);
      if (name === 'active' && (entry & copiedFlag) !== 0n) this.#claim(table, place);
      this.#followL2(table, name, index);
    }
  }

  #followL2(table: number, name: string, l1Index: number): void {
    const entrySize = (this.#incompatible() & 16n) !== 0n ? 16 : 8;
    const external = (this.#incompatible() & 4n) !== 0n;
    for (let at = 0; at < this.#clusterSize; at += entrySize) {
      const entry = this.#entry(table + at);
      const place = `${name} L2 entry ${l1Index}/${at / entrySize}`;
      if ((entry & compressedFlag) !== 0n) {
        const offsetBits = BigInt(62 - (this.#clusterBits - 8));
        const start = Number(entry & ((1n << offsetBits) - 1n));
        const sectors = Number((entry & (compressedFlag - 1n)) >> offsetBits) + 1;
        const end = start - (start % 512) + sectors * 512;
        this.#refer(start, Math.min(end, Math.max(start + 1, this.#image.length)) - start, place);
        continue;
      }
      const host = Number(entry & offsetMask);
      if (host === 0 || external) continue;
      this.#refer(host, this.#clusterSize, place, true);
      if (name === 'active' && (entry & copiedFlag) !== 0n) this.#claim(host, place);
    }
  }

  #claim(offset: number, place: string): void {
    this.#claims.push({ cluster: offset / this.#clusterSize, place });
  }

  /** Counts a reference of each cluster of a range; the last host cluster of data may end past the end of the file. */
  #refer(offset: number, length: number, place: string, mayEndPastFile = false): void {
    const end = mayEndPastFile ? offset + 1 : offset + length;
    if (end > this.#image.length) {
      this.problems.push(`${place} refers to ${offset}+${length}, past the end`);
      // Garbage may be past what counting in ones can reach.
      return;
    }
    if (mayEndPastFile && offset % this.#clusterSize !== 0)
      this.problems.push(`${place}: ${offset} is unaligned`);
    const last = Math.floor((offset + length - 1) / this.#clusterSize);
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster <= last; cluster += 1) {
      this.#references.set(cluster, (this.#references.get(cluster) ?? 0) + 1);
    }
  }

  #compare(table: number, tableBytes: number): number {
    const bits = 2 ** (this.#version < 3 ? 4 : this.#image.readUInt32BE(96));
    const perBlock = (this.#clusterSize * 8) / bits;
    const stored = (cluster: number): number => {
      const index = Math.floor(cluster / perBlock);
      const block = index * 8 < tableBytes ? Number(this.#entry(table + index * 8)) : 0;
      return block === 0 ? 0 : this.#refcount(block, cluster % perBlock, bits);
    };
    for (const [cluster, references] of this.#references) {
      const refcount = stored(cluster);
      if (refcount < references)
        this.problems.push(`cluster ${cluster} has ${references} references and refcount ${refcount}`);
    }
    for (const { cluster, place } of this.#claims) {
      if (stored(cluster) !== 1) this.problems.push(`${place} has COPIED, but refcount ${stored(cluster)}`);
    }
    let leaks = 0;
    for (let cluster = 0; cluster < (tableBytes / 8) * perBlock; cluster += 1) {
      if (this.#entry(table + Math.floor(cluster / perBlock) * 8) === 0n) cluster += perBlock - 1;
      else if (stored(cluster) > (this.#references.get(cluster) ?? 0)) leaks += 1;
    }
    return leaks;
  }

  #refcount(block: number, index: number, bits: number): number {
    if (bits >= 8) {
      const bytes = bits / 8;
      let value = 0;
      for (let i = 0; i < bytes; i += 1) value = value * 256 + (this.#image[block + index * bytes + i] ?? 0);
      return value;
    }
    const byte = this.#image[block + Math.floor((index * bits) / 8)] ?? 0;
    return (byte >> ((index * bits) % 8)) & (2 ** bits - 1);
  }

  #u32(at: number): number {
    return at + 4 <= this.#image.length ? this.#image.readUInt32BE(at) : 0;
  }

  #entry(at: number): bigint {
    return at + 8 <= this.#image.length ? this.#image.readBigUInt64BE(at) : 0n;
  }
}

/** Inspects the bytes of an image file. Damage beyond what a crash may do may make it throw. */
export function inspectImage(image: Buffer): Inspection {
  return new Inspector(image).inspect();
}

/** The image whose active disk, of `size` bytes, is what the snapshot holds: for reading only. */
export function asSnapshot(
  image: Buffer,
  { l1Offset, l1Size }: { l1Offset: number; l1Size: number },
  size: number,
): Buffer {
  const view = Buffer.from(image);
  view.writeBigUInt64BE(BigInt(size), 24);
  view.writeUInt32BE(l1Size, 36);
  view.writeBigUInt64BE(BigInt(l1Offset), 40);
  return view;
}
