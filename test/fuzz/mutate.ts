/** Damages images where it matters: fields, entries, whole tables; now and then any byte at all. */
import type { Random } from '../support/pattern.js';

/** Changes `bytes`, or gives other ones of another length. */
type Mutation = (bytes: Buffer, random: Random) => Buffer;

/** Where the structures of an image seem to be. The image may already be damaged, so nothing of it is taken on trust. */
interface Sketch {
  readonly clusterSize: number;
  readonly l1: Region;
  readonly refcountTable: Region;
  readonly snapshots: Region;
}

interface Region {
  readonly start: number;
  readonly end: number;
}

export function mutate(original: Buffer, random: Random): Buffer {
  let bytes: Buffer = Buffer.from(original);
  const count = random.between(1, 4);
  for (let i = 0; i < count; i += 1) bytes = random.pick(mutations)(bytes, random);
  return bytes;
}

function sketch(bytes: Buffer): Sketch {
  const u32 = (at: number): number => (at + 4 <= bytes.length ? bytes.readUInt32BE(at) : 0);
  // A sketch of a damaged image only has to stay inside the file.
  const u64 = (at: number): number => Math.min(u32(at) * 2 ** 32 + u32(at + 4), bytes.length);
  const region = (start: number, length: number): Region => ({
    start,
    end: Math.min(bytes.length, start + length),
  });
  const clusterSize = 2 ** Math.min(21, Math.max(9, u32(20)));
  return {
    clusterSize,
    l1: region(u64(40), Math.max(8, u32(36) * 8)),
    refcountTable: region(u64(48), clusterSize),
    snapshots: region(u64(64), u32(60) === 0 ? 0 : clusterSize),
  };
}

/** Offset and size of the fields of the header, and of the words behind it, where extensions begin. */
const headerFields: readonly [HeaderField, ...HeaderField[]] = [
  [4, 4],
  ...[16, 20, 32, 36, 56, 60, 96, 100, 112, 116].map((at): HeaderField => [at, 4]),
  ...[8, 24, 40, 48, 64, 72, 80, 88, 120, 128, 136].map((at): HeaderField => [at, 8]),
  [104, 1],
];
type HeaderField = readonly [offset: number, size: 1 | 4 | 8];

const setField: Mutation = (bytes, random) => {
  const [at, size] = random.pick(headerFields);
  if (at + size > bytes.length) return bytes;
  const old = size === 8 ? bytes.readBigUInt64BE(at) : BigInt(bytes.readUIntBE(at, size));
  const value = BigInt.asUintN(size * 8, interesting(old, bytes, random));
  if (size === 8) bytes.writeBigUInt64BE(value, at);
  else bytes.writeUIntBE(Number(value), at, size);
  return bytes;
};

/** A value near the old one, at an edge, or the offset of something else in the image. */
function interesting(old: bigint, bytes: Buffer, random: Random): bigint {
  const { clusterSize } = sketch(bytes);
  const cluster = random.below(Math.ceil(bytes.length / clusterSize) + 2);
  const bit = 1n << BigInt(random.below(64));
  const choices: readonly [bigint, ...bigint[]] = [
    old + 1n,
    old - 1n,
    old ^ bit,
    old ^ (1n << 63n),
    bit,
    bit - 1n,
    0n,
    2n ** 64n - 1n,
    BigInt(bytes.length),
    BigInt(cluster * clusterSize),
    BigInt(cluster * clusterSize) | (1n << 63n),
    BigInt(cluster * clusterSize) | (1n << 62n),
    BigInt(cluster * clusterSize) | 1n,
    BigInt(random.below(2 ** 53)),
  ];
  return random.pick(choices);
}

function setEntry(region: Region, bytes: Buffer, random: Random): Buffer {
  const entries = Math.floor((region.end - region.start) / 8);
  if (entries <= 0) return bytes;
  // Most tables are empty behind their first entries.
  const index = random.chance(0.8) ? random.below(Math.min(entries, 24)) : random.below(entries);
  const at = region.start + index * 8;
  bytes.writeBigUInt64BE(BigInt.asUintN(64, interesting(bytes.readBigUInt64BE(at), bytes, random)), at);
  return bytes;
}

/** The cluster that an entry of a table refers to. */
function behind(region: Region, bytes: Buffer, random: Random): Region {
  const { clusterSize } = sketch(bytes);
  const entries = Math.floor((region.end - region.start) / 8);
  const used: number[] = [];
  for (let index = 0; index < Math.min(entries, 512); index += 1) {
    const offset = Number(bytes.readBigUInt64BE(region.start + index * 8) & 0x00ff_ffff_ffff_fe00n);
    if (offset > 0 && offset < bytes.length) used.push(offset);
  }
  const start = used[random.below(Math.max(1, used.length))] ?? 0;
  return { start, end: Math.min(bytes.length, start + clusterSize) };
}

const flipBytes: Mutation = (bytes, random) => {
  for (let i = random.between(1, 8); i > 0 && bytes.length > 0; i -= 1) {
    bytes[random.below(bytes.length)] = random.below(256);
  }
  return bytes;
};

const copyCluster: Mutation = (bytes, random) => {
  const { clusterSize } = sketch(bytes);
  const clusters = Math.floor(bytes.length / clusterSize);
  if (clusters < 2) return bytes;
  const from = random.below(clusters) * clusterSize;
  bytes.copyWithin(random.below(clusters) * clusterSize, from, from + clusterSize);
  return bytes;
};

const clearCluster: Mutation = (bytes, random) => {
  const { clusterSize } = sketch(bytes);
  const start = random.below(Math.ceil(bytes.length / clusterSize)) * clusterSize;
  return bytes.fill(random.pick([0, 0, 0xff]), start, Math.min(bytes.length, start + clusterSize));
};

const cut: Mutation = (bytes, random) => {
  const { clusterSize } = sketch(bytes);
  const unit = random.pick([1, 512, clusterSize]);
  return Buffer.from(bytes.subarray(0, Math.floor(random.below(bytes.length + 1) / unit) * unit));
};

const lengthen: Mutation = (bytes, random) => Buffer.concat([bytes, Buffer.alloc(random.below(200_000))]);

const mutations: readonly [Mutation, ...Mutation[]] = [
  setField,
  setField,
  (bytes, random) => setEntry(sketch(bytes).l1, bytes, random),
  (bytes, random) => setEntry(behind(sketch(bytes).l1, bytes, random), bytes, random),
  (bytes, random) => setEntry(behind(sketch(bytes).l1, bytes, random), bytes, random),
  (bytes, random) => setEntry(behind(sketch(bytes).l1, bytes, random), bytes, random),
  (bytes, random) => setEntry(sketch(bytes).refcountTable, bytes, random),
  (bytes, random) => setEntry(behind(sketch(bytes).refcountTable, bytes, random), bytes, random),
  (bytes, random) => setEntry(sketch(bytes).snapshots, bytes, random),
  flipBytes,
  copyCluster,
  clearCluster,
  cut,
  lengthen,
];
