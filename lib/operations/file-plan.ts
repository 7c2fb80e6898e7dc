/** Plans reading a disk whose layers are all plain files: which bytes of which file are which part of the disk. */
import type { Disk } from '../disk.js';
import { alignDown, guestOffset } from '../format/units.js';
import { codecs } from '../io/codec.js';
import type { GuestImage } from '../io/guest-image.js';
import { checkPlace } from '../io/read.js';
import { invalidRun } from '../metadata/run.js';
import { native, OsResult, RunKind } from '../native.js';
import { layersOf } from './layers.js';
import { isPlainFile, type PlainFile } from './plain-file.js';
import type { RowTable } from './row-table.js';

interface FileLayer {
  readonly file: PlainFile;
  readonly size: number;
  readonly guest: GuestImage | null;
}

/** A unit being planned. */
interface Planning {
  readonly pieces: RowTable;
  readonly fds: readonly number[];
  readonly firstFile: number;
  /** Where the unit begins. */
  readonly base: number;
}

/** What is skipped at once where nothing is stored; a multiple of every unit. */
const windowBytes = 16 * 1024 * 1024;

export class FilePlan {
  readonly size: number;
  /** Those that pieces name by their index. Their descriptors are asked for anew for each use: a file may be closed. */
  readonly files: readonly PlainFile[];
  readonly #layers: readonly FileLayer[];

  private constructor(layers: readonly FileLayer[], size: number) {
    this.#layers = layers;
    this.size = size;
    this.files = layers.map(({ file }) => file);
  }

  /**
   * A plan for a disk, or null for one that does not consist of files that can be read as they are: with other storage,
   * encryption, or an image that may change meanwhile.
   * @param unit bytes of what is planned at once: a power of two that no cluster of the disk exceeds
   */
  static of(disk: Pick<Disk, 'size'>, unit: number): FilePlan | null {
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
    return files.length === 0 ? null : new FilePlan(files, disk.size);
  }

  /**
   * Adds the pieces of [start, end), a unit or less, to `pieces`, as {@link NativeCore.transfer} takes them.
   * @param fds of {@link files}
   * @param firstFile what the index of the first of the files is to be
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` for entries that no guest read may follow
   */
  async planUnit(
    pieces: RowTable,
    start: number,
    end: number,
    fds: readonly number[],
    firstFile = 0,
  ): Promise<void> {
    await this.#planRange({ pieces, fds, firstFile, base: start }, 0, start, end);
  }

  /** The next position that may have something stored, by windows; Infinity when there is none. */
  skip(at: number, fds: readonly number[]): number {
    if (at < this.size && at % windowBytes !== 0) return at;
    let next = Infinity;
    for (const [index, { size, guest }] of this.#layers.entries()) {
      const end = Math.min(size, this.size);
      if (at >= end) continue;
      const found =
        guest === null
          ? nextData(fds[index] ?? -1, at, end)
          : guest.image.mapping.nextTable(guestOffset(at), end);
      if (found < end) next = Math.min(next, found);
    }
    return next === Infinity ? next : Math.max(at, alignDown(next, windowBytes));
  }

  async #planRange(context: Planning, index: number, start: number, end: number): Promise<void> {
    const layer = this.#layers[index];
    if (layer === undefined) return;
    const stop = Math.min(end, layer.size);
    if (start >= stop) return;
    if (layer.guest === null) planRaw(context, index, start, stop);
    else await this.#planImage(context, layer.guest, index, start, stop);
  }

  async #planImage(
    context: Planning,
    guest: GuestImage,
    index: number,
    start: number,
    end: number,
  ): Promise<void> {
    const { pieces, firstFile, base } = context;
    const below: number[] = [];
    const { clusterSize } = guest.image.geometry;
    const { codec } = codecs[guest.image.header.compressionType];
    await guest.image.mapping.visit(guestOffset(start), end, false, (kind, at, length, host, aux) => {
      switch (kind) {
        case RunKind.data:
          checkPlace(guest, at, host, length);
          addPlain(context, index, host, length, at);
          break;
        case RunKind.compressed: {
          const skip = at % clusterSize;
          checkPlace(guest, guestOffset(at - skip), host, aux);
          pieces.add(firstFile + index, host, aux, at - base, length, clusterSize, skip, codec);
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
      await this.#planRange(context, index + 1, below[i] ?? 0, below[i + 1] ?? 0);
    }
  }
}

function planRaw(context: Planning, index: number, start: number, end: number): void {
  const fd = context.fds[index] ?? -1;
  for (let at = nextData(fd, start, end); at < end;) {
    const hole = Math.min(nextHole(fd, at, end), end);
    addPlain(context, index, at, hole - at, at);
    at = nextData(fd, hole, end);
  }
}

function addPlain(
  { pieces, firstFile, base }: Planning,
  index: number,
  position: number,
  length: number,
  at: number,
): void {
  pieces.add(firstFile + index, position, length, at - base, length, 0, 0, 0);
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
