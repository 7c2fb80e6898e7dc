/** The native core on images that QEMU made: same map, same refcounts, same COPIED flags, same statistics. */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { L2Flag, mismatchStride, native, problemStride, runStride, RunKind } from '../../lib/native.js';
import { qemuCheck, qemuImg, qemuIo, qemuMap } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const size = 20 * 2 ** 20;
const offsetMask = 2n ** 56n - 512n;

/** A stretch of the guest disk, in the terms that both sides know. */
interface Stretch {
  start: number;
  length: number;
  data: boolean;
  /** Undefined for what has no place that could be read directly: holes and compressed clusters. */
  host: number | undefined;
}

function append(stretches: Stretch[], next: Stretch): void {
  const last = stretches.at(-1);
  const contiguous =
    last?.host === undefined || next.host === undefined
      ? last?.host === next.host
      : last.host + last.length === next.host;
  if (last !== undefined && last.data === next.data && contiguous) last.length += next.length;
  else stretches.push({ ...next });
}

const placed: readonly number[] = [RunKind.data, RunKind.zeroAllocated, RunKind.unallocatedInCluster];

/** An image in memory, taken apart by hand as far as the native functions need it. */
class Image {
  readonly #bytes: Buffer;
  readonly #extended: boolean;
  readonly clusterBits: number;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.clusterBits = bytes.readUInt32BE(20);
    this.#extended = (bytes.readBigUInt64BE(72) & 16n) !== 0n;
  }

  get clusterSize(): number {
    return 2 ** this.clusterBits;
  }
  get flags(): number {
    return L2Flag.zeroFlag | L2Flag.ignoreCopied | (this.#extended ? L2Flag.extended : 0);
  }
  get entries(): number {
    return this.clusterSize / (this.#extended ? 16 : 8);
  }

  cluster(offset: number): Buffer {
    return this.#bytes.subarray(offset, offset + this.clusterSize);
  }
  table(at: number, entries: number): number[] {
    return Array.from({ length: entries }, (_, index) =>
      Number(this.#bytes.readBigUInt64BE(at + index * 8) & offsetMask),
    );
  }
  get l1(): { at: number; tables: number[] } {
    const at = Number(this.#bytes.readBigUInt64BE(40));
    return { at, tables: this.table(at, this.#bytes.readUInt32BE(36)) };
  }
  get refcountTable(): { at: number; clusters: number; blocks: number[] } {
    const at = Number(this.#bytes.readBigUInt64BE(48));
    const clusters = this.#bytes.readUInt32BE(56);
    return { at, clusters, blocks: this.table(at, (clusters * this.clusterSize) / 8) };
  }

  map(): Stretch[] {
    const stretches: Stretch[] = [];
    const out = new Float64Array(runStride * 32 * this.entries);
    let start = 0;
    for (const table of this.l1.tables) {
      const l2 = table === 0 ? Buffer.alloc(this.clusterSize) : this.cluster(table);
      const count = native.mapL2(l2, this.flags, this.clusterBits, 0, this.entries, out);
      for (let run = 0; run < count; run++) {
        const [kind = 0, covers = 0, host = 0] = out.subarray(run * runStride);
        const length = Math.min(covers, size - start);
        const data = kind === RunKind.data || kind === RunKind.compressed;
        if (length > 0)
          append(stretches, { start, length, data, host: placed.includes(kind) ? host : undefined });
        start += length;
      }
    }
    return stretches;
  }
}

const images: [options: string][] = [
  ['cluster_size=512'],
  ['cluster_size=4k,refcount_bits=1'],
  ['cluster_size=64k'],
  ['cluster_size=64k,extended_l2=on'],
  ['cluster_size=2M,refcount_bits=64'],
];

const history = [
  'write -P 1 0 100k',
  'write -P 2 300k 7k',
  'write -z 320k 64k',
  'write -P 3 1M 256k',
  'write -z 1100k 10k',
  'discard 1200k 64k',
  'write -c -P 5 4M 2M',
  'write -P 6 5000k 70k',
  'write -z -u 2M 1M',
];

describe.each(images)('an image of QEMU with %s', (options) => {
  it('is mapped, counted and flagged as QEMU says', async () => {
    const file = temp('image.qcow2');
    await qemuImg(['create', '-f', 'qcow2', '-o', options, file, String(size)]);
    await qemuIo(file, history);
    const bytes = await readFile(file);
    const image = new Image(bytes);

    const expected: Stretch[] = [];
    for (const { start, length, data, offset } of await qemuMap(file)) {
      append(expected, { start, length, data, host: offset });
    }
    expect(image.map()).toEqual(expected);

    const { clusterSize, clusterBits, flags } = image;
    const counts = new native.ReferenceCounts(Math.ceil(bytes.length / clusterSize), clusterBits, 2 ** 24);
    counts.add(0, clusterSize, 1);
    const { l1, refcountTable } = image;
    counts.add(l1.at, l1.tables.length * 8, 1);
    counts.add(refcountTable.at, refcountTable.clusters * clusterSize, 1);
    const blocks = refcountTable.blocks.flatMap((at, index) => (at === 0 ? [] : [{ at, index }]));
    for (const { at } of blocks) counts.add(at, clusterSize, 1);
    const problems = new Float64Array(problemStride);
    const total = { allocated: 0, fragmented: 0, compressed: 0 };
    const tables = l1.tables.filter((at) => at !== 0);
    for (const at of tables) {
      counts.add(at, clusterSize, 1);
      const summary = counts.addL2Table(image.cluster(at), flags, 1, problems);
      expect(summary.problems).toBe(0);
      total.allocated += summary.allocated;
      total.fragmented += summary.fragmented;
      total.compressed += summary.compressed;
    }

    const order = bytes.readUInt32BE(96);
    const perBlock = (clusterSize * 8) / 2 ** order;
    const out = new Float64Array(mismatchStride);
    for (const { at, index } of blocks) {
      expect(counts.compareBlock(image.cluster(at), order, index * perBlock, 0, out)).toBe(0);
    }
    for (const at of tables) expect(counts.copiedMismatches(image.cluster(at), flags, 0, out)).toBe(0);

    const judged = await qemuCheck(file);
    expect(total.allocated + total.compressed).toBe(judged['allocated-clusters'] ?? 0);
    expect(total.fragmented + total.compressed).toBe(judged['fragmented-clusters'] ?? 0);
    expect(total.compressed).toBe(judged['compressed-clusters'] ?? 0);
  });
});
