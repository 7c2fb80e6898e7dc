/**
 * A compressed stream. Its header comes first and says where the tables are, and these where data is, which depends on how small
 * all that lies before gets. So everything is read and compressed twice: the first time only to learn the place of each L2
 * table, one number for each, and with them the length; the second time for the stream. Nothing is put aside on a disk.
 */
import type { Disk } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import type { Geometry } from '../format/geometry.js';
import { readL1Entry, tableView, writeL1Entry, writeRefcountTableEntry } from '../format/table-entry.js';
import { compressClusters } from '../io/codec.js';
import { native } from '../native.js';
import { firstCluster, type Layout } from '../operations/create.js';
import { inOrder } from '../operations/in-order.js';
import type { Announce } from './byte-source.js';
import { nonZeroRuns, readClusters, type ClusterChunk, type Contents } from './contents.js';
import { Packing } from './packing.js';
import { tablePlaces, usedTables, type Places } from './places.js';
import { l2FlagsFor } from './tables.js';

/** Chunks compressed at once. */
const chunksAtOnce = 4;

export interface CompressedImage {
  readonly disk: Disk;
  readonly contents: Contents;
  readonly layout: Layout;
  readonly shape: Geometry;
  readonly places: Places;
  readonly level: number | undefined;
  /** Whether clusters of zeros are stored, too: where a backing file would show, and the version cannot say zeros. */
  readonly storesZeros: boolean;
  readonly signal: AbortSignal;
}

/**
 * The L1 table right behind the refcount table, and the data behind that.
 * @param most where everything would be if nothing got smaller: more refcounts are never needed
 */
export function compressedPlaces(most: Places): Places {
  const l1 = most.refcountBlocks;
  return { ...most, l1, l2: l1 + most.l2 - most.l1 };
}

/** What is learned the first time. */
interface Learned {
  /** The L1 table. */
  readonly l1: Uint8Array;
  readonly blocks: readonly number[];
  /** Clusters of the whole stream. */
  readonly end: number;
}

export async function* compressedImage(
  image: CompressedImage,
  announce: Announce,
): AsyncGenerator<Uint8Array> {
  const learned = await learn(image);
  announce(learned.end * image.shape.clusterSize);
  yield* front(image, learned);
  const view = tableView(learned.l1);
  const { end } = yield* packed(image, (table, place) => {
    requireSame(readL1Entry(view, table, image.shape.clusterSize), place * image.shape.clusterSize);
  });
  // Tables that have nothing to describe any more are not there.
  requireSame(learned.end, end);
}

function requireSame(first: number, second: number): void {
  if (first === second) return;
  throw new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    'The disk has changed while it was streamed: compressed, it is read twice. Stream a snapshot, or a disk at rest',
    { feature: 'compress' },
  );
}

async function learn(image: CompressedImage): Promise<Learned> {
  const { places, shape } = image;
  const l1 = new Uint8Array((places.l2 - places.l1) * shape.clusterSize);
  const view = tableView(l1);
  const bytes = packed(image, (table, place) => writeL1Entry(view, table, place * shape.clusterSize, true));
  for (;;) {
    const { done, value } = await bytes.next();
    if (done === true) return { l1, ...value };
  }
}

function* front(
  { contents, layout, shape, places }: CompressedImage,
  { l1, blocks }: Learned,
): Generator<Uint8Array> {
  yield firstCluster(layout, 'final', tablePlaces(contents, shape, places), null);
  const table = new Uint8Array((places.refcountBlocks - places.refcountTable) * shape.clusterSize);
  const view = tableView(table);
  for (const [index, place] of blocks.entries())
    writeRefcountTableEntry(view, index, place * shape.clusterSize);
  yield table;
  if (l1.length > 0) yield l1;
}

/**
 * Everything behind the L1 table.
 * @param onTable is told the cluster of each L2 table
 */
async function* packed(
  image: CompressedImage,
  onTable: (table: number, place: number) => void,
): AsyncGenerator<Uint8Array, Pick<Learned, 'blocks' | 'end'>> {
  const { contents, shape, places } = image;
  const packing = new Packing(shape, places.l2);
  for (const table of usedTables(contents, shape, 0, Infinity)) {
    const bytes = new Uint8Array(shape.clusterSize);
    for await (const chunk of compressedChunks(image, table)) {
      packChunk(packing, image, bytes, chunk, table * shape.l2Entries);
      yield* packing.take();
    }
    packing.close();
    markZeros(image, bytes, table);
    // All that the tables of the source called data may have been zeros.
    if (!native.isZero(bytes)) onTable(table, packing.table(bytes));
    yield* packing.take();
  }
  const end = packing.end();
  yield* packing.take();
  return { blocks: packing.blocks, end };
}

/** Clusters of a chunk that are not zeros, one behind the other. */
interface Encoded extends ClusterChunk {
  readonly indexes: readonly number[];
  /** What each has become; null: it stays as it is. */
  readonly streams: readonly (Uint8Array | null)[];
}

function compressedChunks(image: CompressedImage, table: number): AsyncGenerator<Encoded> {
  const { disk, contents, shape, layout, level, storesZeros, signal } = image;
  const { clusterSize, l2Entries } = shape;
  const end = Math.min(contents.stored.length, (table + 1) * l2Entries);
  const chunks = readClusters(disk, contents.stored, table * l2Entries, end, signal);
  return inOrder(chunks, chunksAtOnce, async ({ first, bytes }) => {
    const all = [{ first: 0, end: bytes.length / clusterSize }];
    const runs = storesZeros ? all : nonZeroRuns(bytes, clusterSize);
    const indexes = runs.flatMap((run) =>
      Array.from({ length: run.end - run.first }, (_, at) => run.first + at),
    );
    const streams: (Uint8Array | null)[] = [];
    for (const run of runs) {
      const part = bytes.subarray(run.first * clusterSize, run.end * clusterSize);
      streams.push(...(await compressClusters(layout.compressionType, level, part, clusterSize)));
    }
    return { first, bytes, indexes, streams };
  });
}

/** @param firstInTable the cluster that the first entry of the table is for */
function packChunk(
  packing: Packing,
  { layout, shape, contents }: CompressedImage,
  table: Uint8Array,
  { first, bytes, indexes, streams }: Encoded,
  firstInTable: number,
): void {
  const { clusterSize, clusterBits } = shape;
  const flags = l2FlagsFor(layout.version, shape);
  const isThere = new Set(indexes);
  for (const [at, index] of indexes.entries()) {
    const entry = first + index - firstInTable;
    const stream = streams[at] ?? null;
    if (stream !== null) {
      native.l2SetCompressed(table, flags, clusterBits, entry, packing.pack(stream), stream.length);
    } else {
      packing.store(bytes.subarray(index * clusterSize, (index + 1) * clusterSize), (host) =>
        native.l2SetData(table, flags, clusterBits, entry * clusterSize, clusterSize, host),
      );
    }
  }
  if (contents.zero === null) return;
  for (let index = 0; index < bytes.length / clusterSize; index += 1) {
    if (isThere.has(index)) continue;
    native.l2SetZero(
      table,
      flags,
      clusterBits,
      (first + index - firstInTable) * clusterSize,
      clusterSize,
      false,
    );
  }
}

function markZeros({ contents, layout, shape }: CompressedImage, bytes: Uint8Array, table: number): void {
  const { clusterSize, clusterBits, l2Entries } = shape;
  const first = table * l2Entries;
  const end = Math.min(contents.stored.length, first + l2Entries);
  for (const run of contents.zero?.runs(first, end) ?? []) {
    const length = (run.end - run.first) * clusterSize;
    native.l2SetZero(
      bytes,
      l2FlagsFor(layout.version, shape),
      clusterBits,
      (run.first - first) * clusterSize,
      length,
      false,
    );
  }
}
