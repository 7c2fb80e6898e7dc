/** Plans reading a disk whose layers are all plain files: which bytes of which file are which part of the disk. */
import type { Disk } from '../../disk.js';
import { alignDown, guestOffset } from '../../format/units.js';
import { codecs } from '../../io/codec.js';
import type { Range } from '../../io/disk-queries.js';
import type { GuestImage } from '../../io/guest-image.js';
import { checkPlace } from '../../io/read.js';
import { turn } from '../../io/turn.js';
import { invalidRun } from '../../metadata/run.js';
import { native, OsResult, RunKind, type Codec } from '../../native.js';
import { layersOf, type Layer } from '../layers.js';
import { isPlainFile, type PlainFile } from './plain-file.js';

interface FileLayer {
  readonly file: PlainFile;
  readonly size: number;
  readonly guest: GuestImage | null;
  /** Of a raw layer. */
  data: Stretch;
}

/** Data that was looked for from `from` on: it may begin and end far behind what is being planned. */
interface Stretch extends Range {
  readonly from: number;
}

/** Takes what is planned, in the order of the disk: which bytes of the file of that index are which bytes of the disk. */
export interface PlannedPieces {
  addPlain(file: number, position: number, guest: number, length: number): void;
  /**
   * `length` bytes of a compressed cluster, from its byte `skip` on.
   * @param stored bytes that the cluster may have in the file
   */
  addCompressed(
    file: number,
    position: number,
    stored: number,
    guest: number,
    length: number,
    clusterSize: number,
    skip: number,
    codec: Codec,
  ): void;
}

/** A range being planned. */
interface Planning {
  readonly pieces: PlannedPieces;
  readonly fds: readonly number[];
  /** Told of the layer that has a table which is not in memory. */
  missing: GuestImage | null;
}

/** What is planned, or skipped where nothing is stored, at once: a multiple of every unit. */
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
    if (layers.some(({ guest }) => guest?.image.writable === true)) return null;
    // What is behind the last layer known is no file of this package's.
    if ((layers.at(-1)?.guest?.backing ?? null) !== null) return null;
    return FilePlan.#ofLayers(layers, disk.size, unit);
  }

  /** A plan for a disk that has nothing. */
  static ofNothing(): FilePlan {
    return new FilePlan([], 0);
  }

  /** The same for what the uppermost `depth` layers of a disk have, which nobody changes meanwhile. */
  static ofUppermost(disk: Pick<Disk, 'size'>, depth: number, unit: number): FilePlan | null {
    const layers = layersOf(disk).slice(0, depth);
    return layers.length < depth ? null : FilePlan.#ofLayers(layers, disk.size, unit);
  }

  static #ofLayers(layers: readonly Layer[], size: number, unit: number): FilePlan | null {
    const files: FileLayer[] = [];
    for (const { dataStorage, guest, size: layerSize } of layers) {
      if (!isPlainFile(dataStorage)) return null;
      if (guest !== null && (guest.cipher !== null || guest.image.geometry.clusterSize > unit)) return null;
      files.push({ file: dataStorage, size: layerSize, guest, data: { from: 0, start: 0, end: 0 } });
    }
    return files.length === 0 ? null : new FilePlan(files, size);
  }

  /**
   * Plans the pieces from `start` up to `end`, or to the end of the window that `start` is in, and adds them to `pieces`.
   * @param fds of {@link files}
   * @returns how far it came
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` for entries that no guest read may follow
   */
  async planWindow(
    pieces: PlannedPieces,
    start: number,
    end: number,
    fds: readonly number[],
  ): Promise<number> {
    // With all tables in memory nothing below waits.
    if (!turn.step()) await turn.next();
    const stop = Math.min(end, this.size, alignDown(start, windowBytes) + windowBytes);
    const context: Planning = { pieces, fds, missing: null };
    for (let at = start; at < stop;) {
      at = this.#planLayer(context, 0, at, stop);
      const loading = at < stop ? context.missing?.image.mapping.load(guestOffset(at)) : undefined;
      if (loading !== undefined) await loading;
    }
    return stop;
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

  /**
   * Plans what a layer and those below it have in [start, end), in the order of the disk, as far as their tables are in memory;
   * returns where the first one is missing, or `end`.
   */
  #planLayer(context: Planning, index: number, start: number, end: number): number {
    const layer = this.#layers[index];
    if (layer === undefined) return end;
    const stop = Math.min(end, layer.size);
    if (start >= stop) return end;
    const { guest } = layer;
    if (guest === null) planRaw(context, layer, index, start, stop);
    else {
      const done = this.#planImage(context, guest, index, start, stop);
      if (done < stop) return done;
    }
    return end;
  }

  #planImage(context: Planning, guest: GuestImage, index: number, start: number, end: number): number {
    const { pieces } = context;
    const { clusterSize } = guest.image.geometry;
    const { codec } = codecs[guest.image.header.compressionType];
    let planned = end;
    const found = guest.image.mapping.visitCached(
      guestOffset(start),
      end,
      false,
      (kind, at, length, host, aux) => {
        // Behind a table that is missing further down nothing is planned yet.
        if (at >= planned) return;
        switch (kind) {
          case RunKind.data:
            checkPlace(guest, at, host, length);
            pieces.addPlain(index, host, at, length);
            break;
          case RunKind.compressed: {
            const skip = at % clusterSize;
            checkPlace(guest, guestOffset(at - skip), host, aux);
            pieces.addCompressed(index, host, aux, at, length, clusterSize, skip, codec);
            break;
          }
          case RunKind.unallocated:
          case RunKind.unallocatedInCluster: {
            const done = this.#planLayer(context, index + 1, at, at + length);
            if (done < at + length) planned = done;
            break;
          }
          case RunKind.zero:
          case RunKind.zeroAllocated:
            break;
          case RunKind.invalid:
            throw invalidRun(at, aux);
        }
      },
    );
    if (planned <= found) return planned;
    context.missing = guest;
    return found;
  }
}

function planRaw(
  { pieces, fds }: Planning,
  layer: FileLayer,
  index: number,
  start: number,
  end: number,
): void {
  for (let at = start; at < end; at = layer.data.end) {
    if (at < layer.data.from || at >= layer.data.end) {
      layer.data = stretchFrom(fds[index] ?? -1, at, layer.size);
    }
    const from = Math.max(at, layer.data.start);
    const to = Math.min(end, layer.data.end);
    if (from < to) pieces.addPlain(index, from, from, to - from);
  }
}

/** Longer than nothing, even where the file is changed meanwhile. */
function stretchFrom(fd: number, from: number, size: number): Stretch {
  const start = nextData(fd, from, size);
  const end = start < size ? Math.max(nextHole(fd, start), start + 1) : size;
  return { from, start, end: Math.min(end, size) };
}

/** Where the file system does not tell holes, all is data. */
function nextData(fd: number, at: number, end: number): number {
  if (at >= end) return end;
  const found = native.seekData(fd, at);
  if (found === OsResult.unsupported) return at;
  return found === OsResult.nothing ? end : found;
}

function nextHole(fd: number, at: number): number {
  const found = native.seekHole(fd, at);
  return found < 0 ? Infinity : found;
}
