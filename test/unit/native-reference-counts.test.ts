/** Counting references: the native counters say what a plain Map says, for any tables. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  changedStride,
  clusterRunStride,
  copiedStride,
  InvalidEntry,
  L2Flag,
  type L2Summary,
  mismatchStride,
  native,
  problemStride,
  type ReferenceCounts,
} from '../../lib/native.js';
import {
  clusterSize,
  compressedPart,
  encode,
  type Entry,
  entriesOf,
  fault,
  isExtended,
  type Shape,
  shapes,
} from './native-l2-model.js';

const plenty = 2 ** 30;
const compressedFlag = 1n << 62n;
const copiedFlag = 1n << 63n;
const none = new Float64Array(0);

/** Rows of `stride` numbers. */
const rows = (out: Float64Array, count: number, stride: number): number[][] =>
  Array.from({ length: count }, (_, row) => [...out.subarray(row * stride, (row + 1) * stride)]);

/** The bytes of the host file that an entry claims. */
function claim(shape: Shape, { descriptor, bitmap }: Entry): { host: bigint; length: bigint } {
  if ((descriptor & compressedFlag) !== 0n) {
    const { offset } = compressedPart(shape, descriptor);
    const host = offset % 2n ** 56n;
    const sectors = ((descriptor % compressedFlag) >> BigInt(62 - (shape.clusterBits - 8))) + 1n;
    const isInvalid = offset !== host || bitmap !== 0n;
    return host === 0n && isInvalid ? { host, length: 0n } : { host, length: sectors * 512n - (host % 512n) };
  }
  const host = descriptor & (2n ** 56n - 512n);
  return { host, length: host === 0n ? 0n : BigInt(clusterSize(shape)) };
}

const isCopied = ({ descriptor }: Entry): boolean => (descriptor & copiedFlag) !== 0n;

/**
 * The COPIED flag that an entry must have; undefined where it says nothing.
 * @param once whether its cluster is referenced exactly once
 */
function rightFlag(shape: Shape, entry: Entry, once: boolean): boolean | undefined {
  const reason = fault(shape, entry);
  if (reason === InvalidEntry.copiedWithoutHost) return false;
  if (reason !== undefined) return undefined;
  if ((entry.descriptor & compressedFlag) !== 0n) return false;
  const hasPlace = (entry.descriptor & (2n ** 56n - 512n)) !== 0n;
  if ((shape.flags & L2Flag.externalData) !== 0) return hasPlace || isCopied(entry);
  return hasPlace && once;
}

interface Model {
  counts: Map<number, number>;
  summary: Record<keyof L2Summary, number>;
  problems: number[][];
}

/** Counts a table in `model`, entry by entry and cluster by cluster. */
function countTable(
  model: Model,
  shape: Shape,
  entries: readonly Entry[],
  table: number,
  times: number,
  clusters: number,
): void {
  const size = BigInt(clusterSize(shape));
  const external = (shape.flags & L2Flag.externalData) !== 0;
  let behind: bigint | undefined;
  entries.forEach((entry, index) => {
    const { host, length } = claim(shape, entry);
    const reason = fault(shape, entry);
    let pastEnd = false;
    for (let cluster = host / size; !external && cluster * size < host + length; cluster++) {
      if (cluster >= BigInt(clusters)) pastEnd = true;
      else model.counts.set(Number(cluster), (model.counts.get(Number(cluster)) ?? 0) + times);
    }
    const right = rightFlag(shape, entry, !pastEnd);
    if (right !== undefined && right !== isCopied(entry)) model.summary.wrongIfUnshared++;
    if (reason !== undefined) model.problems.push([table, index, reason, Number(host)]);
    else if (pastEnd) model.problems.push([table, index, InvalidEntry.pastEnd, Number(host)]);
    if (reason !== undefined) return;
    const isZero = isExtended(shape) ? entry.bitmap >> 32n !== 0n : (entry.descriptor & 1n) !== 0n;
    if ((entry.descriptor & compressedFlag) !== 0n) model.summary.compressed++;
    else if (host !== 0n || (entry.descriptor & copiedFlag) !== 0n) {
      model.summary.allocated++;
      if (behind !== undefined && host !== behind) model.summary.fragmented++;
      behind = host + size;
    } else if (isZero) model.summary.zero++;
  });
}

const emptyModel = (): Model => ({
  counts: new Map(),
  summary: { allocated: 0, fragmented: 0, compressed: 0, zero: 0, problems: 0, wrongIfUnshared: 0 },
  problems: [],
});

function expectCounts(counts: ReferenceCounts, model: Model, clusters: number): void {
  const used = [...model.counts].filter(([, count]) => count > 0).sort(([a], [b]) => a - b);
  for (const [cluster, count] of used) expect(counts.get(cluster)).toBe(count);
  const found: number[] = [];
  for (let at = counts.nextUsed(0, clusters); at < clusters; at = counts.nextUsed(at + 1, clusters)) {
    found.push(at);
  }
  expect(found).toEqual(used.map(([cluster]) => cluster));
  expect(counts.usedEnd()).toBe((found.at(-1) ?? -1) + 1);
  expect(counts.isShared()).toBe(used.some(([, count]) => count > 1));
}

const cases = shapes.chain((shape) =>
  fc.record({
    shape: fc.constant(shape),
    clusters: fc.oneof(fc.nat(20), fc.integer({ min: 0, max: 2 ** 20 })),
    tables: fc.array(fc.tuple(entriesOf(shape), fc.constantFrom(1, 2, 200, 70_000, 2 ** 33)), {
      maxLength: 4,
    }),
  }),
);

describe('ReferenceCounts', () => {
  it('counts the references of any tables one at a time', () => {
    fc.assert(
      fc.property(cases, ({ shape, clusters, tables }) => {
        const counts = new native.ReferenceCounts(clusters, shape.clusterBits, plenty);
        const total = emptyModel();
        for (const [entries, times] of tables) {
          const one: Model = { ...emptyModel(), counts: total.counts };
          countTable(one, shape, entries, 0, times, clusters);
          const problems = new Float64Array(problemStride * (entries.length + 1));
          const summary = counts.addL2Table(encode(shape, entries), shape.flags, times, problems);
          expect(summary).toEqual({ ...one.summary, problems: one.problems.length });
          expect(rows(problems, summary.problems, problemStride)).toEqual(one.problems);
        }
        expectCounts(counts, total, clusters);
      }),
      { numRuns: 1500 },
    );
  });

  it('counts many tables on the thread pool, skipping those with no multiplicity', async () => {
    const small = cases.filter(({ shape }) => shape.clusterBits <= 16);
    await fc.assert(
      fc.asyncProperty(small, fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), async (c, skipped) => {
        const { shape, clusters, tables } = c;
        const counts = new native.ReferenceCounts(clusters, shape.clusterBits, plenty);
        const model = emptyModel();
        const size = clusterSize(shape);
        const batch = Buffer.alloc(tables.length * size);
        const times = new Uint32Array(tables.length);
        tables.forEach(([entries, wanted], index) => {
          encode(shape, entries).copy(batch, index * size);
          times[index] = skipped[index] === true ? 0 : Math.min(wanted, 2 ** 32 - 1);
          if (times[index] !== 0) countTable(model, shape, entries, index, times[index] ?? 0, clusters);
        });
        const problems = new Float64Array(problemStride * 300);
        const summary = await counts.addL2Tables(batch, shape.flags, times, problems);
        expect(summary).toEqual({ ...model.summary, problems: model.problems.length });
        expect(rows(problems, summary.problems, problemStride)).toEqual(model.problems);
        expectCounts(counts, model, clusters);
      }),
      { numRuns: 300 },
    );
  });

  it('counts runs of neighbours as it counts clusters one by one, over words, pages and the end of the file', () => {
    const clusters = 70_000;
    const runs = fc.array(
      fc.record({
        first: fc.oneof(
          fc.nat(200),
          fc.integer({ min: 65_300, max: 65_600 }),
          fc.integer({ min: 69_700, max: 70_100 }),
        ),
        length: fc.integer({ min: 1, max: 300 }),
        copied: fc.boolean(),
        times: fc.constantFrom(1, 1, 1, 2, 3, 4, 300),
      }),
      { maxLength: 8 },
    );
    fc.assert(
      fc.property(runs, (tables) => {
        const shape: Shape = { clusterBits: 16, flags: L2Flag.zeroFlag };
        const counts = new native.ReferenceCounts(clusters, shape.clusterBits, plenty);
        const total = emptyModel();
        for (const { first, length, copied, times } of tables) {
          const entries = Array.from({ length }, (_, i) => ({
            // Cluster 0 is the header: an entry with that place has none.
            descriptor: (BigInt(first + i + 1) << 16n) | (copied ? copiedFlag : 0n),
            bitmap: 0n,
          }));
          const one: Model = { ...emptyModel(), counts: total.counts };
          countTable(one, shape, entries, 0, times, clusters);
          const problems = new Float64Array(problemStride * (entries.length + 1));
          const summary = counts.addL2Table(encode(shape, entries), shape.flags, times, problems);
          expect(summary).toEqual({ ...one.summary, problems: one.problems.length });
          expect(rows(problems, summary.problems, problemStride)).toEqual(one.problems);
        }
        expectCounts(counts, total, clusters);
      }),
      { numRuns: 80 },
    );
  });

  it('counts every cluster that a range touches, and tells when some lie past the end', () => {
    const counts = new native.ReferenceCounts(200_000, 16, plenty);
    expect(counts.add(3 * 65536 + 65535, 2, 1)).toBe(true);
    expect(counts.add(4 * 65536, 65536 * 70_000, 2)).toBe(true);
    expect(counts.add(199_999 * 65536, 65537, 1)).toBe(false);
    expect(counts.add(199_998 * 65536, 0, 1)).toBe(true);
    expect([3, 4, 5, 70_003, 70_004, 199_998, 199_999, 200_000].map((at) => counts.get(at))).toEqual([
      1, 3, 2, 2, 0, 0, 1, 0,
    ]);
    expect(counts.nextFree(3, 300_000)).toBe(70_004);
    expect(counts.nextUsed(70_004, 300_000)).toBe(199_999);
    expect(counts.nextFree(199_999, 300_000)).toBe(200_000);
    expect(counts.nextUsed(200_000, 300_000)).toBe(300_000);
  });

  it('counts far past 8, 16 and 32 bits', () => {
    const counts = new native.ReferenceCounts(70_000, 9, plenty);
    let expected = 0;
    for (const times of [1, 254, 1, 65_279, 1, 2 ** 32 - 65_538, 1, 1, 2 ** 50, 0]) {
      counts.add(512 * 65_537, 512, times);
      counts.add(512 * 65_538, 512, 1);
      expected += times;
      expect(counts.get(65_537)).toBe(expected);
    }
    expect(counts.get(65_538)).toBe(10);
    counts.add(512 * 65_537, 512, Number.MAX_SAFE_INTEGER);
    expect(counts.get(65_537)).toBe(Number.MAX_SAFE_INTEGER);
  });

  it('keeps within its limit: a file that claims to be huge, and one that is full of references', () => {
    expect(() => new native.ReferenceCounts(2 ** 40, 16, 2 ** 20)).toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_LIMIT' }),
    );
    const counts = new native.ReferenceCounts(2 ** 24, 16, 2 ** 20);
    const fill = (): void => {
      for (let page = 0; page < 256; page++) counts.add(page * 65536 * 65536, 1, 1);
    };
    expect(fill).toThrow(expect.objectContaining({ code: 'ERR_QCOW2_LIMIT' }));
    expect(counts.get(0)).toBe(1);
    expect(() => counts.extend(2 ** 40)).toThrow(expect.objectContaining({ code: 'ERR_QCOW2_LIMIT' }));
  });

  it('rejects when a batch passes the limit, and can be asked again afterwards', async () => {
    const counts = new native.ReferenceCounts(2 ** 24, 16, 2 ** 17);
    const tables = Buffer.alloc(65536);
    for (let index = 0; index < 8192; index++) tables.writeBigUInt64BE(BigInt(index) << 28n, index * 8);
    await expect(counts.addL2Tables(tables, L2Flag.zeroFlag, Uint32Array.of(1), none)).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_LIMIT' }),
    );
    expect(counts.get(1 << 12)).toBe(1);
  });

  it('grows with the file', () => {
    const counts = new native.ReferenceCounts(10, 16, plenty);
    counts.add(9 * 65536, 65536, 5);
    expect(counts.add(10 * 65536, 65536, 1)).toBe(false);
    counts.extend(200_000);
    expect(counts.add(10 * 65536, 65536, 1)).toBe(true);
    expect(counts.add(199_999 * 65536, 65536, 1)).toBe(true);
    expect([9, 10, 199_999].map((at) => counts.get(at))).toEqual([5, 1, 1]);
  });

  it('writes no more problems than there is room for, but counts them all', () => {
    const table = Buffer.alloc(64, 0xff);
    const counts = new native.ReferenceCounts(10, 16, plenty);
    const problems = new Float64Array(2 * problemStride + 1).fill(-1);
    expect(counts.addL2Table(table, L2Flag.externalData, 1, problems).problems).toBe(8);
    expect(problems[4]).toBe(0);
    expect(problems[5]).toBe(1);
    expect(problems[8]).toBe(-1);
  });

  it('is not to be touched while a batch is under way', async () => {
    const counts = new native.ReferenceCounts(10, 16, plenty);
    const batch = counts.addL2Tables(Buffer.alloc(65536), L2Flag.zeroFlag, Uint32Array.of(1), none);
    const uses = [
      () => counts.get(0),
      () => counts.add(0, 1, 1),
      () => counts.addL2Tables(Buffer.alloc(0), 0, new Uint32Array(0), none),
    ];
    for (const use of uses) expect(use).toThrow(expect.objectContaining({ code: 'ERR_INVALID_STATE' }));
    await batch;
    expect(counts.get(0)).toBe(0);
  });
});

const counted = fc.array(fc.tuple(fc.nat(5000), fc.constantFrom(1, 2, 3, 15, 255, 256, 65_536)), {
  maxLength: 12,
});

/** Counts, and in a plain map what they have to be. */
function countedOf(references: readonly (readonly [cluster: number, times: number])[]): {
  counts: ReferenceCounts;
  wanted: Map<number, number>;
} {
  const counts = new native.ReferenceCounts(4000, 9, plenty);
  const wanted = new Map<number, number>();
  for (const [cluster, times] of references) {
    if (counts.add(cluster * 512, 1, times)) wanted.set(cluster, (wanted.get(cluster) ?? 0) + times);
  }
  return { counts, wanted };
}

describe('ReferenceCounts against refcount blocks', () => {
  it('fills blocks, finds them equal, and then exactly what was changed in them', () => {
    fc.assert(
      fc.property(
        counted,
        fc.nat(6),
        fc.nat(1000),
        fc.array(fc.tuple(fc.nat(), fc.nat(1)), { maxLength: 8 }),
        fc.integer({ min: 1, max: 4 }),
        (references, order, firstCluster, damage, room) => {
          const { counts, wanted } = countedOf(references);
          const entries = 4096 / 2 ** order;
          const most = 2 ** (2 ** order) - 1;
          const block = Buffer.alloc(512, 0xaa);
          const inBlock = (index: number): number => wanted.get(firstCluster + index) ?? 0;
          const tooLarge = Array.from({ length: entries }, (_, index) => index).find(
            (index) => inBlock(index) > most,
          );
          const filled = counts.fillBlock(block, order, firstCluster);
          expect(filled).toBe(tooLarge === undefined ? -1 : firstCluster + tooLarge);
          if (tooLarge !== undefined) return;

          const out = new Float64Array(mismatchStride * room);
          expect(counts.compareBlock(block, order, firstCluster, 0, out)).toBe(0);
          const stored = Array.from({ length: entries }, (_, index) => inBlock(index));
          for (const [at, value] of damage) {
            stored[at % entries] = value;
            native.refcountSet(block, order, at % entries, 1, value);
          }
          const found: number[][] = [];
          for (let first = 0, count = room; count === room;) {
            count = counts.compareBlock(block, order, firstCluster, first, out);
            const runs = rows(out, count, mismatchStride);
            for (const [cluster = 0, length = 0, was, is] of runs) {
              for (let nth = 0; nth < length; nth++) found.push([cluster + nth, was ?? -1, is ?? -1]);
              first = cluster + length - firstCluster;
            }
          }
          const expected = stored.flatMap((value, index) =>
            value === inBlock(index) ? [] : [[firstCluster + index, value, inBlock(index)]],
          );
          expect(found).toEqual(expected);
        },
      ),
      { numRuns: 1500 },
    );
  });

  it('adds its counts to refcounts and takes them off; where one does not fit, none is changed', () => {
    fc.assert(
      fc.property(
        counted,
        fc.nat(6),
        fc.nat(1000),
        fc.array(fc.nat({ max: 300 }), { minLength: 1, maxLength: 8 }),
        fc.boolean(),
        (references, order, firstCluster, stored, subtract) => {
          const { counts, wanted } = countedOf(references);
          const entries = 4096 / 2 ** order;
          const most = 2 ** (2 ** order) - 1;
          const block = Buffer.alloc(512);
          const before = Array.from({ length: entries }, (_, index) =>
            Math.min(most, stored[index % stored.length] ?? 0),
          );
          before.forEach((value, index) => native.refcountSet(block, order, index, 1, value));
          const last = new Float64Array(2 * clusterRunStride);
          const found: number[] = [];
          for (let from = 0, count = 2; count === 2;) {
            count = counts.lastReferences(block, order, firstCluster, from, last);
            for (const [first = 0, length = 0] of rows(last, count, clusterRunStride)) {
              found.push(...Array.from({ length }, (_, nth) => first + nth));
              from = first + length - firstCluster;
            }
          }
          const isLast = (value: number, index: number): boolean =>
            value > 0 && value === wanted.get(firstCluster + index);
          expect(found).toEqual(before.flatMap((value, i) => (isLast(value, i) ? [firstCluster + i] : [])));
          const after = before.map(
            (value, index) => value + (subtract ? -1 : 1) * (wanted.get(firstCluster + index) ?? 0),
          );
          const misfit = after.findIndex((value) => value < 0 || value > most);
          expect(counts.addToBlock(block, order, firstCluster, subtract)).toBe(
            misfit < 0 ? -1 : firstCluster + misfit,
          );
          const expected = misfit < 0 ? after : before;
          expect(expected.map((_, index) => native.refcountGet(block, order, index))).toEqual(expected);

          const again = new native.ReferenceCounts(4000, 9, plenty);
          again.countBlock(block, order, firstCluster);
          expect(expected.map((_, index) => again.get(firstCluster + index))).toEqual(
            expected.map((value, index) => (firstCluster + index < 4000 ? value : 0)),
          );
        },
      ),
      { numRuns: 150 },
    );
  });

  it('tells a million leaked clusters as one run', () => {
    const counts = new native.ReferenceCounts(2 ** 21, 21, plenty);
    const block = Buffer.alloc(2 ** 21);
    native.refcountSet(block, 4, 7, 2 ** 20 - 7, 1);
    const out = new Float64Array(mismatchStride * 2);
    expect(counts.compareBlock(block, 4, 100, 0, out)).toBe(1);
    expect(rows(out, 1, mismatchStride)).toEqual([[107, 2 ** 20 - 7, 1, 0]]);
  });
});

describe('ReferenceCounts against COPIED', () => {
  it('finds exactly the flags that do not go with the counts', () => {
    fc.assert(
      fc.property(cases, fc.integer({ min: 1, max: 3 }), ({ shape, clusters, tables }, room) => {
        const counts = new native.ReferenceCounts(clusters, shape.clusterBits, plenty);
        const model = emptyModel();
        for (const [entries, times] of tables) {
          countTable(model, shape, entries, 0, times, clusters);
          counts.addL2Table(encode(shape, entries), shape.flags, times, none);
        }
        const isOnce = ({ descriptor }: Entry): boolean => {
          const host = descriptor & (2n ** 56n - 512n);
          return model.counts.get(Number(host / BigInt(clusterSize(shape)))) === 1;
        };
        for (const [entries] of tables) {
          const expected = entries.flatMap((entry, index) => {
            const right = rightFlag(shape, entry, isOnce(entry));
            return right === undefined || right === isCopied(entry) ? [] : [[index, right ? 1 : 0]];
          });
          const out = new Float64Array(copiedStride * room);
          const found: number[][] = [];
          for (let first = 0, count = room; count === room; first = (found.at(-1)?.[0] ?? 0) + 1) {
            count = counts.copiedMismatches(encode(shape, entries), shape.flags, first, out);
            found.push(...rows(out, count, copiedStride));
          }
          expect(found).toEqual(expected);
        }
      }),
      { numRuns: 1500 },
    );
  });

  it('corrects those flags, of one kind at a time and in the tables it is told to', async () => {
    const property = fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(200), fc.constantFrom(0, 1, 2)), { maxLength: 60 }),
      fc.array(fc.record({ place: fc.nat(220), copied: fc.boolean(), more: fc.nat(7) }), { maxLength: 40 }),
      fc.boolean(),
      fc.array(fc.constantFrom(0, 1, 3), { minLength: 3, maxLength: 3 }),
      async (references, sketches, toSet, times) => {
        const shape: Shape = { clusterBits: 9, flags: L2Flag.zeroFlag };
        const counts = new native.ReferenceCounts(200, 9, plenty);
        const model = new Map<number, number>();
        for (const [cluster, count] of references) {
          if (counts.add(cluster * 512, 1, count)) model.set(cluster, (model.get(cluster) ?? 0) + count);
        }
        const entries = Array.from({ length: 3 * 64 }, (_, index): Entry => {
          const sketch = sketches[index % Math.max(1, sketches.length)];
          if (sketch === undefined || (index + sketch.more) % 5 === 0) return { descriptor: 0n, bitmap: 0n };
          const place = BigInt((sketch.place + index) % 220) * 512n;
          return { descriptor: place | (sketch.copied ? copiedFlag : 0n), bitmap: 0n };
        });
        const tables = encode(shape, entries);
        const changed = new Float64Array(3 * changedStride);
        let total = 0;
        const ranges = times.map((): number[] => []);
        const expected = entries.map((entry, index) => {
          const table = Math.floor(index / 64);
          const cluster = Number((entry.descriptor & (2n ** 56n - 512n)) / 512n);
          const right = rightFlag(shape, entry, model.get(cluster) === 1);
          if (times[table] === 0 || right !== toSet || isCopied(entry) === toSet) return entry;
          total += times[table] ?? 0;
          ranges[table]?.push(index % 64);
          return { ...entry, descriptor: entry.descriptor ^ copiedFlag };
        });
        const { zeroFlag } = L2Flag;
        const corrected = counts.correctCopied(tables, zeroFlag, Uint32Array.from(times), toSet, changed);
        expect(await corrected).toBe(total);
        expect(tables).toEqual(encode(shape, expected));
        const bytes = ranges.map((found) => [(found[0] ?? 0) * 8, ((found.at(-1) ?? -1) + 1) * 8]);
        expect(rows(changed, 3, changedStride)).toEqual(bytes);
      },
    );
    await fc.assert(property, { numRuns: 200 });
  });

  it('clears all flags of tables', () => {
    fc.assert(
      fc.property(
        fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { minLength: 32, maxLength: 32 }),
        fc.constantFrom(8, 16),
        (words, entrySize) => {
          const tables = Buffer.alloc(256);
          words.forEach((word, index) => tables.writeBigUInt64BE(word, index * 8));
          const isFirst = (index: number): boolean => (index * 8) % entrySize === 0;
          const had = words.map((word, index) => isFirst(index) && word >= copiedFlag);
          const changed = new Float64Array(2 * changedStride);
          native.clearCopied(tables, 128, entrySize, changed);
          const after = words.map((_, index) => tables.readBigUInt64BE(index * 8));
          expect(after).toEqual(words.map((word, index) => (had[index] ? word - copiedFlag : word)));
          const bytes = [had.slice(0, 16), had.slice(16)].map((half) =>
            half.includes(true) ? [half.indexOf(true) * 8, half.lastIndexOf(true) * 8 + entrySize] : [0, 0],
          );
          expect(rows(changed, 2, changedStride)).toEqual(bytes);
        },
      ),
      { numRuns: 200 },
    );
  });
});
