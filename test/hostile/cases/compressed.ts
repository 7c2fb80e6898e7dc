/** Compressed clusters that do not decode to one cluster, and odd ones that do. */
import { deflateRawSync } from 'node:zlib';
import { copied, l1Cluster, refcountBlockCluster, type ImageBuilder } from '../builder.js';
import { guestCluster, opened, type HostileCase, type Remark } from '../outcome.js';
import { guest, standard, textOf } from '../standard.js';

const cluster = 4096;

function deflate(name: string, stream: Uint8Array, remark?: Remark): HostileCase {
  const image = standard();
  image.compressed(guest.unallocated, stream);
  return opened(`deflate: ${name}`, image, { broken: [guestCluster(image, guest.unallocated)], ...remark });
}

function deflateCases(): HostileCase[] {
  const text = textOf(cluster);
  const stream = deflateRawSync(text);
  const fine = (name: string, data: Uint8Array, content: Uint8Array = text): HostileCase => {
    const image = standard();
    image.compressed(guest.unallocated, data, content);
    return opened(`deflate: ${name}`, image);
  };
  const random = Buffer.from(Array.from({ length: 600 }, (_, index) => (index * 197 + 89) & 0xff));
  const tooLong: Remark = {
    stricterThanQemu:
      'QEMU takes the first cluster of a stream that goes on; what wrote it did not mean that',
  };
  return [
    deflate('zeros', Buffer.alloc(600)),
    deflate('ones', Buffer.alloc(600, 0xff)),
    deflate('noise', random),
    deflate('a reserved block type', Buffer.from([0x07, 0x00])),
    deflate('a stream cut in half', stream.subarray(0, stream.length / 2), {
      stricterThanQemu: 'QEMU does not ask that a stream ends, if only a cluster came out of it',
    }),
    deflate('a stream with a bit turned', turned(stream)),
    deflate('a stored block with a wrong length', Buffer.from([0x01, 0x00, 0x10, 0x00, 0x00])),
    deflate('an empty stream', deflateRawSync(Buffer.alloc(0))),
    deflate('one byte', deflateRawSync(Buffer.alloc(1, 1))),
    deflate('a cluster less one byte', deflateRawSync(text.subarray(1))),
    deflate('a cluster and one byte', deflateRawSync(textOf(cluster + 1)), tooLong),
    deflate('two clusters', deflateRawSync(textOf(2 * cluster)), tooLong),
    deflate('a bomb of 4 MiB', deflateRawSync(Buffer.alloc(4 * 2 ** 20)), tooLong),
    deflate('a zlib header', Buffer.concat([Buffer.from([0x78, 0x9c]), stream])),
    deflate('a gzip header', Buffer.concat([Buffer.from('1f8b0800000000000003', 'hex'), stream])),
    fine('stored blocks', deflateRawSync(text, { level: 0 })),
    fine('fixed codes', deflateRawSync(text, { strategy: 4 })),
    fine('noise behind the stream', Buffer.concat([stream, random])),
    fine('an empty block first', Buffer.concat([Buffer.from([0x00, 0x00, 0x00, 0xff, 0xff]), stream])),
    fine('a cluster of zeros', deflateRawSync(Buffer.alloc(cluster)), Buffer.alloc(cluster)),
  ];
}

function turned(stream: Buffer): Buffer {
  const bytes = Buffer.from(stream);
  // The type of the first block: from dynamic codes to the reserved type.
  bytes[0] = (bytes[0] ?? 0) | 0x06;
  return bytes;
}

/** Frames written out by hand, as Node 20 has no zstd: the header, then blocks of one repeated byte or of plain bytes. */
const zstd = {
  header: (windowLog: number): Buffer => Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, (windowLog - 10) << 3]),
  block: (type: 0 | 1 | 2 | 3, size: number, last: boolean): Buffer => {
    const bytes = Buffer.alloc(3);
    bytes.writeUIntLE((size << 3) | (type << 1) | (last ? 1 : 0), 0, 3);
    return bytes;
  },
  repeated: (byte: number, size: number, last = true): Buffer =>
    Buffer.concat([zstd.block(1, size, last), Buffer.from([byte])]),
  frame: (windowLog: number, ...blocks: Buffer[]): Buffer =>
    Buffer.concat([zstd.header(windowLog), ...blocks]),
};

function zstdCases(): HostileCase[] {
  const make = (stream: Buffer, content?: Buffer): ImageBuilder => {
    const image = standard({ compressionType: 1 });
    image.compressed(guest.unallocated, stream, content);
    return image;
  };
  const damaged = (name: string, stream: Buffer, remark?: Remark): HostileCase => {
    const image = make(stream);
    return opened(`zstd: ${name}`, image, { broken: [guestCluster(image, guest.unallocated)], ...remark });
  };
  const fine = (name: string, stream: Buffer, content: Buffer, remark: Remark = {}): HostileCase =>
    opened(`zstd: ${name}`, make(stream, content), remark);
  const { frame, repeated, block } = zstd;
  const bombBlocks = Array.from({ length: 1900 }, () => repeated(7, 128 * 1024, false));
  const halves = Buffer.concat([Buffer.alloc(2048, 1), Buffer.alloc(2048, 2)]);
  const ones = Buffer.alloc(cluster, 1);
  return [
    fine('a frame of one repeated byte', frame(17, repeated(1, cluster)), ones),
    fine('plain bytes', frame(17, block(0, cluster, true), textOf(cluster)), textOf(cluster)),
    fine('two frames', Buffer.concat([frame(17, repeated(1, 2048)), frame(17, repeated(2, 2048))]), halves),
    fine('a window of 8 MiB', frame(23, repeated(1, cluster)), ones),
    fine('empty blocks', frame(17, block(0, 0, false), block(0, 0, false), repeated(1, cluster)), ones),
    // Decoding straight into the cluster takes no window at all, so its size costs nothing.
    fine('a window of 16 MiB', frame(24, repeated(1, cluster)), ones),
    fine('a window of 2 GiB', frame(31, repeated(1, cluster)), ones, {
      laxerThanQemu: 'QEMU allocates the window, and refuses more than 128 MiB',
    }),
    damaged('a window of 2^41 bytes', frame(41, repeated(1, cluster))),
    damaged('zeros', Buffer.alloc(600)),
    damaged('a wrong magic', Buffer.from('28b52ffe0038', 'hex')),
    damaged('a header alone', zstd.header(17)),
    damaged('the reserved block type', frame(17, block(3, 1, true))),
    damaged('a compressed block of noise', frame(17, block(2, 64, true), Buffer.alloc(64, 0xa7))),
    damaged('a block that goes on past the data', frame(17, block(0, 100000, true))),
    damaged('a cluster less one byte', frame(17, repeated(1, cluster - 1))),
    damaged('a cluster and one byte', frame(17, repeated(1, cluster + 1))),
    damaged('a bomb of 237 MiB', frame(17, ...bombBlocks, repeated(7, 1))),
    damaged('no last block', frame(17, repeated(1, 2048, false))),
    damaged('a deflate stream', deflateRawSync(textOf(cluster))),
  ];
}

function places(): HostileCase[] {
  const make = (value: (image: ImageBuilder) => bigint): ImageBuilder => {
    const image = standard();
    return image.u64(image.l2At(guest.unallocated), value(image));
  };
  const broken = (name: string, value: (image: ImageBuilder) => bigint, remark?: Remark): HostileCase => {
    const image = make(value);
    return opened(`compressed data: ${name}`, image, {
      broken: [guestCluster(image, guest.unallocated)],
      ...remark,
    });
  };
  const end = (image: ImageBuilder): number => image.clusters * image.clusterSize;
  const good = (image: ImageBuilder): bigint => image.bytes.readBigUInt64BE(image.l2At(guest.compressed));
  const again = (image: ImageBuilder): ImageBuilder => {
    image.guest(guest.unallocated, textOf(image.clusterSize));
    return image;
  };
  return [
    broken('in the header', (image) => image.compressedEntry(0, 1)),
    broken('in the middle of the header', (image) => image.compressedEntry(1000, 2)),
    broken('in the refcount block', (image) => image.compressedEntry(refcountBlockCluster * 4096, 1)),
    broken('from the L1 table on', (image) => image.compressedEntry(l1Cluster * 4096 + 4000, 3)),
    broken('behind the end of the file', (image) => image.compressedEntry(end(image) + 4096, 1)),
    broken('at the last byte of the file', (image) => image.compressedEntry(end(image) - 1, 1)),
    broken('at 2^55', (image) => image.compressedEntry(1n << 55n, 1)),
    broken('with the reserved bit 56', (image) => good(image) | (1n << 56n)),
    broken('with the reserved bit 57', (image) => good(image) | (1n << 57n)),
    broken('fewer sectors than the stream', longStream(1)),
    opened('compressed data: used twice', again(make(good)), {
      writing: { needsCheck: 'two entries use data of refcount 1' },
    }),
    broken('more sectors than the stream, over an L2 table', (image) => moreSectors(good(image)), {
      stricterThanQemu: 'QEMU does not look where the claimed sectors are; freeing them would free the table',
    }),
    opened('compressed data: COPIED', copiedCompressed(), {}),
  ];
}

const moreSectors = (entry: bigint): bigint => entry | (15n << 58n);

/** An entry that gives a stream of several sectors only `sectors`. */
function longStream(sectors: number): (image: ImageBuilder) => bigint {
  return (image) => {
    const noise = Buffer.from(
      Array.from({ length: cluster }, (_, index) => (index * index * 31 + (index >> 3)) & 0xff),
    );
    const place = image.offsetOf(image.add());
    image.put(place, deflateRawSync(noise, { level: 0 }).subarray(0, cluster));
    return image.compressedEntry(place, sectors);
  };
}

/** The specification wants COPIED clear on compressed clusters; it does not change what they hold. */
function copiedCompressed(): ImageBuilder {
  const image = standard();
  const entry = image.l2At(guest.compressed);
  return image.u64(entry, image.bytes.readBigUInt64BE(entry) | copied);
}

export const compressedCases = (): HostileCase[] => [...deflateCases(), ...zstdCases(), ...places()];
