/** L1 and L2 entries that lead nowhere good: errors on what they cover, the rest readable. */
import {
  at,
  copied,
  l1Cluster,
  refcountBlockCluster,
  refcountTableCluster,
  zeroFlag,
  type ImageBuilder,
} from '../builder.js';
import {
  guestCluster,
  opened,
  type GuestRange,
  type HostileCase,
  type Opened,
  type Remark,
  type Writing,
} from '../outcome.js';
import { guest, small, standard } from '../standard.js';

/** The first L2 table of the standard image; the first cluster of data comes behind it. */
const l2Cluster = l1Cluster + 1;
const bit = (number: number): bigint => 1n << BigInt(number);
const ignoresReserved: Remark = {
  stricterThanQemu:
    'QEMU 7.2 masks reserved bits of L1 entries; a bit that means something one day must not be ignored',
};
const ignoresReservedL2: Remark = {
  stricterThanQemu:
    'QEMU 7.2 masks reserved bits of L2 entries; a bit that means something one day must not be ignored',
};
const readsTables: Remark = {
  stricterThanQemu: 'QEMU reads metadata as if it were the data or table it is said to be: invented content',
};
const padsEof: Remark = {
  stricterThanQemu: 'QEMU reads zeros past the end of the file: invented content',
};

interface Change {
  name: string;
  value: (image: ImageBuilder) => bigint;
  remark?: Remark;
  writing?: Writing;
}

const fileEnd = (image: ImageBuilder): bigint => BigInt(image.clusters * image.clusterSize);
const place =
  (cluster: number) =>
  (image: ImageBuilder): bigint =>
    copied | BigInt(image.offsetOf(cluster));

/** Values that neither an L1 entry nor an L2 entry may have. */
/** @param own a cluster of the kind that the entry should name */
const bad = (own: number, reserved: readonly number[], ignores: Remark): Change[] => [
  ...reserved.map((number) => ({
    name: `reserved bit ${number}`,
    value: (image: ImageBuilder) => place(own)(image) | bit(number),
    remark: ignores,
  })),
  ...[9, 10, 11].map((number) => ({
    name: `an offset with bit ${number}, inside a cluster`,
    value: (image: ImageBuilder) => place(own)(image) | bit(number),
  })),
  { name: 'the refcount table', value: place(refcountTableCluster), remark: readsTables },
  { name: 'the L1 table', value: place(l1Cluster), remark: readsTables },
  {
    name: 'the end of the file',
    value: (image) => copied | fileEnd(image),
    remark: padsEof,
    writing: { needsCheck: 'the next cluster to be allocated is the one that the entry names' },
  },
  {
    name: 'a cluster far behind the end of the file',
    value: (image) => copied | (fileEnd(image) + 100n * 4096n),
    remark: padsEof,
  },
  { name: 'offset 2^53', value: () => copied | bit(53), remark: padsEof },
  { name: 'offset 2^55', value: () => copied | bit(55), remark: padsEof },
  { name: 'the last offset there is', value: () => copied | (bit(56) - 4096n), remark: padsEof },
];

function l1Entries(): HostileCase[] {
  const make = (value: (image: ImageBuilder) => bigint, index = 0): ImageBuilder => {
    const image = standard();
    return image.u64(image.l1At(index), value(image));
  };
  const firstTable = (image: ImageBuilder): GuestRange => [0, image.coverage];
  const broken = ({ name, value, remark, writing }: Change): HostileCase => {
    const image = make(value);
    return opened(`L1 entry: ${name}`, image, {
      broken: [firstTable(image)],
      ...(writing === undefined ? {} : { writing }),
      ...remark,
    });
  };
  const empty = make(() => copied);
  empty.content.fill(0, 0, empty.coverage);
  const second = make(() => bit(60), 1);
  const onBlock = make(place(refcountBlockCluster));
  const onData = make((image) => copied | (image.bytes.readBigUInt64BE(image.l2At(guest.data)) & ~copied));
  const twice = make((image) => image.bytes.readBigUInt64BE(image.l1At(1)));
  twice.content.copyWithin(0, twice.coverage);
  twice.content.fill(0, 16 * twice.clusterSize, twice.coverage);
  return [
    ...bad(l2Cluster, [0, 1, 8, 56, 61, 62], ignoresReserved).map(broken),
    opened('L1 entry: COPIED without an offset', empty),
    opened('the second L1 entry: a reserved bit', second, {
      broken: [[second.coverage, second.size]],
      ...ignoresReserved,
    }),
    opened('L1 entry: the refcount block', onBlock, {
      broken: [firstTable(onBlock)],
      writing: { allocating: 'ERR_QCOW2_CORRUPT' },
      ...readsTables,
    }),
    opened('L1 entry: a cluster of data', onData, {
      broken: [firstTable(onData)],
      writing: { needsCheck: 'a cluster of data passes for an L2 table' },
    }),
    opened('L1 entry: the L2 table of another', twice, {
      writing: { needsCheck: 'a table with two users has COPIED set' },
    }),
  ];
}

function l2Entries(): HostileCase[] {
  const make = (value: (image: ImageBuilder) => bigint, cluster: number = guest.data): ImageBuilder => {
    const image = standard();
    return image.u64(image.l2At(cluster), value(image));
  };
  const broken = ({ name, value, remark, writing }: Change, cluster: number = guest.data): HostileCase => {
    const image = make(value, cluster);
    return opened(`L2 entry: ${name}`, image, {
      broken: [guestCluster(image, cluster)],
      ...(writing === undefined ? {} : { writing }),
      ...remark,
    });
  };
  const metadata: Change[] = [
    { name: 'the refcount block', value: place(refcountBlockCluster), remark: readsTables },
    { name: 'its own L2 table', value: place(l2Cluster), remark: readsTables },
    {
      name: 'the second L2 table',
      value: (image) => copied | BigInt(image.l2TableOf(image.l2Entries)),
      remark: readsTables,
    },
    {
      name: 'COPIED without an offset',
      value: () => copied,
      remark: { stricterThanQemu: 'QEMU reads the entry as unallocated; offset 0 is the header' },
    },
  ];
  return [
    ...bad(l2Cluster + 1, [1, 2, 8, 56, 61], ignoresReservedL2).map((change) => broken(change)),
    ...metadata.map((change) => broken(change)),
    broken(
      {
        name: 'the refcount block, in the second table',
        value: place(refcountBlockCluster),
        remark: readsTables,
      },
      512,
    ),
    ...zeroEntries(make),
    ...sharedClusters(make),
  ];
}

/** With the zero flag nothing is read from the offset, but a later write would go there. */
function zeroEntries(
  make: (value: (image: ImageBuilder) => bigint, cluster?: number) => ImageBuilder,
): HostileCase[] {
  const zeros = (
    name: string,
    value: (image: ImageBuilder) => bigint,
    more: Partial<Opened> = {},
  ): HostileCase => {
    const image = make(value, guest.zero);
    return opened(`zero entry: ${name}`, image, more);
  };
  const noWrite = (name: string, value: (image: ImageBuilder) => bigint): HostileCase => {
    const image = make((built) => value(built) | zeroFlag, guest.zero);
    return opened(`zero entry: ${name}`, image, { writing: { refused: [guestCluster(image, guest.zero)] } });
  };
  const invalid = (name: string, value: bigint, remark: Remark): HostileCase => {
    const image = make(() => value, guest.zero);
    return opened(`zero entry: ${name}`, image, { broken: [guestCluster(image, guest.zero)], ...remark });
  };
  return [
    zeros('no offset', () => zeroFlag),
    noWrite('the refcount table', place(refcountTableCluster)),
    noWrite('the refcount block', place(refcountBlockCluster)),
    noWrite('the L1 table', place(l1Cluster)),
    noWrite('behind the end of the file', (image) => copied | (fileEnd(image) + 100n * 4096n)),
    noWrite('the last offset there is', () => copied | (bit(56) - 4096n)),
    invalid('COPIED without an offset', copied | zeroFlag, {
      stricterThanQemu: 'QEMU reads the entry as zeros; offset 0 is the header',
    }),
    invalid('a reserved bit', zeroFlag | 2n, ignoresReservedL2),
    invalid('an offset inside a cluster', zeroFlag | copied | bit(14) | bit(9), {}),
  ];
}

function sharedClusters(
  make: (value: (image: ImageBuilder) => bigint, cluster?: number) => ImageBuilder,
): HostileCase[] {
  const first = (image: ImageBuilder): bigint => image.bytes.readBigUInt64BE(image.l2At(guest.data));
  const twice = make(first, guest.unallocated);
  twice.guest(guest.unallocated, Buffer.from(twice.content.subarray(0, twice.clusterSize)));
  const shared = make((image) => first(image) & ~copied, guest.unallocated);
  shared.u64(shared.l2At(guest.data), first(shared) & ~copied).refcount(l2Cluster + 1, 2);
  shared.guest(guest.unallocated, Buffer.from(shared.content.subarray(0, shared.clusterSize)));
  const plain = make((image) => first(image) & ~copied);
  return [
    opened('two entries with one data cluster, both COPIED', twice, {
      writing: { needsCheck: 'one write changes both places' },
    }),
    opened('two entries with one data cluster, refcount 2', shared),
    opened('a data cluster of refcount 1 without COPIED', plain),
  ];
}

function fileEnds(): HostileCase[] {
  const cut = (image: ImageBuilder, length: number): ImageBuilder => {
    const there = length - (image.clusters - 1) * image.clusterSize;
    const last = guestCluster(image, guest.data);
    image.truncate(length);
    image.content.fill(0, last[0] + there, last[1]);
    return image;
  };
  const whole = small();
  const lastStart = (whole.clusters - 1) * whole.clusterSize;
  const partly = [1, 511, 512, 513, 4095].map((length) =>
    opened(`the last data cluster has ${length} bytes`, cut(small(), lastStart + length)),
  );
  const gone = small().truncate(lastStart);
  const goneTable = small().truncate(4 * 4096);
  const halfTable = small().truncate(4 * 4096 + 2048);
  const long = small();
  long.extendFile(long.bytes.length + 12345);
  return [
    ...partly,
    opened('the last data cluster is not in the file', gone, {
      broken: [guestCluster(gone, guest.data)],
      writing: { needsCheck: 'once the file has grown over it, nothing tells that the cluster was lost' },
      ...padsEof,
    }),
    opened('the L2 table is not in the file', goneTable, { broken: [[0, goneTable.size]], ...padsEof }),
    opened('half of the L2 table is in the file', halfTable, { broken: [[0, halfTable.size]], ...padsEof }),
    opened('the file goes on behind the last cluster', long),
    opened('an L1 table of no entries for a disk of no bytes', emptyDisk()),
  ];
}

function emptyDisk(): ImageBuilder {
  const image = small();
  image.u64(at.size, 0).u32(at.l1Size, 0);
  return Object.assign(image, { content: Buffer.alloc(0) });
}

export const entryCases = (): HostileCase[] => [...l1Entries(), ...l2Entries(), ...fileEnds()];
