/** The fixed fields of the header at their edges. */
import { at, type ImageBuilder, l1Cluster, refcountTableCluster } from '../builder.js';
import { guestCluster, opened, refused, type HostileCase, type Remark } from '../outcome.js';
import { guest, small, standard } from '../standard.js';

const invalid = 'ERR_QCOW2_INVALID_HEADER';
const unsupported = 'ERR_QCOW2_UNSUPPORTED';

type Field = keyof typeof at;
const wide: readonly Field[] = [
  'backingFileOffset',
  'size',
  'l1TableOffset',
  'refcountTableOffset',
  'snapshotsOffset',
  'incompatible',
  'compatible',
  'autoclear',
];

/** The standard image with one field set. */
function withField(field: Field, value: number | bigint, image = standard()): ImageBuilder {
  if (field === 'compressionType') return image.u8(at[field], Number(value));
  return wide.includes(field) ? image.u64(at[field], value) : image.u32(at[field], Number(value));
}

const show = (value: number | bigint): string => `0x${value.toString(16)}`;

function refuse(
  field: Field,
  values: readonly (number | bigint)[],
  code: string,
  feature: string,
  remark: Remark = {},
): HostileCase[] {
  return values.map((value) =>
    refused(`${field} ${show(value)}`, withField(field, value), code, feature, remark),
  );
}

function accept(field: Field, values: readonly (number | bigint)[], remark: Remark = {}): HostileCase[] {
  return values.map((value) => opened(`${field} ${show(value)}`, withField(field, value), remark));
}

const paddedEof =
  'QEMU takes what is missing at the end of the file for zeros, and so reads a table that is not there as an empty disk';
const unchecked =
  'QEMU does not compare the places of the tables at open; a disk read through a table over another is invented';

function lengths(): HostileCase[] {
  const cut = (length: number): Buffer => Buffer.from(standard().bytes.subarray(0, length));
  const v2 = (length: number): Buffer => Buffer.from(standard({ version: 2 }).bytes.subarray(0, length));
  return [
    ...[0, 1, 3].map((length) => refused(`a file of ${length} bytes`, cut(length), 'ERR_QCOW2_NOT_QCOW2')),
    ...[4, 71, 72, 103].map((length) => refused(`a file of ${length} bytes`, cut(length), invalid)),
    ...[72, 104].map((length) =>
      refused(`version 2, a file of ${length} bytes`, v2(length), invalid, 'l1_table_offset', {
        stricterThanQemu: paddedEof,
      }),
    ),
    ...[104, 112, 4095, 4096].map((length) =>
      refused(`a file of ${length} bytes`, cut(length), invalid, 'l1_table_offset', {
        stricterThanQemu: paddedEof,
      }),
    ),
  ];
}

function identity(): HostileCase[] {
  const other = 'ERR_QCOW2_NOT_QCOW2';
  return [
    ...refuse('magic', [0, 0x514649fa, 0x514649fc, 0xfb494651, 0xffffffff], other, 'magic'),
    ...refuse('version', [0, 1, 4, 0x02000000, 0x7fffffff, 0xffffffff], unsupported, 'version'),
    ...refuse('clusterBits', [0, 1, 8], invalid, 'cluster_bits'),
    ...refuse('clusterBits', [22, 31, 32, 63, 64, 0xffffffff], unsupported, 'cluster_bits'),
    ...[9, 10, 16, 21].map((clusterBits) => opened(`cluster_bits ${clusterBits}`, small({ clusterBits }))),
  ];
}

function diskSize(): HostileCase[] {
  const image = standard();
  const twoTables = 2 * image.coverage;
  const resized = (size: number): ImageBuilder => {
    const other = standard();
    other.u64(at.size, size);
    return other;
  };
  const content = (size: number): Buffer => {
    const bytes = Buffer.alloc(size);
    image.content.copy(bytes);
    return bytes;
  };
  const sizes = [0, 1, 511, 512, 513, image.coverage, image.coverage + 1, image.size - 1];
  return [
    ...[...sizes, twoTables - 1, twoTables].map((size) =>
      opened(`size ${show(size)}`, resized(size), {
        content: content(size),
        ...(size % 512 === 0
          ? {}
          : { withoutQemu: 'it rounds sizes to sectors, so the length of what it reads differs' }),
      }),
    ),
    ...refuse('size', [twoTables + 1, 2n ** 32n, 2n ** 53n - 1n], invalid, 'l1_size'),
    ...refuse('size', [2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n], unsupported, 'size'),
  ];
}

function encryption(): HostileCase[] {
  const legacy = withField('cryptMethod', 1);
  return [
    opened('crypt_method 1 (AES)', legacy, {
      locked: true,
      writing: { needsCheck: 'there is no passphrase to write with' },
      withoutQemu: 'it wants a passphrase',
    }),
    ...refuse('cryptMethod', [2], invalid, 'crypt_method'),
    ...refuse('cryptMethod', [3, 4, 0x10000, 0xffffffff], unsupported, 'crypt_method'),
  ];
}

function l1Table(): HostileCase[] {
  const image = standard();
  const { clusterSize, clusters } = image;
  const onL2 = withField('l1Size', clusterSize / 8 + 1);
  const end = clusters * clusterSize;
  return [
    ...refuse('l1Size', [0, 1], invalid, 'l1_size'),
    ...accept('l1Size', [2, 3, clusterSize / 8]),
    opened('l1_size reaches into the first L2 table', onL2, {
      broken: [[0, image.coverage]],
      writing: { needsCheck: 'the L2 entries of the first table pass for L1 entries' },
      stricterThanQemu: unchecked,
    }),
    ...refuse('l1Size', [(end - 3 * clusterSize) / 8 + 1, 4194304], invalid, 'l1_table_offset', {
      stricterThanQemu: paddedEof,
    }),
    ...refuse('l1Size', [4194305, 0x20000000, 0x7fffffff, 0xffffffff], unsupported, 'l1_size'),
    ...refuse(
      'l1TableOffset',
      [1, 8, 512, l1Cluster * clusterSize - 8, l1Cluster * clusterSize + 512],
      invalid,
      'l1_table_offset',
    ),
    ...refuse('l1TableOffset', [0], invalid, 'l1_table_offset', { stricterThanQemu: unchecked }),
    ...refuse('l1TableOffset', [2n ** 63n, 2n ** 64n - 4096n], unsupported, 'l1_table_offset'),
    refused(
      'the L1 table over the refcount table',
      withField('l1TableOffset', refcountTableCluster * clusterSize),
      invalid,
      'refcount_table_offset',
      { stricterThanQemu: unchecked },
    ),
    ...refuse(
      'l1TableOffset',
      [end, end + clusterSize, 2n ** 40n, 2n ** 53n - 4096n],
      invalid,
      'l1_table_offset',
      {
        stricterThanQemu: paddedEof,
      },
    ),
    ...refuse('l1TableOffset', [2n ** 53n, 2n ** 62n], unsupported, 'l1_table_offset', {
      stricterThanQemu: 'QEMU reads nothing at such an offset, where it can be addressed at all',
    }),
  ];
}

function refcountTable(): HostileCase[] {
  const image = standard();
  const { clusterSize, clusters } = image;
  const end = clusters * clusterSize;
  const feature = 'refcount_table_offset';
  const eof: Remark = { stricterThanQemu: paddedEof };
  return [
    ...refuse('refcountTableOffset', [1, 8, 512, clusterSize + 512], invalid, feature),
    ...refuse('refcountTableOffset', [0, l1Cluster * clusterSize], invalid, feature, {
      stricterThanQemu: unchecked,
    }),
    ...refuse('refcountTableOffset', [end, 2n ** 40n, 2n ** 53n - 4096n], invalid, feature, eof),
    ...refuse('refcountTableOffset', [2n ** 53n], unsupported, feature, eof),
    ...refuse('refcountTableOffset', [2n ** 63n, 2n ** 64n - 4096n], unsupported, feature),
    ...refuse('refcountTableClusters', [0], invalid, 'refcount_table_clusters'),
    opened('refcount_table_clusters 2, over the refcount block', withField('refcountTableClusters', 2), {
      writing: { allocating: 'ERR_QCOW2_CORRUPT' },
    }),
    ...refuse('refcountTableClusters', [3, 4, 2048], invalid, feature, {
      stricterThanQemu: unchecked,
    }),
    ...refuse('refcountTableClusters', [2049, 0x200000, 0xffffffff], unsupported, 'refcount_table_clusters'),
    ...refuse('refcountOrder', [7, 8, 32, 64, 0xffffffff], invalid, 'refcount_order'),
    ...[0, 1, 2, 3, 4, 5, 6].map((refcountOrder) =>
      opened(`refcount_order ${refcountOrder}`, standard({ refcountOrder })),
    ),
  ];
}

function snapshotsField(): HostileCase[] {
  const image = standard();
  const end = image.clusters * image.clusterSize;
  const one = (offset: number | bigint): ImageBuilder =>
    withField('snapshotsOffset', offset, withField('nbSnapshots', 1));
  return [
    opened('snapshots_offset without snapshots', withField('snapshotsOffset', 2n ** 64n - 1n), {
      laxerThanQemu: 'without snapshots the field points at nothing',
    }),
    ...[1, 8, 512].map((offset) =>
      refused(`snapshots_offset ${offset}`, one(offset), invalid, 'snapshots_offset'),
    ),
    ...[0, l1Cluster * image.clusterSize].map((offset) =>
      refused(`snapshots_offset ${offset}, over another table`, one(offset), invalid, 'snapshots_offset', {
        stricterThanQemu: unchecked,
      }),
    ),
    refused('the snapshot table behind the end of the file', one(end), invalid, 'snapshots_offset', {
      stricterThanQemu: paddedEof,
    }),
    ...[2n ** 63n, 2n ** 64n - 4096n].map((offset) =>
      refused(`snapshots_offset ${show(offset)}`, one(offset), unsupported, 'snapshots_offset'),
    ),
    refused('snapshots_offset 2^53', one(2n ** 53n), unsupported, 'snapshots_offset', {
      stricterThanQemu: paddedEof,
    }),
    ...refuse('nbSnapshots', [65537, 0x7fffffff, 0xffffffff], unsupported, 'nb_snapshots'),
    ...refuse('nbSnapshots', [65536], invalid, 'snapshots_offset'),
  ];
}

function featureBits(): HostileCase[] {
  const unknown = [5n, 6n, 31n, 32n, 62n, 63n].map((bit) => 1n << bit);
  const autoclearOther = [4n, 1n << 63n, 0xffff_ffff_ffff_fffdn];
  return [
    ...refuse('incompatible', [...unknown, 2n ** 64n - 1n], unsupported, 'incompatible_features'),
    opened('the dirty bit', withField('incompatible', 1), {
      writing: { needsCheck: 'refcounts are rebuilt first, from the tables' },
    }),
    opened('the corrupt bit', withField('incompatible', 2), { writing: { open: 'ERR_QCOW2_CORRUPT' } }),
    refused('an external data file that has no name', withField('incompatible', 4), 'ERR_QCOW2_REFERENCE'),
    ...refuse('incompatible', [8], invalid, 'compression_type'),
    refused(
      'extended L2 entries with clusters of 4 KiB',
      withField('incompatible', 16),
      invalid,
      'cluster_bits',
    ),
    ...accept('compatible', [1, 2, 1n << 63n, 2n ** 64n - 1n]),
    opened('the bitmaps bit without the extension', withField('autoclear', 1), {}),
    ...refuse('autoclear', [2, 3, 2n ** 64n - 1n], invalid, 'autoclear_features'),
    ...autoclearOther.map((bits) => opened(`autoclear ${show(bits)}`, withField('autoclear', bits), {})),
  ];
}

function headerLength(): HostileCase[] {
  const notEight = 'the specification wants a multiple of 8, which QEMU does not look at';
  const whole = standard({ headerLength: 4096 });
  return [
    ...refuse('headerLength', [0, 8, 72, 96, 103], invalid, 'header_length'),
    ...refuse('headerLength', [105, 108, 111, 113], invalid, 'header_length', { stricterThanQemu: notEight }),
    ...refuse('headerLength', [4104, 65536, 0x7ffffff8, 0xfffffff8, 0xffffffff], invalid, 'header_length'),
    ...[104, 112, 120, 1024].map((length) =>
      opened(`header_length ${length}`, standard({ headerLength: length })),
    ),
    opened('header_length of a whole cluster', whole, {}),
    opened(
      'header_length 120 with an unknown field set',
      standard({ headerLength: 120 }).u64(112, 2n ** 64n - 1n),
    ),
    // Rule 2 of the specification: unknown additional fields without an incompatible bit mean nothing.
    opened('padding of the header set', standard().u8(105, 0xff).u8(111, 0xff)),
  ];
}

function compressionType(): HostileCase[] {
  const withBit = (type: number): ImageBuilder =>
    standard().u64(at.incompatible, 8).u8(at.compressionType, type);
  const wrongCodec = withBit(1);
  return [
    ...refuse('compressionType', [1, 2, 255], invalid, 'compression_type'),
    ...[2, 3, 255].map((type) =>
      refused(`compression_type ${type} with its bit`, withBit(type), unsupported, 'compression_type'),
    ),
    opened('deflate data in an image of zstd', wrongCodec, {
      broken: [guestCluster(wrongCodec, guest.compressed)],
    }),
    refused(
      'the bit of compression types in a header too short for the field',
      standard({ headerLength: 104 }).u64(at.incompatible, 8).u8(104, 0),
      invalid,
      'compression_type',
    ),
  ];
}

function versionTwo(): HostileCase[] {
  const image = standard({ version: 2 });
  const v2 = (): ImageBuilder => standard({ version: 2 });
  // A version 2 header ends after 72 bytes: what stands there is an extension, here one with an unknown type.
  const likeFeatures = v2();
  likeFeatures.extension(0x00000001, Buffer.alloc(8));
  likeFeatures.extension(0x40, Buffer.alloc(16, 0xff));
  const longExtension = v2().u32(72, 0x00000004).u32(76, 0xffffffff);
  const zero = v2();
  zero.u64(zero.l2At(guest.unallocated), 1);
  const zeroWithHost = v2();
  zeroWithHost.u64(
    zeroWithHost.l2At(guest.data),
    zeroWithHost.bytes.readBigUInt64BE(zeroWithHost.l2At(guest.data)) | 1n,
  );
  return [
    opened('version 2', image),
    opened('version 2 with extensions where version 3 has feature bits', likeFeatures),
    refused('version 2 with an extension that never ends', longExtension, invalid),
    opened('version 2 with the zero flag', zero, {
      broken: [guestCluster(zero, guest.unallocated)],
    }),
    opened('version 2 with the zero flag on data', zeroWithHost, {
      broken: [guestCluster(zeroWithHost, guest.data)],
    }),
  ];
}

export const headerCases = (): HostileCase[] => [
  ...lengths(),
  ...identity(),
  ...diskSize(),
  ...encryption(),
  ...l1Table(),
  ...refcountTable(),
  ...snapshotsField(),
  ...featureBits(),
  ...headerLength(),
  ...compressionType(),
  ...versionTwo(),
];
