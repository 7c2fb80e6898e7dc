/**
 * A new image that nobody else uses: clusters are taken and mapped in the order of the disk, then the bytes follow. Entries
 * may run ahead of the bytes here, because the image counts for nothing before all of it is written.
 */
import { alignDown, alignUp, guestOffset, hostCluster, hostOffset } from '../format/units.js';
import { compressClusters } from '../io/codec.js';
import type { Range } from '../io/disk-queries.js';
import type { GuestImage } from '../io/guest-image.js';
import { storeData } from '../io/store.js';
import type { ClusterRun } from '../metadata/allocator.js';
import { native, transferStride } from '../native.js';
import { settleAll } from '../storage/settle.js';
import type { Storage } from '../storage/storage.js';
import type { Chunk, CopyTarget } from './copy-target.js';
import type { FileTarget } from './file-transfer.js';
import { isPlainFile } from './plain-file.js';
import type { Turn } from './turns.js';

/** Bytes of a chunk and where in the file they go. */
interface Placed extends Range {
  readonly host: number;
}

export class FreshTarget implements CopyTarget {
  readonly unit: number;
  readonly zeroUnit: number;
  readonly startsZero = true;
  readonly file?: FileTarget;
  readonly #guest: GuestImage;
  readonly #room: Room;

  /** @param storage that the image is in */
  constructor(guest: GuestImage, storage: Storage) {
    this.#guest = guest;
    this.unit = guest.image.geometry.clusterSize;
    this.zeroUnit = guest.image.geometry.subclusterSize;
    this.#room = new Room(guest);
    if (!isPlainFile(storage) || guest.cipher !== null || this.zeroUnit !== this.unit) return;
    this.file = {
      storage,
      reserve: (bytes, units) => this.#room.reserve(bytes, units),
      placed: (runs) => this.#room.use(runs),
    };
  }

  /** Gives back what was taken and not used. */
  finish(): void {
    this.#room.giveBack();
  }

  async write({ start, bytes, data }: Chunk, turn: Turn): Promise<void> {
    await turn.begins;
    const placed = await placeClusters(this.#guest, start, data);
    turn.end();
    await storePlaced(this.#guest, start, bytes, placed);
  }

  zero(): Promise<void> {
    return Promise.resolve();
  }
}

/** Clusters that were taken before it is known how many of them will be used. */
class Room {
  readonly #guest: GuestImage;
  /** In the order in which they will be used. */
  #runs: ClusterRun[] = [];
  /** Guest bytes from here on have no L2 tables yet. */
  #tablesEnd = 0;

  constructor(guest: GuestImage) {
    this.#guest = guest;
  }

  /** Host position and length of runs with `bytes` or more, for units of the disk. */
  async reserve(bytes: number, units: readonly number[]): Promise<number[]> {
    const { allocator, committer, geometry } = this.#guest.image;
    await this.#makeTables(units);
    let missing = bytes / geometry.clusterSize - this.#runs.reduce((sum, { count }) => sum + count, 0);
    while (missing > 0) {
      await committer.relieve();
      const run = await allocator.allocate(missing);
      this.#runs.push({ ...run });
      missing -= run.count;
    }
    return this.#runs.flatMap(({ first, count }) => [
      first * geometry.clusterSize,
      count * geometry.clusterSize,
    ]);
  }

  /** Maps what was used: guest position, length, host position of each run, taken from the front. */
  async use(runs: Float64Array): Promise<void> {
    const { mapping, allocator, committer, geometry } = this.#guest.image;
    let used = 0;
    for (let i = 0; i < runs.length; i += transferStride.placed) {
      const [guest = 0, length = 0, host = 0] = runs.subarray(i, i + transferStride.placed);
      used += length / geometry.clusterSize;
      await mapping.modify(guestOffset(guest), length, allocator, committer, (table, at, part, from) => {
        const place = host + (from - guest);
        native.l2SetData(table, mapping.l2Flags, geometry.clusterBits, at, part, place);
      });
    }
    this.#drop(used);
  }

  /** The tables come before the room for what they describe, so that what is given back is at the end of the file. */
  async #makeTables(units: readonly number[]): Promise<void> {
    const { mapping, allocator, committer, geometry } = this.#guest.image;
    for (let i = 0; i < units.length; i += transferStride.unit) {
      const [start = 0, length = 0] = units.slice(i, i + transferStride.unit);
      if (start + length <= this.#tablesEnd) continue;
      if (this.#runs.length > 0) {
        this.giveBack();
        await committer.settle();
      }
      await mapping.ensureTables(guestOffset(start), length, allocator, committer);
      this.#tablesEnd = alignUp(start + length, geometry.l2Coverage);
    }
  }

  giveBack(): void {
    const { committer, geometry } = this.#guest.image;
    for (const { first, count } of this.#runs) {
      committer.freeLater(hostOffset(first * geometry.clusterSize), count * geometry.clusterSize, false);
    }
    this.#runs = [];
  }

  #drop(count: number): void {
    let rest = count;
    for (let run = this.#runs[0]; run !== undefined && rest > 0; [run] = this.#runs) {
      const part = Math.min(rest, run.count);
      rest -= part;
      if (part === run.count) this.#runs.shift();
      else this.#runs[0] = { first: hostCluster(run.first + part), count: run.count - part };
    }
  }
}

/** Bytes of memory for streams that most chunks can do with. */
const usualChunk = 1024 * 1024;

interface EncodedRun {
  readonly run: Range;
  readonly streams: readonly (Uint8Array | null)[];
}

/** The same with compressed clusters. Those that do not get smaller are stored as they are. */
export class CompressedFreshTarget implements CopyTarget {
  readonly unit: number;
  readonly zeroUnit: number;
  readonly startsZero = true;
  readonly #guest: GuestImage;
  readonly #level: number | undefined;
  /** Memory for streams, used again: new memory has to be cleared each time. */
  readonly #idleOutputs: Uint8Array[] = [];

  /** @param level of the image's compression type; its default when undefined */
  constructor(guest: GuestImage, level: number | undefined) {
    this.#guest = guest;
    this.#level = level;
    this.unit = guest.image.geometry.clusterSize;
    this.zeroUnit = this.unit;
  }

  async write({ start, bytes, data }: Chunk, turn: Turn): Promise<void> {
    const output = this.#takeOutput(bytes.length);
    const encoded = await this.#encode(bytes, data, output);
    await turn.begins;
    const plain: Range[] = [];
    const packed: { stream: Uint8Array; host: number }[] = [];
    for (const { run, streams } of encoded) {
      for (const [index, stream] of streams.entries()) {
        const at = run.start + index * this.unit;
        if (stream === null) plain.push({ start: at, end: Math.min(at + this.unit, run.end) });
        else packed.push({ stream, host: await this.#place(start + at, stream.length) });
      }
    }
    const placed = await placeClusters(this.#guest, start, plain);
    turn.end();
    const { image } = this.#guest;
    await settleAll([
      ...joined(packed).map(({ stream, host }) => image.storage.write(stream, host)),
      storePlaced(this.#guest, start, bytes, placed),
    ]);
    image.committer.dataWritten();
    this.#idleOutputs.push(output);
  }

  zero(): Promise<void> {
    return Promise.resolve();
  }

  #takeOutput(length: number): Uint8Array {
    const idle = this.#idleOutputs.pop();
    if (idle !== undefined && idle.length >= length) return idle;
    return new Uint8Array(alignUp(Math.max(length, usualChunk), this.unit));
  }

  /** The streams of all clusters of `data`, each where its cluster is in `bytes` or before; null where none is shorter. */
  #encode(bytes: Uint8Array, data: readonly Range[], output: Uint8Array): Promise<EncodedRun[]> {
    const type = this.#guest.image.header.compressionType;
    return Promise.all(
      data.map(async (run) => {
        const clusters = wholeClusters(bytes, run, this.unit);
        const part = output.subarray(run.start, run.start + clusters.length);
        return { run, streams: await compressClusters(type, this.#level, clusters, this.unit, part) };
      }),
    );
  }

  async #place(guest: number, length: number): Promise<number> {
    const { mapping, allocator, committer, geometry } = this.#guest.image;
    const host = await this.#guest.compressedSpace.take(length);
    await committer.relieve();
    await mapping.modify(guestOffset(guest), geometry.clusterSize, allocator, committer, (table, at) => {
      const entry = at / geometry.clusterSize;
      native.l2SetCompressed(table, mapping.l2Flags, geometry.clusterBits, entry, host, length);
    });
    return host;
  }
}

/** Takes clusters for `runs`, which are relative to `start`, and maps them. */
async function placeClusters(
  { image }: GuestImage,
  start: number,
  runs: readonly Range[],
): Promise<Placed[]> {
  const { mapping, allocator, committer, geometry } = image;
  const { clusterSize, clusterBits, subclusterSize } = geometry;
  const placed: Placed[] = [];
  for (const group of clusterGroups(start, runs, clusterSize)) {
    for (let at = group.start; at < group.end;) {
      await committer.relieve();
      const { first, count } = await allocator.allocate((group.end - at) / clusterSize);
      const host = first * clusterSize;
      const stop = at + count * clusterSize;
      for (const run of group.runs) {
        const from = Math.max(start + run.start, at);
        const to = Math.min(start + run.end, stop);
        if (from >= to) continue;
        const base = at;
        const length = alignUp(to - from, subclusterSize);
        await mapping.modify(
          guestOffset(from),
          length,
          allocator,
          committer,
          (table, tableAt, part, guest) => {
            const place = host + alignDown(guest - base, clusterSize);
            native.l2SetData(table, mapping.l2Flags, clusterBits, tableAt, part, place);
          },
        );
        placed.push({ start: from - start, end: to - start, host: host + (from - at) });
      }
      at = stop;
    }
  }
  return placed;
}

/** Runs that share clusters or are neighbours, with the clusters they need, as positions on the disk. */
function clusterGroups(
  start: number,
  runs: readonly Range[],
  clusterSize: number,
): (Range & { readonly runs: Range[] })[] {
  const groups: { start: number; end: number; runs: Range[] }[] = [];
  for (const run of runs) {
    const from = alignDown(start + run.start, clusterSize);
    const to = alignUp(start + run.end, clusterSize);
    const last = groups.at(-1);
    if (last !== undefined && from <= last.end) {
      last.end = to;
      last.runs.push(run);
    } else {
      groups.push({ start: from, end: to, runs: [run] });
    }
  }
  return groups;
}

async function storePlaced(
  guest: GuestImage,
  start: number,
  bytes: Uint8Array,
  placed: readonly Placed[],
): Promise<void> {
  await settleAll(
    placed.map((run) =>
      storeData(
        guest,
        [bytes.subarray(run.start, run.end)],
        guestOffset(start + run.start),
        hostOffset(run.host),
      ),
    ),
  );
}

/** Streams that lie behind one another in memory as well as in the file are written as one. */
function joined(
  packed: readonly { stream: Uint8Array; host: number }[],
): { stream: Uint8Array; host: number }[] {
  const writes: { stream: Uint8Array; host: number }[] = [];
  for (const { stream, host } of packed) {
    const last = writes.at(-1);
    if (
      last !== undefined &&
      last.host + last.stream.length === host &&
      last.stream.buffer === stream.buffer &&
      last.stream.byteOffset + last.stream.length === stream.byteOffset
    ) {
      last.stream = new Uint8Array(stream.buffer, last.stream.byteOffset, last.stream.length + stream.length);
    } else {
      writes.push({ stream, host });
    }
  }
  return writes;
}

/** The bytes of a run as whole clusters: where the disk ends in one, zeros follow. */
function wholeClusters(bytes: Uint8Array, { start, end }: Range, clusterSize: number): Uint8Array {
  const length = alignUp(end - start, clusterSize);
  if (length === end - start) return bytes.subarray(start, end);
  const whole = new Uint8Array(length);
  whole.set(bytes.subarray(start, end));
  return whole;
}
