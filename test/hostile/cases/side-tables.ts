/** Refcounts, snapshots and bitmaps that are damaged: the active disk stays readable. */
import {
  at,
  extension,
  l1Cluster,
  refcountBlockCluster,
  refcountTableCluster,
  type ImageBuilder,
} from '../builder.js';
import { opened, refused, type HostileCase, type Remark, type Writing } from '../outcome.js';
import { standard } from '../standard.js';

const corrupt = 'ERR_QCOW2_CORRUPT';
const unsupported = 'ERR_QCOW2_UNSUPPORTED';

function refcounts(): HostileCase[] {
  const tableEntry = (name: string, value: (image: ImageBuilder) => bigint): HostileCase => {
    const image = standard();
    image.u64(image.offsetOf(refcountTableCluster), value(image));
    return opened(`refcount table entry: ${name}`, image, { writing: { allocating: corrupt } });
  };
  const offset =
    (cluster: number) =>
    (image: ImageBuilder): bigint =>
      BigInt(image.offsetOf(cluster));
  const counted = (name: string, cluster: number, count: number, writing: Writing): HostileCase =>
    opened(`refcount ${count} of ${name}`, standard().refcount(cluster, count), { writing });
  const confused = standard();
  confused.u64(confused.offsetOf(refcountTableCluster), confused.l2TableOf(0));
  const free: Writing = { allocating: corrupt };
  return [
    tableEntry('none', () => 0n),
    tableEntry('the reserved bit 0', (image) => offset(refcountBlockCluster)(image) | 1n),
    tableEntry('the reserved bit 8', (image) => offset(refcountBlockCluster)(image) | 256n),
    tableEntry('an offset inside a cluster', (image) => offset(refcountBlockCluster)(image) | 512n),
    tableEntry('behind the end of the file', (image) => offset(image.clusters + 1)(image)),
    tableEntry('2^55', () => 1n << 55n),
    tableEntry('2^63', () => 1n << 63n),
    tableEntry('all ones', () => 2n ** 64n - 1n),
    tableEntry('the refcount table', offset(refcountTableCluster)),
    tableEntry('the L1 table', offset(l1Cluster)),
    // Nothing tells which of the two the cluster really is.
    opened('refcount table entry: the first L2 table', confused, {
      broken: [[0, confused.coverage]],
      writing: { allocating: corrupt },
      stricterThanQemu: 'QEMU reads refcounts only when it writes',
    }),
    counted('the header', 0, 0, free),
    counted('the refcount table', refcountTableCluster, 0, free),
    counted('the refcount block', refcountBlockCluster, 0, free),
    counted('the L1 table', l1Cluster, 0, free),
    counted('the first L2 table', l1Cluster + 1, 0, free),
    counted('the L1 table', l1Cluster, 0xffff, {}),
    counted('a data cluster', l1Cluster + 2, 0xffff, {}),
    counted('a data cluster', l1Cluster + 2, 0, { needsCheck: 'the cluster passes for free' }),
  ];
}

interface Snapshot {
  l1Offset?: bigint;
  l1Size?: number;
  idSize?: number;
  nameSize?: number;
  extraSize?: number;
  count?: number;
}

/** One snapshot entry in a cluster of its own, with its L1 table in another. */
function withSnapshot(entry: Snapshot): ImageBuilder {
  const image = standard();
  const table = image.offsetOf(image.add());
  const l1 = image.offsetOf(image.add());
  const { l1Offset = BigInt(l1), l1Size = 2, idSize = 1, nameSize = 4, extraSize = 16, count = 1 } = entry;
  image
    .u64(table, l1Offset)
    .u32(table + 8, l1Size)
    .u16(table + 12, idSize)
    .u16(table + 14, nameSize);
  image.u32(table + 36, extraSize);
  image.u64(table + 48, image.size);
  image.put(table + 56, '1snap');
  return image.u32(at.nbSnapshots, count).u64(at.snapshotsOffset, table);
}

function snapshots(): HostileCase[] {
  const refuses: Remark = {
    laxerThanQemu:
      'QEMU opens no image whose snapshot table it cannot read; the active disk does not need it',
  };
  const list = (name: string, entry: Snapshot, info?: string, remark: Remark = {}): HostileCase =>
    opened(`snapshot: ${name}`, withSnapshot(entry), { ...(info === undefined ? {} : { info }), ...remark });
  return [
    list('a sound one with an empty disk', {}),
    list('no id and no name', { idSize: 0, nameSize: 0 }),
    list('no extra data, as version 2 has it', { extraSize: 0, idSize: 0, nameSize: 0 }),
    list('extra data of 1 KiB', { extraSize: 1024 }),
    list('extra data of 1 KiB and a byte', { extraSize: 1025 }, unsupported, refuses),
    list('extra data of 2^32 - 1 bytes', { extraSize: 0xffffffff }, unsupported, refuses),
    list('a name that reaches past the file', { nameSize: 0xffff }, corrupt, {}),
    list('an id that reaches past the file', { idSize: 0xffff }, corrupt, {}),
    refused(
      'snapshot: more entries than the file holds',
      withSnapshot({ count: 1000 }),
      'ERR_QCOW2_INVALID_HEADER',
      'snapshots_offset',
      { stricterThanQemu: 'QEMU takes what is missing at the end of the file for zeros' },
    ),
    list('the L1 table unaligned', { l1Offset: 512n }),
    list('the L1 table over the header', { l1Offset: 0n }),
    list('the L1 table behind the end of the file', { l1Offset: 1n << 40n }),
    list('the L1 table at 2^63', { l1Offset: 1n << 63n }, unsupported, {}),
    list('an L1 table of 2^32 - 1 entries', { l1Size: 0xffffffff }),
    list('an L1 table of no entries', { l1Size: 0 }),
  ];
}

interface Bitmap {
  tableOffset?: bigint;
  tableSize?: number;
  flags?: number;
  type?: number;
  granularityBits?: number;
  nameSize?: number;
  extraSize?: number;
}

/** One bitmap with its directory and its table in clusters of their own. */
function withBitmap(entry: Bitmap): ImageBuilder {
  const image = standard();
  const directory = image.offsetOf(image.add());
  const table = image.offsetOf(image.add());
  const { tableOffset = BigInt(table), tableSize = 1, flags = 0, type = 1 } = entry;
  const { granularityBits = 16, nameSize = 4, extraSize = 0 } = entry;
  image
    .u64(directory, tableOffset)
    .u32(directory + 8, tableSize)
    .u32(directory + 12, flags);
  image
    .u8(directory + 16, type)
    .u8(directory + 17, granularityBits)
    .u16(directory + 18, nameSize);
  image.u32(directory + 20, extraSize).put(directory + 24, 'bits');
  const data = Buffer.alloc(24);
  data.writeUInt32BE(1, 0);
  data.writeBigUInt64BE(32n, 8);
  data.writeBigUInt64BE(BigInt(directory), 16);
  image.extension(extension.bitmaps, data);
  return image.u64(at.autoclear, 1);
}

function bitmaps(): HostileCase[] {
  const broken = (name: string, entry: Bitmap, info = corrupt): HostileCase =>
    opened(`bitmap: ${name}`, withBitmap(entry), {
      info,
      withoutQemu: 'whether it looks at bitmaps depends on the command',
      writing: { needsCheck: 'a writer has to keep bitmaps true' },
    });
  return [
    opened('bitmap: a sound one', withBitmap({})),
    broken('a name that reaches past the directory', { nameSize: 9 }),
    broken('a name of 2^16 - 1 bytes', { nameSize: 0xffff }, unsupported),
    broken('a name of no bytes', { nameSize: 0 }),
    broken('extra data of 2^32 - 1 bytes', { extraSize: 0xffffffff }),
  ];
}

export const sideTableCases = (): HostileCase[] => [...refcounts(), ...snapshots(), ...bitmaps()];
