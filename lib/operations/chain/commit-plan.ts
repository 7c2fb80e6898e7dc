/** Plans what a commit copies: which bytes of the layers above go where in the file below, in batches for native jobs. */
import { alignDown, alignUp, guestOffset } from '../../format/units.js';
import type { Range } from '../../io/disk-queries.js';
import type { GuestImage } from '../../io/guest-image.js';
import { checkRuns } from '../../io/write.js';
import type { Run } from '../../metadata/run.js';
import { RunKind, transferStride, type Codec } from '../../native.js';
import type { FilePlan, PlannedPieces } from '../files/plan.js';
import { withDescriptors } from '../files/plain-file.js';
import { RowTable } from '../files/row-table.js';
import { RunUnits } from '../files/run-units.js';

/** A part of the disk that is to be data below, or zeros. */
export interface Stretch extends Range {
  readonly zero: boolean;
}

/** The file below: an image, or a raw file. */
export interface CommitTarget {
  readonly guest: GuestImage | null;
  /** Virtual size, bytes. */
  readonly size: number;
}

/** What has been looked at since the batch before, up to `end`. */
export class CommitBatch {
  end = 0;
  /** All of it that is data, bytes. */
  bytes = 0;
  /** Data for native jobs. */
  readonly data: Range[] = [];
  /** What is to be done piece by piece. */
  readonly left: Stretch[] = [];
  /** Data for clusters of the target that are there: the units lie where it goes. */
  readonly own: RunUnits;
  /** Data for new clusters: the units lie where it is on the disk. */
  readonly fresh: RunUnits;

  constructor(unit: number) {
    this.own = new RunUnits(unit);
    this.fresh = new RunUnits(unit);
  }

  isFull(bytes: number): boolean {
    const pieces = this.own.pieces.count + this.fresh.pieces.count;
    return this.bytes >= bytes || this.left.length >= maxLeft || pieces >= maxPieces;
  }
}

/** A part of the disk that goes to `host` and behind, or with null into new clusters. */
interface Place extends Range {
  readonly host: number | null;
}

/** Bytes of the first batch, so that copying begins early; each one after it has twice as many, up to what is asked for. */
const firstBatch = 8 * 1024 * 1024;
const maxLeft = 1024;
const maxPieces = 16 * 1024;

export class CommitPlan {
  readonly #source: FilePlan;
  readonly #target: CommitTarget;
  readonly #unit: number;

  /** @param unit longest unit, bytes: a power of two that no cluster exceeds */
  constructor(source: FilePlan, target: CommitTarget, unit: number) {
    this.#source = source;
    this.#target = target;
    this.#unit = unit;
  }

  /** Batches of about `bytes` of data, in the order of the disk. */
  async *batches(stretches: AsyncIterable<Stretch>, bytes: number): AsyncGenerator<CommitBatch> {
    let limit = Math.min(firstBatch, bytes);
    let batch = new CommitBatch(this.#unit);
    for await (const stretch of stretches) {
      for (let at = stretch.start; at < stretch.end;) {
        if (stretch.zero) batch.left.push(stretch);
        const room = alignDown(at + Math.max(limit - batch.bytes, this.#unit), this.#unit);
        at = stretch.zero ? stretch.end : await this.#window(batch, at, Math.min(stretch.end, room));
        batch.end = at;
        if (!batch.isFull(limit)) continue;
        yield batch;
        batch = new CommitBatch(this.#unit);
        limit = Math.min(limit * 2, bytes);
      }
    }
    if (batch.end > 0) yield batch;
  }

  /** Plans data from `start` up to `end`, or a part of it; returns how far it came. */
  async #window(batch: CommitBatch, start: number, end: number): Promise<number> {
    const { files } = this.#source;
    const found = new FoundPieces(start);
    let stop = end;
    try {
      stop = await withDescriptors(files, (fds) => this.#source.planWindow(found, start, end, fds));
      const places = found.reach(stop) ? await this.#places(start, stop) : [];
      this.#distribute(batch, found.rows.rows, places);
      batch.data.push({ start, end: stop });
    } catch {
      // What is wrong there is found and named by doing it piece by piece, after what comes before it.
      leave(batch.left, start, stop);
    }
    batch.bytes += stop - start;
    return stop;
  }

  /** Where a part of the disk goes, in order; what has no place there is for doing piece by piece. */
  async #places(start: number, end: number): Promise<Place[]> {
    const { guest, size } = this.#target;
    if (guest === null) return [{ start, end, host: start }];
    const { mapping, geometry } = guest.image;
    const { clusterSize } = geometry;
    const runs = await mapping.collect(guestOffset(alignDown(start, clusterSize)), alignUp(end, clusterSize));
    await checkRuns(guest, runs);
    // The last cluster of the disk is whole where the disk ends.
    const wholeEnd = end === size ? end : alignDown(end, clusterSize);
    const places: Place[] = [];
    for (const { host, ...run } of joined(runs)) {
      const from =
        host === null ? alignUp(Math.max(run.start, start), clusterSize) : Math.max(run.start, start);
      const to = Math.min(run.end, host === null ? wholeEnd : end);
      if (from < to)
        places.push({ start: from, end: to, host: host === null ? null : host + (from - run.start) });
    }
    return places;
  }

  /** Adds pieces to the units of the places that they are for; what has none, and compressed clusters that go to several, is left. */
  #distribute({ own, fresh, left }: CommitBatch, rows: Float64Array, places: readonly Place[]): void {
    let next = 0;
    for (let i = 0; i < rows.length; i += transferStride.piece) {
      const [
        file = 0,
        position = 0,
        stored = 0,
        start = 0,
        length = 0,
        clusterSize = 0,
        skip = 0,
        codec = 0,
      ] = rows.subarray(i, i + transferStride.piece);
      const end = start + length;
      for (let at = start; at < end;) {
        while ((places[next]?.end ?? Infinity) <= at) next++;
        const place = places[next];
        const isPlaced = place !== undefined && place.start <= at;
        const stop = Math.min(end, (isPlaced ? place.end : place?.start) ?? end);
        if (!isPlaced || (clusterSize > 0 && stop < end)) {
          const leftEnd = clusterSize > 0 ? end : stop;
          leave(left, at, leftEnd);
          at = leftEnd;
          continue;
        }
        const units = place.host === null ? fresh : own;
        const to = place.host === null ? at : place.host + (at - place.start);
        if (clusterSize > 0)
          units.addCompressed(file, position, stored, to, length, clusterSize, skip, codec);
        else units.addPlain(file, position + (at - start), to, stop - at);
        at = stop;
      }
    }
  }
}

/** Pieces as they were planned, with the place on the disk instead of an offset. */
class FoundPieces implements PlannedPieces {
  readonly rows = new RowTable(transferStride.piece);
  #end: number;
  #isWhole = true;

  constructor(start: number) {
    this.#end = start;
  }

  addPlain(file: number, position: number, guest: number, length: number): void {
    this.#follow(guest, length);
    this.rows.add(file, position, length, guest, length);
  }

  addCompressed(
    file: number,
    position: number,
    stored: number,
    guest: number,
    length: number,
    clusterSize: number,
    skip: number,
    codec: Codec,
  ): void {
    this.#follow(guest, length);
    this.rows.add(file, position, stored, guest, length, clusterSize, skip, codec);
  }

  /** Whether there is something for every byte up to `end`. */
  reach(end: number): boolean {
    return this.#isWhole && this.#end === end;
  }

  #follow(guest: number, length: number): void {
    this.#isWhole &&= guest === this.#end;
    this.#end = guest + length;
  }
}

/** The places that the target has for data, and between them what needs new clusters. */
function joined(runs: readonly Run[]): Place[] {
  const places: Place[] = [];
  for (const run of runs) {
    const end = run.start + run.length;
    if (isOwn(run)) {
      // What reads as zeros until an entry says otherwise is done piece by piece.
      if (run.kind === RunKind.data) places.push({ start: run.start, end, host: run.host });
      continue;
    }
    const last = places.at(-1);
    const joins = last?.host === null && last.end === run.start;
    if (joins) places.pop();
    places.push({ start: joins ? last.start : run.start, end, host: null });
  }
  return places;
}

/** Whether the target has host clusters for a run that belong to it alone. */
const isOwn = ({ kind, aux }: Run): boolean =>
  aux === 1 &&
  (kind === RunKind.data || kind === RunKind.zeroAllocated || kind === RunKind.unallocatedInCluster);

/** Leaves data to be done piece by piece, together with what is left directly before it. */
function leave(left: Stretch[], start: number, end: number): void {
  const last = left.at(-1);
  if (last?.zero === false && last.end === start) left[left.length - 1] = { ...last, end };
  else left.push({ start, end, zero: false });
}
