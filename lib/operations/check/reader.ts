/** Reading an image's tables for a check: scattered clusters in batches, the next batch under way while one is worked on. */
import { pageBytes } from '../../storage/page-bytes.js';
import { settleAll } from '../../storage/settle.js';
import { readPadded, type Storage } from '../../storage/storage.js';
import type { CheckOptions } from './report.js';

const batchBytes = 2 * 1024 * 1024;
const maxInFlight = 32;

/**
 * Clusters of the file, one behind the other in `bytes`, in the order of their offsets in `offsets`. The memory is used again
 * for the next batch but one.
 */
export interface ClusterBatch {
  readonly offsets: Float64Array;
  readonly bytes: Uint8Array;
  /** The clusters that could not be read, by their index in the batch, and why. */
  readonly failures: ReadonlyMap<number, unknown>;
  /** Index of the first in the whole list. */
  readonly first: number;
}

/** Tells how far a check has come, and stops it when its caller wants that. */
export class CheckProgress {
  readonly #signal: AbortSignal | undefined;
  readonly #onProgress: CheckOptions['onProgress'];
  #done = 0;
  #total = 0;

  constructor({ signal, onProgress }: CheckOptions) {
    this.#signal = signal;
    this.#onProgress = onProgress;
  }

  /** Announces bytes that will be read. */
  expect(bytes: number): void {
    this.#total += bytes;
  }

  throwIfAborted(): void {
    this.#signal?.throwIfAborted();
  }

  step(bytes: number): void {
    this.throwIfAborted();
    this.#done += bytes;
    this.#onProgress?.({ done: Math.min(this.#done, this.#total), total: this.#total });
  }
}

/** Reads clusters at ascending `offsets`. What lies past the end of the file reads as zeros. */
export async function* readClusters(
  storage: Storage,
  offsets: Float64Array,
  clusterSize: number,
  progress: CheckProgress,
): AsyncGenerator<ClusterBatch> {
  const perBatch = Math.max(1, batchBytes / clusterSize);
  const bufferSize = Math.min(perBatch, offsets.length) * clusterSize;
  let buffer = pageBytes(bufferSize);
  let other = pageBytes(offsets.length > perBatch ? bufferSize : 0);
  let next = readBatch(storage, offsets, 0, perBatch, clusterSize, buffer);
  for (let first = 0; first < offsets.length; first += perBatch) {
    const batch = await next;
    [buffer, other] = [other, buffer];
    next = readBatch(storage, offsets, first + perBatch, perBatch, clusterSize, buffer);
    // Nobody waits for it when the work on this batch fails.
    next.catch(() => undefined);
    progress.step(batch.bytes.length);
    yield batch;
  }
}

async function readBatch(
  storage: Storage,
  all: Float64Array,
  first: number,
  count: number,
  clusterSize: number,
  buffer: Uint8Array,
): Promise<ClusterBatch> {
  const offsets = all.subarray(first, first + count);
  const bytes = buffer.subarray(0, offsets.length * clusterSize);
  const failures = new Map<number, unknown>();
  let inFlight: Promise<void>[] = [];
  for (let at = 0; at < offsets.length;) {
    let end = at + 1;
    while (end < offsets.length && offsets[end] === (offsets[end - 1] ?? 0) + clusterSize) end++;
    inFlight.push(readRun(storage, offsets, bytes, at, end, clusterSize, failures));
    if (inFlight.length === maxInFlight) {
      await settleAll(inFlight);
      inFlight = [];
    }
    at = end;
  }
  await settleAll(inFlight);
  return { offsets, bytes, failures, first };
}

/** Reads clusters that lie one behind the other; when that fails, each by itself. */
async function readRun(
  storage: Storage,
  offsets: Float64Array,
  bytes: Uint8Array,
  from: number,
  to: number,
  clusterSize: number,
  failures: Map<number, unknown>,
): Promise<void> {
  const target = bytes.subarray(from * clusterSize, to * clusterSize);
  try {
    await readPadded(storage, target, offsets[from] ?? 0);
  } catch (error) {
    if (to - from === 1) {
      failures.set(from, error);
      target.fill(0);
      return;
    }
    for (let at = from; at < to; at++) {
      await readRun(storage, offsets, bytes, at, at + 1, clusterSize, failures);
    }
  }
}
