/** A new image with compressed clusters: streams are packed in the order of the disk, by native jobs where it is a plain file. */
import { alignUp, guestOffset } from '../../format/units.js';
import { codecs, compressClusters } from '../../io/codec.js';
import type { Range } from '../../io/disk-queries.js';
import type { GuestImage } from '../../io/guest-image.js';
import { native } from '../../native.js';
import { settleAll } from '../../storage/settle.js';
import type { Storage } from '../../storage/storage.js';
import { CompressedRoom } from './compressed-room.js';
import type { Chunk, CopyTarget } from './target.js';
import type { FileTarget } from '../files/transfer.js';
import { placeClusters, storePlaced } from './fresh-target.js';
import { isPlainFile } from '../files/plain-file.js';
import type { Turn } from '../jobs/turns.js';

/** Bytes of memory for streams that most chunks can do with. */
const usualChunk = 1024 * 1024;

interface EncodedRun {
  readonly run: Range;
  readonly streams: readonly (Uint8Array | null)[];
}

/** A new image that nobody else uses, compressed. Clusters that do not get smaller are stored as they are. */
export class CompressedFreshTarget implements CopyTarget {
  readonly unit: number;
  readonly zeroUnit: number;
  readonly startsZero = true;
  readonly file?: FileTarget;
  readonly #room: CompressedRoom;
  readonly #guest: GuestImage;
  readonly #level: number | undefined;
  /** Memory for streams, used again: new memory has to be cleared each time. */
  readonly #idleOutputs: Uint8Array[] = [];

  /**
   * @param storage that the image is in
   * @param level of the image's compression type; its default when undefined
   */
  constructor(guest: GuestImage, storage: Storage, level: number | undefined) {
    this.#guest = guest;
    this.#level = level;
    this.unit = guest.image.geometry.clusterSize;
    this.zeroUnit = this.unit;
    this.#room = new CompressedRoom(guest);
    const { codec, name, defaultLevel } = codecs[guest.image.header.compressionType];
    if (!isPlainFile(storage) || !native.codecs[name]) return;
    const { maxRefcount } = guest.image.geometry;
    const { area } = this.#room;
    const compression = { codec, level: level ?? defaultLevel, maxShares: maxRefcount, area };
    this.file = { storage, room: this.#room, compression };
  }

  /** Gives back what was taken and not used. */
  finish(): void {
    this.#room.giveBack();
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
