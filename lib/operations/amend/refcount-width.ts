/**
 * Counting references with another number of bits. The new blocks and their table go behind everything there is, where
 * nothing refers to them until the header does:
 *
 *   new blocks, new table | header        (`|` is a barrier)
 *
 * The new counts leave out the old blocks and table, so nothing has to be freed afterwards.
 */
import { Qcow2Error } from '../../errors.js';
import { geometry, maxRefcountTableBytes, tableEntrySize, type Geometry } from '../../format/geometry.js';
import { encodeField, headerFields } from '../../format/header-fields.js';
import { tableView, writeRefcountTableEntry } from '../../format/table-entry.js';
import type { Image } from '../../metadata/image.js';
import { native } from '../../native.js';
import { readExactly } from '../../storage/storage.js';
import type { CheckProgress } from '../check/reader.js';

/** Where the new structure is, in clusters. */
interface Plan {
  readonly first: number;
  readonly blocks: number;
  readonly tableClusters: number;
}

/**
 * Changes the width. Everything has been committed, and the image is opened again afterwards.
 * @param order 0 to 6, for 1 to 64 bits
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when a count does not fit; the image is as before then
 */
export async function changeRefcountWidth(
  image: Image,
  order: number,
  progress: CheckProgress,
): Promise<void> {
  const { storage, committer, header } = image;
  if (order === header.refcountOrder) return;
  const shape = geometry(header.clusterBits, order, header.geometry.extendedL2);
  const fileEnd = await storage.size();
  let plan: Plan;
  try {
    plan = makePlan(await firstUnused(image, fileEnd), shape);
    await writeStructure(image, plan, shape, progress);
  } catch (error) {
    image.fileEnd.forget();
    await storage.truncate(fileEnd);
    throw error;
  }
  const made = plan;
  await committer.exclusive(async () => {
    await committer.barrier();
    await pointHeaderAt(image, made, shape);
    await committer.barrier();
  });
}

/** The first cluster that is neither in the file nor counted, and behind which none is. */
async function firstUnused({ storage, refcounts, geometry: old }: Image, fileEnd: number): Promise<number> {
  const inFile = Math.ceil(fileEnd / old.clusterSize);
  let cluster = refcounts.capacity - 1;
  while (cluster >= inFile) {
    const blockStart = cluster - (cluster % old.refcountBlockEntries);
    const offset = refcounts.blockOffset(cluster);
    if (offset !== 0) {
      const block = new Uint8Array(old.clusterSize);
      await readExactly(storage, block, offset, 'the refcount block');
      for (let at = cluster; at >= blockStart; at--) {
        if (native.refcountGet(block, old.refcountOrder, at - blockStart) !== 0)
          return Math.max(inFile, at + 1);
      }
    }
    cluster = blockStart - 1;
  }
  return inFile;
}

function makePlan(first: number, shape: Geometry): Plan {
  const perTable = shape.clusterSize / tableEntrySize;
  let plan: Plan = { first, blocks: 1, tableClusters: 1 };
  for (;;) {
    const clusters = first + plan.blocks + plan.tableClusters;
    const blocks = Math.ceil(clusters / shape.refcountBlockEntries);
    const tableClusters = Math.ceil(blocks / perTable);
    if (tableClusters * shape.clusterSize > maxRefcountTableBytes) {
      throw new Qcow2Error(
        'ERR_QCOW2_LIMIT',
        `Refcounts of ${shape.refcountBits} bits for a file of ${clusters} clusters need a refcount table of more than ` +
          `${maxRefcountTableBytes} bytes`,
        { feature: 'refcount table' },
      );
    }
    if (blocks === plan.blocks && tableClusters === plan.tableClusters) return plan;
    plan = { first, blocks, tableClusters };
  }
}

async function writeStructure(
  image: Image,
  plan: Plan,
  shape: Geometry,
  progress: CheckProgress,
): Promise<void> {
  const { storage } = image;
  const { clusterSize, refcountBlockEntries } = shape;
  const old = new OldRefcounts(image);
  const table = new Uint8Array(plan.tableClusters * clusterSize);
  const view = tableView(table);
  progress.expect(plan.blocks);
  for (let index = 0; index < plan.blocks; index++) {
    progress.step(1);
    const block = new Uint8Array(clusterSize);
    const start = index * refcountBlockEntries;
    const end = start + refcountBlockEntries;
    await old.visit(start, Math.min(end, plan.first), (first, count, value) => {
      if (value > shape.maxRefcount) throw tooLarge(first, value, shape);
      native.refcountSet(block, shape.refcountOrder, first - start, count, value);
    });
    const from = Math.max(start, plan.first);
    const to = Math.min(end, plan.first + plan.blocks + plan.tableClusters);
    if (from < to) native.refcountSet(block, shape.refcountOrder, from - start, to - from, 1);
    const place = (plan.first + index) * clusterSize;
    await storage.write(block, place);
    writeRefcountTableEntry(view, index, place);
  }
  await storage.write(table, (plan.first + plan.blocks) * clusterSize);
}

/** The counts as they are in the file, but without the clusters that only hold them. */
class OldRefcounts {
  readonly #image: Image;
  readonly #own = new Set<number>();
  #blockOffset = 0;
  readonly #block: Uint8Array;

  constructor(image: Image) {
    const { refcounts, geometry: shape } = image;
    this.#image = image;
    this.#block = new Uint8Array(shape.clusterSize);
    for (const offset of refcounts.blocks()) this.#own.add(offset / shape.clusterSize);
    const table = refcounts.tableOffset / shape.clusterSize;
    for (let i = 0; i * shape.clusterSize < refcounts.tableBytes.length; i++) this.#own.add(table + i);
  }

  /** Calls back with runs of equal counts other than 0 in clusters [start, end). */
  async visit(
    start: number,
    end: number,
    use: (first: number, count: number, value: number) => void,
  ): Promise<void> {
    const { refcountBlockEntries } = this.#image.geometry;
    for (let at = start; at < end;) {
      const blockStart = at - (at % refcountBlockEntries);
      const stop = Math.min(end, blockStart + refcountBlockEntries);
      if (await this.#read(at)) this.#visitBlock(blockStart, at, stop, use);
      at = stop;
    }
  }

  /** Reads the block of a cluster; false where there is none. */
  async #read(cluster: number): Promise<boolean> {
    const { storage, refcounts } = this.#image;
    const offset = refcounts.blockOffset(cluster);
    if (offset === 0) return false;
    if (offset === this.#blockOffset) return true;
    await readExactly(storage, this.#block, offset, 'the refcount block');
    this.#blockOffset = offset;
    return true;
  }

  #visitBlock(
    blockStart: number,
    start: number,
    end: number,
    use: (first: number, count: number, value: number) => void,
  ): void {
    const { refcountOrder } = this.#image.geometry;
    const countOf = (cluster: number): number => {
      const value = native.refcountGet(this.#block, refcountOrder, cluster - blockStart);
      return this.#own.has(cluster) ? value - 1 : value;
    };
    let first = start;
    let value = countOf(start);
    for (let at = start + 1; at <= end; at++) {
      const next = at < end ? countOf(at) : -1;
      if (next === value) continue;
      if (value > 0) use(first, at - first, value);
      first = at;
      value = next;
    }
  }
}

function tooLarge(cluster: number, value: number, { clusterSize, refcountBits }: Geometry): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_LIMIT',
    `The cluster at offset ${cluster * clusterSize} has the refcount ${value}, which ${refcountBits} bits cannot hold; ` +
      'delete snapshots first or use wider refcounts',
    { offset: cluster * clusterSize, feature: 'refcount_order' },
  );
}

/** Table and width change in one write, which lies within a sector. */
async function pointHeaderAt({ storage }: Image, plan: Plan, shape: Geometry): Promise<void> {
  const { refcountTableOffset, refcountTableClusters, refcountOrder } = headerFields;
  const start = refcountTableOffset.offset;
  const bytes = new Uint8Array(refcountOrder.offset + refcountOrder.size - start);
  await readExactly(storage, bytes, start, 'the header');
  bytes.set(encodeField('refcountTableOffset', (plan.first + plan.blocks) * shape.clusterSize), 0);
  bytes.set(encodeField('refcountTableClusters', plan.tableClusters), refcountTableClusters.offset - start);
  bytes.set(encodeField('refcountOrder', shape.refcountOrder), refcountOrder.offset - start);
  await storage.write(bytes, start);
}
