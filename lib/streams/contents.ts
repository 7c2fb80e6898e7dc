/** What goes into a stream: which clusters of the disk are stored, which are told to be zeros, and reading them in order. */
import type { Disk } from '../disk.js';
import { alignUp } from '../format/units.js';
import { BlockSet, type ByteRun } from '../operations/block-set.js';
import { inOrder } from '../operations/jobs/in-order.js';
import { storedBlocks } from '../operations/stored-blocks.js';
import { native } from '../native.js';

export interface Contents {
  /** Virtual size, bytes. */
  readonly size: number;
  /** The clusters whose bytes are in the stream. */
  readonly stored: BlockSet;
  /** The clusters that are said to read as zeros, whatever a backing file has there; null: none. */
  readonly zero: BlockSet | null;
}

export interface Choice {
  readonly clusterSize: number;
  /** Only these bytes of the disk go into the stream; all of it when null. */
  readonly changes: AsyncIterable<ByteRun> | Iterable<ByteRun> | null;
  /** Whether the stream can say of a cluster that it reads as zeros: version 3. */
  readonly canTellZero: boolean;
  /** Reads all that would be stored, to leave out clusters of zeros. */
  readonly scanZeros: boolean;
  readonly signal: AbortSignal | undefined;
}

/** Bytes of a read, unless clusters are larger. */
const chunkBytes = 1024 * 1024;
/** Reads under way at once. */
const readAhead = 4;

/** Chooses from a disk what its tables say, without reading data unless asked to. */
export async function chooseContents(disk: Disk, choice: Choice): Promise<Contents> {
  const { clusterSize, changes, canTellZero, scanZeros, signal } = choice;
  const op = signal === undefined ? {} : { signal };
  const contents =
    changes === null
      ? { size: disk.size, stored: await storedBlocks(disk, clusterSize, op), zero: null }
      : await chooseChanges(disk, await BlockSet.from(changes, disk.size, clusterSize, op), choice);
  // Without zero entries a change to zeros has to be stored.
  if (scanZeros && (contents.zero !== null || changes === null)) await dropZeros(disk, contents, signal);
  return canTellZero ? contents : { ...contents, zero: null };
}

async function chooseChanges(
  disk: Disk,
  changed: BlockSet,
  { clusterSize, canTellZero, signal }: Choice,
): Promise<Contents> {
  if (!canTellZero) return { size: disk.size, stored: changed, zero: null };
  const stored = await storedBlocks(disk, clusterSize, signal === undefined ? {} : { signal });
  stored.intersect(changed);
  changed.subtract(stored);
  return { size: disk.size, stored, zero: changed };
}

/** Takes clusters of zeros out of what is stored. */
async function dropZeros(
  disk: Disk,
  { stored, zero }: Contents,
  signal: AbortSignal | undefined,
): Promise<void> {
  const found = stored.clone();
  for await (const { first, bytes } of readClusters(disk, stored, 0, stored.length, signal)) {
    for (const run of nonZeroRuns(bytes, stored.blockSize)) found.delete(first + run.first, first + run.end);
  }
  stored.subtract(found);
  zero?.unite(found);
}

/** The runs of clusters in `bytes` that are not all zeros. */
export function nonZeroRuns(bytes: Uint8Array, clusterSize: number): { first: number; end: number }[] {
  const ends = new Float64Array(Math.ceil(bytes.length / clusterSize) + 2);
  const count = native.zeroRuns(bytes, clusterSize, ends);
  const runs: { first: number; end: number }[] = [];
  let start = 0;
  for (let i = 0; i < count; i++) {
    const end = ends[i] ?? 0;
    if (i % 2 === 0 && end > start) runs.push({ first: start / clusterSize, end: end / clusterSize });
    start = end;
  }
  return runs;
}

/** Whole clusters as they were read; what lies past the end of the disk is zeros. */
export interface ClusterChunk {
  /** Index of the first cluster. */
  readonly first: number;
  readonly bytes: Uint8Array;
}

/** Reads the clusters [first, end) that are in a set, in order, a few reads ahead of the consumer. */
export function readClusters(
  disk: Disk,
  clusters: BlockSet,
  first: number,
  end: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<ClusterChunk> {
  const { blockSize: clusterSize, size } = clusters;
  return inOrder(pieces(clusters, first, end), readAhead, async (piece) => {
    signal?.throwIfAborted();
    const start = piece.first * clusterSize;
    const bytes = Buffer.allocUnsafe((piece.end - piece.first) * clusterSize);
    const there = Math.min(bytes.length, size - start);
    await disk.read(bytes.subarray(0, there), start);
    bytes.fill(0, there);
    return { first: piece.first, bytes };
  });
}

async function* pieces(
  clusters: BlockSet,
  first: number,
  end: number,
): AsyncGenerator<{ first: number; end: number }> {
  const most = alignUp(chunkBytes, clusters.blockSize) / clusters.blockSize;
  for (const run of clusters.runs(first, end)) {
    for (let at = run.first; at < run.end; at += most) {
      yield { first: at, end: Math.min(run.end, at + most) };
    }
  }
  await Promise.resolve();
}
