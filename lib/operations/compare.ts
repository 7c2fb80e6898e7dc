/** Comparing two disks: what differs, range by range, reading only what one of them has stored. */
import type { ByteRange, Disk, Extent, ExtentType, Job } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import { queryRange, type Range } from '../io/disk-queries.js';
import { native } from '../native.js';
import { pageBytes } from '../storage/page-bytes.js';
import { settleAll } from '../storage/settle.js';
import { FileComparison } from './files/comparison.js';
import { FilePlan } from './files/plan.js';
import { defaultConcurrency, inOrder } from './jobs/in-order.js';
import { largestCluster } from './layers.js';

/** A range in which two disks differ. */
export interface Difference {
  /** First byte, a multiple of 512. */
  start: number;
  /** Bytes; a multiple of 512 unless the range ends with the longer disk. */
  length: number;
  /**
   * - `content`: each 512 bytes of the range differ somewhere
   * - `size`: one disk ends where the range begins and the other where it ends (strict only)
   * - `allocation`: the disks say different things of what the range is made of (strict only)
   */
  kind: 'content' | 'size' | 'allocation';
}

export interface CompareOptions extends Job, ByteRange {
  /**
   * Disks of different sizes differ, and ranges that are of different types (data, compressed, zero, unallocated) or of
   * which one has a known place in its file and the other has none.
   */
  strict?: boolean;
}

const sector = 512;
const chunkBytes = 1024 * 1024;
/** Bytes of a unit of native work: fewer of them cost less to plan, and where two differ all of it is read once more. */
const minUnit = 1024 * 1024;
/** Shorter ranges are not worth setting up native jobs for, bytes. */
const worthwhile = 4 * 1024 * 1024;

/** What of a disk a comparison uses. */
export type Comparable = Pick<Disk, 'size' | 'read' | 'extents'>;

/** A range in which each disk is of one type, small enough to be read at once. */
interface Piece extends Range {
  readonly a: Allocation;
  readonly b: Allocation;
}

/** What a range of one disk is made of, as far as a strict comparison asks. */
interface Allocation {
  readonly type: ExtentType;
  /** Whether it has a known place in a file. */
  readonly placed: boolean;
}

/**
 * The ranges in which two disks differ, in order, neighbours joined. Where one disk is shorter the rest of the longer one
 * is compared with zeros. Ranges that neither disk has stored are not read.
 * @throws system errors, Qcow2Error `ERR_QCOW2_CORRUPT` where a disk cannot be read; the signal's reason
 */
export async function* compare(
  a: Comparable,
  b: Comparable,
  options: CompareOptions = {},
): AsyncGenerator<Difference> {
  const { strict = false, concurrency = defaultConcurrency, signal, onProgress } = options;
  const { start, end } = queryRange(Math.max(a.size, b.size), options);
  const shorter = Math.min(a.size, b.size);
  const common: Range = { start, end: strict ? Math.max(start, Math.min(end, shorter)) : end };
  const report = (done: number): void => onProgress?.({ done: done - start, total: end - start });
  const job: CompareJob = { a, b, strict, concurrency: Math.max(1, concurrency), signal, report };
  let last: Difference | undefined;
  for await (const difference of differences(job, common)) {
    if (last?.kind === difference.kind && last.start + last.length === difference.start) {
      last.length += difference.length;
    } else {
      if (last !== undefined) yield last;
      last = difference;
    }
  }
  if (last !== undefined) yield last;
  if (common.end < end) yield { start: common.end, length: end - common.end, kind: 'size' };
}

interface CompareJob {
  readonly a: Comparable;
  readonly b: Comparable;
  readonly strict: boolean;
  readonly concurrency: number;
  readonly signal: AbortSignal | undefined;
  readonly report: (done: number) => void;
}

/** The differences in a range, neighbours not joined. Native jobs find where to look, where they can. */
async function* differences(job: CompareJob, range: Range): AsyncGenerator<Difference> {
  const files = job.strict || range.end - range.start < worthwhile ? null : fileComparison(job);
  if (files === null) {
    yield* lookCloser(job, range, job.report);
    return;
  }
  for await (const { end, suspects } of files.compare(only(range), job.signal)) {
    for (const suspect of suspects) yield* lookCloser(job, suspect, () => undefined);
    job.report(end);
  }
}

// eslint-disable-next-line @typescript-eslint/require-await -- the ranges of other jobs are read from tables
async function* only(range: Range): AsyncGenerator<Range> {
  yield range;
}

function fileComparison({ a, b, concurrency }: CompareJob): FileComparison | null {
  const unit = Math.max(minUnit, largestCluster(a), largestCluster(b));
  const inA = FilePlan.of(a, unit);
  const inB = FilePlan.of(b, unit);
  return inA === null || inB === null ? null : new FileComparison(inA, inB, unit, concurrency);
}

async function* lookCloser(
  { a, b, strict, concurrency, signal }: CompareJob,
  range: Range,
  report: CompareJob['report'],
): AsyncGenerator<Difference> {
  const buffers = new Buffers();
  const results = inOrder(pieces(a, b, range, signal), concurrency, async (piece) => ({
    piece,
    found: await comparePiece(a, b, piece, strict, buffers, signal),
  }));
  for await (const { piece, found } of results) {
    yield* found;
    report(piece.end);
  }
}

/** Cuts a range where either disk's type changes, and long stretches of stored bytes into chunks. */
async function* pieces(
  a: Comparable,
  b: Comparable,
  { start, end }: Range,
  signal: AbortSignal | undefined,
): AsyncGenerator<Piece> {
  const cursorA = new ExtentCursor(a, { start, end }, signal);
  const cursorB = new ExtentCursor(b, { start, end }, signal);
  try {
    for (let at = start; at < end;) {
      const inA = await cursorA.at(at);
      const inB = await cursorB.at(at);
      const same = Math.min(inA.end, inB.end);
      const stored = isStored(inA) || isStored(inB);
      const stop = stored ? Math.min(same, at - (at % chunkBytes) + chunkBytes) : same;
      yield { start: at, end: stop, a: inA, b: inB };
      at = stop;
    }
  } finally {
    await cursorA.close();
    await cursorB.close();
  }
}

/** Walks along the extents of a disk; behind its end all is unallocated. */
class ExtentCursor {
  readonly #extents: AsyncIterator<Extent>;
  readonly #end: number;
  readonly #name: string;
  #current: Extent | undefined;

  constructor(disk: Comparable, { start, end }: Range, signal: AbortSignal | undefined) {
    const query = { start, length: end - start, ...(signal === undefined ? {} : { signal }) };
    this.#extents = disk.extents(query)[Symbol.asyncIterator]();
    this.#end = Math.min(disk.size, end);
    this.#name = `a disk of ${disk.size} bytes`;
  }

  /** What byte `at` belongs to, and where that ends. Calls must not go backwards. */
  async at(at: number): Promise<Allocation & { end: number }> {
    if (at >= this.#end) return { end: Infinity, type: 'unallocated', placed: false };
    while (this.#current === undefined || this.#current.start + this.#current.length <= at) {
      const next = await this.#extents.next();
      if (next.done === true) {
        throw new Qcow2Error('ERR_QCOW2_CORRUPT', `The extents of ${this.#name} end before ${at}`);
      }
      this.#current = next.value;
    }
    const { start, length, type, hostOffset } = this.#current;
    return { end: start + length, type, placed: hostOffset !== null };
  }

  async close(): Promise<void> {
    await this.#extents.return?.();
  }
}

const isStored = ({ type }: Allocation): boolean => type === 'data' || type === 'compressed';

async function comparePiece(
  a: Comparable,
  b: Comparable,
  piece: Piece,
  strict: boolean,
  buffers: Buffers,
  signal: AbortSignal | undefined,
): Promise<Difference[]> {
  if (strict && (piece.a.type !== piece.b.type || piece.a.placed !== piece.b.placed)) {
    return [{ start: piece.start, length: piece.end - piece.start, kind: 'allocation' }];
  }
  signal?.throwIfAborted();
  const bytesA = isStored(piece.a) ? buffers.take(piece.end - piece.start) : null;
  const bytesB = isStored(piece.b) ? buffers.take(piece.end - piece.start) : null;
  await settleAll(
    [bytesA && a.read(bytesA, piece.start), bytesB && b.read(bytesB, piece.start)].map(asPromise),
  );
  const ranges = differing(bytesA, bytesB);
  buffers.giveBack(bytesA);
  buffers.giveBack(bytesB);
  return ranges.map((range) => ({
    start: piece.start + range.start,
    length: range.end - range.start,
    kind: 'content',
  }));
}

/** Memory for the chunks under way, used again and again. */
class Buffers {
  readonly #idle: Uint8Array[] = [];

  /** @param length bytes, a chunk at most */
  take(length: number): Uint8Array {
    return (this.#idle.pop() ?? pageBytes(chunkBytes)).subarray(0, length);
  }

  giveBack(bytes: Uint8Array | null): void {
    if (bytes === null) return;
    const { buffer, byteOffset } = bytes;
    this.#idle.push(new Uint8Array(buffer, byteOffset, chunkBytes));
  }
}

const asPromise = (read: Promise<void> | null): Promise<void> => read ?? Promise.resolve();

/** The runs of sectors in `bytes` that are not zeros. */
function nonZeroRanges(bytes: Uint8Array | null): Range[] {
  if (bytes === null || native.isZero(bytes)) return [];
  const ends = new Float64Array(Math.ceil(bytes.length / sector) + 1);
  const count = native.zeroRuns(bytes, sector, ends);
  const ranges: Range[] = [];
  let start = 0;
  for (let i = 0; i < count; i++) {
    const end = ends[i] ?? 0;
    if (i % 2 === 0 && end > start) ranges.push({ start, end });
    start = end;
  }
  return ranges;
}

/** The runs of sectors in which two pieces of one length differ; null stands for zeros. */
function differing(a: Uint8Array | null, b: Uint8Array | null): Range[] {
  if (a === null) return nonZeroRanges(b);
  if (b === null) return nonZeroRanges(a);
  if (Buffer.compare(a, b) === 0) return [];
  const ranges: { start: number; end: number }[] = [];
  for (let at = 0; at < a.length; at += sector) {
    const end = Math.min(at + sector, a.length);
    if (Buffer.compare(a.subarray(at, end), b.subarray(at, end)) === 0) continue;
    const last = ranges.at(-1);
    if (last?.end === at) last.end = end;
    else ranges.push({ start: at, end });
  }
  return ranges;
}
