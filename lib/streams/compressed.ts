/**
 * A compressed stream. Its header comes first and says where the tables are, and these where data is, which depends on how small
 * all that lies before gets. So everything is read and compressed twice: the first time only to learn the places of the L2
 * tables, and with them the length; the second time for the stream. As many tables as are kept in memory come before the data that
 * they describe, so that whoever restores it needs to put nothing aside; the others come behind it. Nothing is put aside on a disk.
 */
import type { Disk } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import type { Geometry } from '../format/geometry.js';
import { readL1Entry, tableView, writeL1Entry, writeRefcountTableEntry } from '../format/table-entry.js';
import { compressClusters } from '../io/codec.js';
import { native } from '../native.js';
import { firstCluster, type Layout } from '../operations/create.js';
import { inOrder } from '../operations/jobs/in-order.js';
import type { Announce } from './byte-source.js';
import { nonZeroRuns, readClusters, type ClusterChunk, type Contents } from './contents.js';
import { Packing } from './packing.js';
import { tablePlaces, usedTables, type Places } from './places.js';
import { l2FlagsFor } from './tables.js';

/** Of L2 tables that are kept, bytes: with clusters of 64 KiB, those of 512 GiB. */
const maxKeptBytes = 64 * 1024 * 1024;
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
  /** L2 tables by their L1 entries: those that come before their data. */
  readonly tables: ReadonlyMap<number, Uint8Array>;
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
  const { end } = yield* packed(image, {
    early: (table) => learned.tables.get(table),
    found: (table, place, bytes) => {
      requireSame(readL1Entry(view, table, image.shape.clusterSize), place * image.shape.clusterSize);
      requireSame(Buffer.compare(learned.tables.get(table) ?? bytes, bytes), 0);
    },
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
  const tables = new Map<number, Uint8Array>();
  const unknown = new Uint8Array(shape.clusterSize);
  const bytes = packed(image, {
    early: () => ((tables.size + 1) * shape.clusterSize <= maxKeptBytes ? unknown : undefined),
    found: (table, place, content, isEarly) => {
      writeL1Entry(view, table, place * shape.clusterSize, true);
      if (isEarly) tables.set(table, content);
    },
  });
  for (;;) {
    const { done, value } = await bytes.next();
    if (done === true) return { l1, tables, ...value };
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

interface TableUse {
  /** The bytes to be sent for a table before its data, right or not; undefined when it comes behind that. */
  readonly early: (table: number) => Uint8Array | undefined;
  /** Told the cluster of a table, and its bytes. */
  readonly found: (table: number, place: number, bytes: Uint8Array, isEarly: boolean) => void;
}

/** Everything behind the L1 table. */
async function* packed(
  image: CompressedImage,
  { early, found }: TableUse,
): AsyncGenerator<Uint8Array, Pick<Learned, 'blocks' | 'end'>> {
  const { contents, shape, places } = image;
  const packing = new Packing(shape, places.l2);
  for (const table of usedTables(contents, shape, 0, Infinity)) {
    const bytes = new Uint8Array(shape.clusterSize);
    let place: number | undefined;
    for await (const chunk of compressedChunks(image, table)) {
      // Not before it is sure that there is data to be described.
      if (place === undefined && chunk.indexes.length > 0) {
        const ahead = early(table);
        if (ahead !== undefined) place = packing.table(ahead);
      }
      packChunk(packing, image, bytes, chunk, table * shape.l2Entries);
      yield* packing.take();
    }
    packing.close();
    markZeros(image, bytes, table);
    // All that the tables of the source called data may have been zeros.
    if (place !== undefined) found(table, place, bytes, true);
    else if (!native.isZero(bytes)) found(table, packing.table(bytes), bytes, false);
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
