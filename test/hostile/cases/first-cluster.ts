/** What follows the fixed fields: header extensions and the name of the backing file. */
import { at, extension, l1Cluster, type ImageBuilder } from '../builder.js';
import { opened, refused, type HostileCase, type Remark } from '../outcome.js';
import { standard } from '../standard.js';

const invalid = 'ERR_QCOW2_INVALID_HEADER';
const unsupported = 'ERR_QCOW2_UNSUPPORTED';
const denied = 'ERR_QCOW2_REFERENCE_DENIED';
const unknown = 0x12345678;

function built(change: (image: ImageBuilder) => unknown): ImageBuilder {
  const image = standard();
  change(image);
  return image;
}

function extensionLengths(): HostileCase[] {
  const room = 4096 - 112 - 8;
  const withLength = (type: number, length: number): ImageBuilder =>
    built((image) => image.extension(type, Buffer.alloc(0), length));
  const chain = built((image) => {
    for (let index = 0; index < 240; index += 1) image.extension(unknown + index, Buffer.alloc(1, 1));
  });
  return [
    ...[room + 1, 0x7fffffff, 0xfffffff0, 0xfffffff8, 0xffffffff].map((length) =>
      refused(`an unknown extension of ${length} bytes`, withLength(unknown, length), invalid),
    ),
    ...[room + 1, 0xffffffff].map((length) =>
      refused(`an end of extensions of ${length} bytes`, withLength(extension.end, length), invalid),
    ),
    ...[0, 1, 7, 8, 9, room - 1, room].map((length) =>
      opened(`an unknown extension of ${length} bytes`, withLength(unknown, length)),
    ),
    opened('240 unknown extensions', chain),
    opened(
      'the same unknown extension twice',
      built((image) => {
        image.extension(unknown, 'one');
        image.extension(unknown, 'two');
      }),
    ),
    refused(
      'the format of the backing file twice',
      built((image) => {
        image.extension(extension.backingFormat, 'raw');
        image.extension(extension.backingFormat, 'qcow2');
      }),
      invalid,
      'backing file format name',
      { stricterThanQemu: 'the specification allows each type once; which of the two would count?' },
    ),
    opened(
      'an extension behind the mark of the end',
      built((image) => image.put(112 + 8, 'DATA\xff\xff\xff\xff')),
    ),
  ];
}

function bitmapsExtension(): HostileCase[] {
  const { clusterSize } = standard();
  interface Fields {
    count?: number;
    reserved?: number;
    size?: bigint;
    offset?: bigint;
    length?: number;
    active?: boolean;
  }
  const make = ({
    count = 1,
    reserved = 0,
    size = 32n,
    offset,
    length = 24,
    active = true,
  }: Fields): ImageBuilder =>
    built((image) => {
      const directory = image.add();
      const data = Buffer.alloc(32);
      data.writeUInt32BE(count, 0);
      data.writeUInt32BE(reserved, 4);
      data.writeBigUInt64BE(size, 8);
      data.writeBigUInt64BE(offset ?? BigInt(image.offsetOf(directory)), 16);
      image.extension(extension.bitmaps, data.subarray(0, length));
      if (active) image.u64(at.autoclear, 1);
    });
  const refuse = (name: string, fields: Fields, code = invalid): HostileCase =>
    refused(`bitmaps: ${name}`, make(fields), code);
  return [
    ...[0, 8, 16, 23, 25, 32].map((length) => refuse(`an extension of ${length} bytes`, { length })),
    refuse('a count of 0', { count: 0 }),
    refuse('a count of 65536', { count: 65536 }, unsupported),
    refuse('a count of 2^32 - 1', { count: 0xffffffff }, unsupported),
    refuse('the reserved field set', { reserved: 1 }),
    refuse('a directory of 0 bytes', { size: 0n }),
    refuse('a directory of 64 MiB and a byte', { size: 67108865n }, unsupported),
    refuse('a directory of 2^64 - 1 bytes', { size: 2n ** 64n - 1n }, unsupported),
    refuse('a directory of 64 MiB that the file does not have', { size: 67108864n }),
    refuse('the directory unaligned', { offset: 512n }),
    refuse('the directory over the header', { offset: 0n }),
    refuse('the directory over the L1 table', { offset: BigInt(l1Cluster * clusterSize) }),
    refuse('the directory behind the end of the file', { offset: 2n ** 40n }),
    refuse('the directory at 2^63', { offset: 2n ** 63n }, unsupported),
    opened(
      'bitmaps: out of date and all wrong, so ignored',
      make({ count: 0, size: 2n ** 64n - 1n, active: false }),
    ),
    // The directory itself is a cluster of zeros: an entry without a table, which only a list of bitmaps looks at.
    opened('bitmaps: a directory of zeros', make({}), {
      info: 'ERR_QCOW2_CORRUPT',
      writing: { needsCheck: 'a writer has to keep bitmaps true' },
      laxerThanQemu: 'the active disk does not need its bitmaps',
    }),
  ];
}

function encryptionExtension(): HostileCase[] {
  const make = (offset: bigint, length: bigint, dataLength = 16, method = 2): ImageBuilder =>
    built((image) => {
      image.add(2);
      const data = Buffer.alloc(24);
      data.writeBigUInt64BE(offset, 0);
      data.writeBigUInt64BE(length, 8);
      image.extension(extension.encryption, data.subarray(0, dataLength));
      image.u32(at.cryptMethod, method);
    });
  const image = standard();
  const place = BigInt(image.clusters * image.clusterSize);
  const refuse = (name: string, made: ImageBuilder, code = invalid): HostileCase =>
    refused(`LUKS: ${name}`, made, code);
  return [
    ...[0, 8, 15, 17, 24].map((length) => refuse(`a pointer of ${length} bytes`, make(place, 4096n, length))),
    refuse('an unaligned header', make(512n, 4096n)),
    refuse('a header over the header', make(0n, 4096n)),
    refuse('a header over the L1 table', make(BigInt(l1Cluster * image.clusterSize), 4096n)),
    refuse('a header behind the end of the file', make(2n ** 40n, 4096n)),
    refuse('a header of 0 bytes', make(place, 0n)),
    refuse('a header longer than the file', make(place, 2n ** 40n)),
    refuse('a header at 2^63', make(2n ** 63n, 4096n), unsupported),
    refuse('a header of 2^63 bytes', make(place, 2n ** 63n), unsupported),
    ...[0, 1].map((method) =>
      refused(`a LUKS header with crypt_method ${method}`, make(place, 4096n, 16, method), invalid),
    ),
    opened('LUKS: a header of zeros', make(place, 8192n), {
      locked: true,
      info: 'ERR_QCOW2_CORRUPT',
      writing: { needsCheck: 'there is no passphrase to write with' },
      withoutQemu: 'it wants a passphrase',
    }),
  ];
}

function names(): HostileCase[] {
  const named = (text: string): ImageBuilder =>
    built((image) => {
      const entry = Buffer.alloc(48);
      entry[1] = 40;
      entry.write(text, 2, 'latin1');
      image.extension(extension.featureNames, entry);
      image.u64(at.incompatible, 1n << 40n);
    });
  const harmless = built((image) => image.extension(extension.featureNames, Buffer.alloc(47, 0xff)));
  return [
    refused('an unknown feature named with terminal escapes', named('\x1b[2J\x07\x9b31m'), unsupported),
    refused('an unknown feature named with line ends', named('ok\r\nError: all is well\n'), unsupported),
    refused('an unknown feature without a name', named(''), unsupported),
    opened('a feature name table cut inside an entry', harmless),
  ];
}

function backing(): HostileCase[] {
  const refuse = (name: string, image: ImageBuilder, feature: string, remark: Remark = {}): HostileCase =>
    refused(name, image, invalid, feature, remark);
  const placed = (offset: number | bigint, length: number): ImageBuilder =>
    standard()
      .put(112 + 8, Buffer.alloc(4096 - 120, 'b'))
      .u64(at.backingFileOffset, offset)
      .u32(at.backingFileSize, length);
  const follow = (name: string): HostileCase =>
    refused(
      `the backing file ${JSON.stringify(name.slice(0, 40))}`,
      standard().backing(name),
      denied,
      'backing file',
      {
        withoutQemu: 'it follows references; see the tests of references',
      },
    );
  const hangs: Remark = { withoutQemu: 'what it would open is not there' };
  return [
    opened('a backing_file_size without a name', placed(0, 0xffffffff)),
    opened('a backing file name of 0 bytes', placed(1000, 0)),
    refuse('the backing file name inside the header', placed(8, 8), 'backing_file_offset', hangs),
    refuse(
      'the backing file name over the last byte of the header',
      placed(111, 8),
      'backing_file_offset',
      hangs,
    ),
    opened('a backing file name of NULs right behind the header', placed(112, 8)),
    refused(
      'the backing file name right behind the extensions',
      placed(120, 8),
      denied,
      'backing file',
      hangs,
    ),
    refused(
      'the backing file name at the end of the cluster',
      placed(4096 - 8, 8),
      denied,
      'backing file',
      hangs,
    ),
    refuse('the backing file name a byte past the cluster', placed(4096 - 7, 8), 'backing_file_offset'),
    refuse('the backing file name in the next cluster', placed(4096, 8), 'backing_file_offset'),
    refuse('the backing file name at 2^32', placed(2n ** 32n + 200n, 8), 'backing_file_offset'),
    refused('the backing file name at 2^63', placed(2n ** 63n, 8), unsupported, 'backing_file_offset'),
    refused('a backing file name of 1023 bytes', placed(1000, 1023), denied, 'backing file', hangs),
    refuse('a backing file name of 1024 bytes', placed(1000, 1024), 'backing_file_size'),
    refuse('a backing file name of 2^32 - 1 bytes', placed(1000, 0xffffffff), 'backing_file_size'),
    refuse('a backing file name at 2^64 - 8 that wraps', placed(2n ** 53n - 8n, 1023), 'backing_file_offset'),
    ...[
      '/etc/passwd',
      '../../etc/passwd',
      '/dev/zero',
      '/proc/self/mem',
      '/dev/stdin',
      'base\0.qcow2',
      '\x1b[2J',
    ].map(follow),
    ...[
      'json:{"driver":"null-co"}',
      'nbd://localhost',
      'http://localhost/',
      'file:/etc/passwd',
      'fat:/',
      'x'.repeat(1023),
    ].map(follow),
  ];
}

function dataFile(): HostileCase[] {
  const make = (name: string): ImageBuilder =>
    built((image) => {
      image.extension(extension.dataFile, name);
      image.u64(at.incompatible, 4);
    });
  return ['/dev/zero', '../data.raw', '/etc/passwd', 'nbd://localhost', 'json:{}'].map((name) =>
    refused(`the external data file ${name}`, make(name), denied, 'external data file', {
      withoutQemu: 'it follows references; see the tests of references',
    }),
  );
}

export const firstClusterCases = (): HostileCase[] => [
  ...extensionLengths(),
  ...bitmapsExtension(),
  ...encryptionExtension(),
  ...names(),
  ...backing(),
  ...dataFile(),
];
