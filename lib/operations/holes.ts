/**
 * Clusters that are mapped to data and lie in holes of their file: preallocated ones, which read as zeros though no table says
 * so. They are looked for as QEMU does: in images of which clearly less is stored than their refcounts count.
 */
import { Qcow2Error } from '../errors.js';
import type { GuestImage } from '../io/guest-image.js';
import { dataInHole, ExtentColumn, ExtentTypeIndex, extentStride, MergedRows } from '../io/extent-rows.js';
import type { Image } from '../metadata/image.js';
import type { Storage } from '../storage/storage.js';
import { layersOf } from './layers.js';

/** Clusters whose refcounts are looked at, and at once; images with more are taken to be full. */
const maxClusters = 2 ** 26;
const clustersAtOnce = 2 ** 20;
/** Stretches of data that are remembered of a file; one with more is taken to be full. */
const maxStretches = 2 ** 20;

/** Rows of a disk's extents, with what lies in holes divided from other data, as {@link dataInHole}. */
export async function* withHoles(
  disk: object,
  rows: AsyncIterable<Float64Array>,
): AsyncGenerator<Float64Array> {
  const files: (FileHoles | null)[] = [];
  for (const { guest } of layersOf(disk)) files.push(guest === null ? null : await holesOf(guest));
  if (files.every((holes) => holes === null)) {
    yield* rows;
    return;
  }
  for await (const part of rows) yield markWhole(part, files) ? part : divided(part, files);
}

/** Marks the rows that lie in a hole; false when one of them lies there in part, and has to be divided. */
function markWhole(rows: Float64Array, files: readonly (FileHoles | null)[]): boolean {
  for (let at = 0; at < rows.length; at += extentStride) {
    const holes = holesAround(rows, at, files);
    if (holes === null) continue;
    const place = rows[at + ExtentColumn.hostOffset] ?? 0;
    const isHole = holes.isAt(place);
    if (holes.end < place + (rows[at + ExtentColumn.length] ?? 0)) return false;
    if (isHole) rows[at + ExtentColumn.type] = dataInHole;
  }
  return true;
}

function divided(rows: Float64Array, files: readonly (FileHoles | null)[]): Float64Array {
  const parts = new MergedRows();
  for (let at = 0; at < rows.length; at += extentStride) {
    const [start = 0, length = 0, type = 0, depth = 0, place = -1] = rows.subarray(at, at + extentStride);
    const holes = holesAround(rows, at, files);
    if (holes === null) {
      parts.add(start, length, type, depth, place);
      continue;
    }
    for (let done = 0; done < length;) {
      const isHole = holes.isAt(place + done);
      const stop = Math.min(length, holes.end - place);
      parts.add(start + done, stop - done, isHole ? dataInHole : type, depth, place + done);
      done = stop;
    }
  }
  return parts.takeAll();
}

/** Those that a row may lie in: of the file that has its data; null for what has no place in a file, or one without holes. */
function holesAround(rows: Float64Array, at: number, files: readonly (FileHoles | null)[]): FileHoles | null {
  const isPlaced = (rows[at + ExtentColumn.hostOffset] ?? -1) >= 0;
  if (!isPlaced || rows[at + ExtentColumn.type] !== ExtentTypeIndex.data) return null;
  return files[rows[at + ExtentColumn.depth] ?? 0] ?? null;
}

/** The holes of the file that holds an image's data; null where there are none to be looked for. */
async function holesOf({ image, cipher }: GuestImage): Promise<FileHoles | null> {
  if (cipher !== null || !(await isPreallocated(image))) return null;
  return FileHoles.of(image.dataStorage);
}

/** Whether less of the file is stored than is in use, by more than a tenth and by two clusters. */
async function isPreallocated({ storage, refcounts, geometry }: Image): Promise<boolean> {
  const stored = await storage.allocatedSize?.();
  if (stored === undefined) return false;
  const storedClusters = Math.floor(stored / geometry.clusterSize);
  const enough = Math.max(Math.floor((storedClusters * 10) / 9), storedClusters + 2);
  const fileClusters = Math.ceil((await storage.size()) / geometry.clusterSize);
  const end = Math.min(fileClusters, refcounts.capacity, maxClusters);
  try {
    let used = 0;
    for (let at = 0; at < end && used < enough && used + end - at >= enough; at += clustersAtOnce) {
      used += await refcounts.countUsed(at, Math.min(end, at + clustersAtOnce));
    }
    return used >= enough;
  } catch (error) {
    // What the refcounts say cannot be told; that is for `check` to report.
    if (error instanceof Qcow2Error) return false;
    throw error;
  }
}

class FileHoles {
  /** Where data begins and ends, in turns and in order. */
  readonly #edges: Float64Array;
  /** Where the last answer was: the next one is near. */
  #near = 0;

  private constructor(edges: Float64Array) {
    this.#edges = edges;
  }

  /** Looks once through the whole file; null where the file system does not tell, or there are too many. */
  static async of(storage: Storage): Promise<FileHoles | null> {
    if (storage.nextData === undefined || storage.nextHole === undefined) return null;
    const edges: number[] = [];
    for (let at = await storage.nextData(0); at !== null;) {
      const hole = Math.max(await storage.nextHole(at), at + 1);
      edges.push(at, hole);
      if (edges.length > 2 * maxStretches) return null;
      at = await storage.nextData(hole);
    }
    return new FileHoles(Float64Array.from(edges));
  }

  /** Whether a byte is in a hole; {@link end} is where what it is in ends. */
  isAt(offset: number): boolean {
    const edges = this.#edges;
    const count = this.#near;
    const isNear = (edges[count - 1] ?? 0) <= offset && offset < (edges[count] ?? Infinity);
    if (!isNear) this.#near = this.#edgesUpTo(offset);
    return this.#near % 2 === 0;
  }

  get end(): number {
    return this.#edges[this.#near] ?? Infinity;
  }

  /** How many edges are at or before an offset. */
  #edgesUpTo(offset: number): number {
    let [low, high] = [0, this.#edges.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#edges[middle] ?? Infinity) <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
