/** Plans the copying of a disk whose layers are all plain files: which bytes of which file become which part of the disk. */
import type { Disk } from '../disk.js';
import { alignDown, guestOffset } from '../format/units.js';
import { codecs } from '../io/codec.js';
import type { GuestImage } from '../io/guest-image.js';
import { checkPlace } from '../io/read.js';
import { invalidRun } from '../metadata/run.js';
import { native, OsResult, RunKind } from '../native.js';
import { layersOf } from './layers.js';
import { isPlainFile, withDescriptors, type PlainFile } from './plain-file.js';

/**
 * Units of the disk that have something to read, as {@link NativeCore.transfer} takes them, but with indexes of `files`
 * in the place of descriptors: between planning and copying a file may be closed, and its descriptor become another's.
 */
export interface Batch {
  /** What has been looked at so far, bytes from the beginning of the disk. */
  readonly done: number;
  readonly units: number[];
  readonly pieces: number[];
  readonly files: readonly PlainFile[];
}

interface FileLayer {
  readonly file: PlainFile;
  readonly size: number;
  readonly guest: GuestImage | null;
}

/** How much of the disk is looked up at once; a multiple of every unit. */
const windowBytes = 16 * 1024 * 1024;
const maxPieces = 16 * 1024;

export class FilePlan {
  readonly #layers: readonly FileLayer[];
  readonly #size: number;
  readonly #unit: number;
  /** The pieces of each unit of the window. */
  readonly #pieces: number[][];

  private constructor(layers: readonly FileLayer[], size: number, unit: number) {
    this.#layers = layers;
    this.#size = size;
    this.#unit = unit;
    this.#pieces = Array.from({ length: windowBytes / unit }, () => []);
  }

  /**
   * A plan for a disk, or null for one that does not consist of files that can be read as they are: with other storage,
   * encryption, or an image that may change meanwhile.
   * @param unit bytes, a power of two that no cluster of the disk exceeds
   */
  static of(disk: Disk, unit: number): FilePlan | null {
    const layers = layersOf(disk);
    const files: FileLayer[] = [];
    for (const { dataStorage, guest, size } of layers) {
      if (!isPlainFile(dataStorage)) return null;
      if (guest !== null && (guest.cipher !== null || guest.image.writable)) return null;
      if (guest !== null && guest.image.geometry.clusterSize > unit) return null;
      // What is behind the last layer known is no file of this package's.
      if (files.length + 1 === layers.length && (guest?.backing ?? null) !== null) return null;
      files.push({ file: dataStorage, size, guest });
    }
    return files.length === 0 ? null : new FilePlan(files, disk.size, unit);
  }

  /** Batches of about `bytes` of units that have something to read, in the order of the disk. */
  async *batches(bytes: number): AsyncGenerator<Batch> {
    let units: number[] = [];
    let pieces: number[] = [];
    const files = this.#layers.map(({ file }) => file);
    const planFrom = (from: number): Promise<number> =>
      withDescriptors(files, (fds) => this.#planWindow(from, fds));
    for (let at = await planFrom(0); at < this.#size; at = await planFrom(at + windowBytes)) {
      for (const [index, list] of this.#pieces.entries()) {
        if (list.length === 0) continue;
        const start = at + index * this.#unit;
        units.push(start, Math.min(this.#unit, this.#size - start), list.length / 8);
        for (const number of list) pieces.push(number);
        list.length = 0;
        if (units.length < (bytes / this.#unit) * 3 && pieces.length < maxPieces * 8) continue;
        yield { done: start, units, pieces, files };
        units = [];
        pieces = [];
      }
    }
    yield { done: this.#size, units, pieces, files };
  }

  /** Plans the next window that may have something in it, and tells where it is, as {@link #skip}. */
  async #planWindow(from: number, fds: readonly number[]): Promise<number> {
    const at = this.#skip(from, fds);
    if (at < this.#size) await this.#planRange(0, at, Math.min(at + windowBytes, this.#size), at, fds);
    return at;
  }

  /** The next window that may have something in it; at or behind the end of the disk when there is none. */
  #skip(at: number, fds: readonly number[]): number {
    let next = this.#size;
    for (const [index, { size, guest }] of this.#layers.entries()) {
      if (at >= size) continue;
      if (guest !== null) next = Math.min(next, guest.image.mapping.nextTable(guestOffset(at), size));
      else next = Math.min(next, nextData(fds[index] ?? -1, at, size));
    }
    return next >= this.#size ? this.#size : Math.max(at, alignDown(next, windowBytes));
  }

  async #planRange(
    index: number,
    start: number,
    end: number,
    base: number,
    fds: readonly number[],
  ): Promise<void> {
    const layer = this.#layers[index];
    if (layer === undefined) return;
    const stop = Math.min(end, layer.size);
    if (start >= stop) return;
    if (layer.guest === null) this.#planRaw(index, fds[index] ?? -1, start, stop, base);
    else await this.#planImage(layer.guest, index, start, stop, base, fds);
  }

  #planRaw(index: number, fd: number, start: number, end: number, base: number): void {
    for (let at = nextData(fd, start, end); at < end;) {
      const hole = Math.min(nextHole(fd, at, end), end);
      this.#addPlain(index, at, hole - at, at - base);
      at = nextData(fd, hole, end);
    }
  }

  async #planImage(
    guest: GuestImage,
    index: number,
    start: number,
    end: number,
    base: number,
    fds: readonly number[],
  ): Promise<void> {
    const below: number[] = [];
    const { clusterSize } = guest.image.geometry;
    const { codec } = codecs[guest.image.header.compressionType];
    await guest.image.mapping.visit(guestOffset(start), end, false, (kind, at, length, host, aux) => {
      switch (kind) {
        case RunKind.data:
          checkPlace(guest, at, host, length);
          this.#addPlain(index, host, length, at - base);
          break;
        case RunKind.compressed: {
          const skip = at % clusterSize;
          checkPlace(guest, guestOffset(at - skip), host, aux);
          const unit = this.#pieces[Math.floor((at - base) / this.#unit)];
          unit?.push(index, host, aux, (at - base) % this.#unit, length, clusterSize, skip, codec);
          break;
        }
        case RunKind.unallocated:
        case RunKind.unallocatedInCluster:
          below.push(at, at + length);
          break;
        case RunKind.zero:
        case RunKind.zeroAllocated:
          break;
        case RunKind.invalid:
          throw invalidRun(at, aux);
      }
    });
    for (let i = 0; i < below.length; i += 2) {
      await this.#planRange(index + 1, below[i] ?? 0, below[i + 1] ?? 0, base, fds);
    }
  }

  /** Adds plain bytes, cut at units. `offset` counts from the beginning of the window. */
  #addPlain(index: number, position: number, length: number, offset: number): void {
    for (let done = 0; done < length;) {
      const at = offset + done;
      const part = Math.min(length - done, this.#unit - (at % this.#unit));
      const unit = this.#pieces[Math.floor(at / this.#unit)];
      unit?.push(index, position + done, part, at % this.#unit, part, 0, 0, 0);
      done += part;
    }
  }
}

/** Where the file system does not tell holes, all is data. */
function nextData(fd: number, at: number, end: number): number {
  if (at >= end) return end;
  const found = native.seekData(fd, at);
  if (found === OsResult.unsupported) return at;
  return found === OsResult.nothing ? end : found;
}

function nextHole(fd: number, at: number, end: number): number {
  const found = native.seekHole(fd, at);
  return found < 0 ? end : found;
}
