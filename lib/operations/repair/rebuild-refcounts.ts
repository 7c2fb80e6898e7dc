/**
 * Making refcount table and blocks anew from what the image refers to. They are written behind everything else in the
 * file, so that a crash before the header points to them leaves the image as it was:
 *
 *   new blocks, new table | header | from here on the old table and blocks are free        (`|` is a barrier)
 */
import { Qcow2Error } from '../../errors.js';
import { maxRefcountTableBytes, tableEntrySize } from '../../format/geometry.js';
import { tableView, writeRefcountTableEntry } from '../../format/table-entry.js';
import { hex } from '../../format/text.js';
import { hostOffset } from '../../format/units.js';
import type { Image } from '../../metadata/image.js';
import type { ReferenceCounts } from '../../native.js';
import { CheckContext } from '../check/context.js';
import { Findings } from '../check/findings.js';
import type { CheckProgress } from '../check/reader.js';
import { countReferences } from '../check/references.js';
import type { CheckOptions } from '../check/report.js';

const batchBytes = 1024 * 1024;

/** Where everything goes: blocks first, the table behind them, from cluster `first` on. */
interface Layout {
  readonly first: number;
  /** The blocks that are needed, by their number in the table. */
  readonly blocks: readonly number[];
  readonly tableClusters: number;
}

/**
 * Counts what the image refers to without its refcount table and blocks.
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when something that refers to clusters cannot be read
 */
export async function countForRebuild(
  image: Image,
  options: CheckOptions,
  progress: CheckProgress,
): Promise<CheckContext> {
  const context = await CheckContext.of(image, new Findings(), progress, options);
  await countReferences(context, { refcountStructure: false });
  if (context.incomplete) throw incomplete(image, context);
  return context;
}

/**
 * Makes what {@link countForRebuild} counted the image's refcounts, durably. Nothing may wait in memory, and nothing may
 * change the image meanwhile. COPIED flags are not touched.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when a count does not fit into the image's refcount_bits or the table would be too
 * large; the image is as before then
 */
export async function rebuildRefcountStructure({ image, counts, clusters }: CheckContext): Promise<void> {
  const layout = planLayout(image, counts, clusters);
  const { clusterSize } = image.geometry;
  const length = layout.blocks.length + layout.tableClusters;
  counts.extend(layout.first + length);
  counts.add(layout.first * clusterSize, length * clusterSize, 1);
  const table = await writeStructure(image, counts, layout);
  const offset = hostOffset((layout.first + layout.blocks.length) * clusterSize);
  await image.committer.decisive(async () => {
    await image.patchHeader({ refcountTableOffset: offset, refcountTableClusters: layout.tableClusters });
    await image.committer.barrier();
    image.refcounts.replaceTable(table, offset);
    await image.reloadHeader();
  });
  forgetOldRefcounts(image);
}

/** Drops what is in memory of refcounts that were changed in the file. */
export function forgetOldRefcounts({ refcounts, reserved, allocator }: Image): void {
  refcounts.cache.forgetClean();
  reserved.forgetTables();
  allocator.rescan();
}

function incomplete(image: Image, { findings }: CheckContext): Qcow2Error {
  const [first] = findings.kept.filter(({ severity }) => severity === 'error');
  return new Qcow2Error(
    'ERR_QCOW2_CORRUPT',
    `The refcounts of ${image.storage.name} cannot be rebuilt, as not everything that refers to clusters can be read` +
      (first === undefined ? '' : `: ${first.message}`),
    { feature: 'refcounts' },
  );
}

function planLayout({ geometry }: Image, counts: ReferenceCounts, clusters: number): Layout {
  const { clusterSize, refcountBlockEntries } = geometry;
  const used = usedBlocks(counts, clusters, refcountBlockEntries);
  for (let length = 1; ;) {
    const blocks = new Set(used);
    const lastBlock = Math.floor((clusters + length - 1) / refcountBlockEntries);
    for (let index = Math.floor(clusters / refcountBlockEntries); index <= lastBlock; index++)
      blocks.add(index);
    const tableClusters = Math.ceil(((lastBlock + 1) * tableEntrySize) / clusterSize);
    if (tableClusters * clusterSize > maxRefcountTableBytes) throw tooLarge(clusters * clusterSize);
    const next = blocks.size + tableClusters;
    if (next <= length) {
      return { first: clusters, blocks: [...blocks].sort((a, b) => a - b), tableClusters };
    }
    length = next;
  }
}

/** The numbers of the blocks that have something to count. */
function usedBlocks(counts: ReferenceCounts, clusters: number, entries: number): number[] {
  const blocks: number[] = [];
  for (let at = counts.nextUsed(0, clusters); at < clusters;) {
    const index = Math.floor(at / entries);
    blocks.push(index);
    const next = (index + 1) * entries;
    at = next < clusters ? counts.nextUsed(next, clusters) : clusters;
  }
  return blocks;
}

/** Writes blocks and table, durably. Returns the table. */
async function writeStructure(
  { geometry, storage, committer }: Image,
  counts: ReferenceCounts,
  { first, blocks, tableClusters }: Layout,
): Promise<Uint8Array> {
  const { clusterSize, refcountBlockEntries, refcountOrder, refcountBits } = geometry;
  const table = new Uint8Array(tableClusters * clusterSize);
  const view = tableView(table);
  const perBatch = Math.max(1, batchBytes / clusterSize);
  for (let from = 0; from < blocks.length; from += perBatch) {
    const batch = blocks.slice(from, from + perBatch);
    const bytes = new Uint8Array(batch.length * clusterSize);
    batch.forEach((index, i) => {
      const block = bytes.subarray(i * clusterSize, (i + 1) * clusterSize);
      const tooOften = counts.fillBlock(block, refcountOrder, index * refcountBlockEntries);
      if (tooOften >= 0) throw doesNotFit(tooOften * clusterSize, counts.get(tooOften), refcountBits);
      writeRefcountTableEntry(view, index, (first + from + i) * clusterSize);
    });
    await storage.write(bytes, (first + from) * clusterSize);
  }
  await storage.write(table, (first + blocks.length) * clusterSize);
  await committer.barrier();
  return table;
}

function doesNotFit(offset: number, count: number, refcountBits: number): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_LIMIT',
    `The cluster at ${hex(offset)} is referenced ${count} times, more than refcounts of ${refcountBits} bits can count`,
    { offset, feature: 'refcount_bits' },
  );
}

function tooLarge(bytes: number): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_LIMIT',
    `An image file of ${bytes} bytes needs a refcount table of more than ${maxRefcountTableBytes} bytes`,
    { feature: 'refcount table' },
  );
}
