/**
 * Reads the guest data of an image in the order in which it comes in a stream. The L1 table says where the L2 tables are, and
 * these where data is: whichever of them comes next is read next. What comes before the table that tells what it is has
 * been put aside by {@link StreamStorage}, and is read from there.
 */
import { Qcow2Error } from '../errors.js';
import { readL1Entry, tableLength, tableView } from '../format/table-entry.js';
import { alignUp, guestOffset, hostOffset } from '../format/units.js';
import { cryptSectorSize } from '../io/encryption/crypt-sector.js';
import { decodeClusterOrFail } from '../io/decoded-clusters.js';
import type { GuestImage } from '../io/guest-image.js';
import { checkPlace } from '../io/read.js';
import { readHeader } from '../metadata/header-io.js';
import { invalidRun } from '../metadata/run.js';
import { RunKind } from '../native.js';
import { inOrder } from '../operations/jobs/in-order.js';
import type { StreamStorage } from '../storage/stream.js';
import { RunQueue, type QueuedRun } from './run-queue.js';

/** A run of guest bytes that the image says something of. */
export interface StreamPiece {
  /** First byte on the virtual disk. */
  readonly start: number;
  /** Bytes. */
  readonly length: number;
  /** The bytes, or null for zeros. */
  readonly data: Uint8Array | null;
}

/** Bytes as they are in the stream, which are decoded while the next are read. */
export interface Raw {
  readonly run: QueuedRun;
  readonly bytes: Uint8Array | null;
}

const chunkBytes = 1024 * 1024;
/** Pieces decoded at once. */
const decodeAhead = 4;
/** Fewer bytes are better copied than handed on by themselves, bytes. */
const usualView = 64 * 1024;
/** Buffers kept to be used again: as many as are under way. */
const maxIdle = 8;
/** Runs in memory, 32 bytes each, past which tables wait until data has made room. */
const maxRuns = 2 ** 22;

/**
 * The pieces of the disk, in the order of the stream. Where the image says nothing they are zeros, or, if it names a backing
 * file, in no piece.
 */
export function streamPieces(guest: GuestImage, walk: StreamWalk): AsyncGenerator<StreamPiece> {
  return inOrder(walk.raw(), decodeAhead, (raw) => decode(guest, raw));
}

/** Goes through a stream, from table to table and from data to data. */
export class StreamWalk {
  readonly #guest: GuestImage;
  readonly #storage: StreamStorage;
  readonly #queue = new RunQueue();
  readonly #leastView: number;
  /** Memory that pieces were copied to, and of that what can be used again. */
  readonly #own = new WeakSet<ArrayBufferLike>();
  readonly #idle: Buffer[] = [];
  /** Indexes of L1 entries, in the order of their tables in the file. */
  readonly #tables: Uint32Array;
  readonly #l1: DataView;
  #nextTable = 0;
  #onRun: (run: QueuedRun) => void = () => undefined;

  /** @param leastView fewer bytes that come in one chunk are copied together with those that follow, bytes */
  constructor(guest: GuestImage, storage: StreamStorage, leastView = usualView) {
    this.#guest = guest;
    this.#storage = storage;
    this.#leastView = leastView;
    storage.paddingBytes = guest.image.geometry.clusterSize;
    this.#l1 = tableView(guest.image.mapping.l1Bytes);
    this.#tables = this.#orderTables();
  }

  /** Whether all data found so far comes in the order of the disk. */
  get isOrdered(): boolean {
    return this.#queue.isOrdered;
  }

  /** Reads all tables now, and tells of the runs of stored data, and of zeros if wanted. */
  async readTables(
    onRun: (run: { start: number; length: number }) => void,
    withZeros: boolean,
  ): Promise<void> {
    this.#onRun = ({ guest, length }) => onRun({ start: guest, length });
    while (this.#nextTable < this.#tables.length) {
      for (const zeros of await this.expandTable()) if (withZeros) this.#onRun(zeros);
    }
    this.#onRun = () => undefined;
  }

  /** Takes the memory of a piece back that nobody looks at any more. */
  recycle({ buffer }: Uint8Array): void {
    if (this.#own.has(buffer) && this.#idle.length < maxIdle) this.#idle.push(Buffer.from(buffer));
  }

  async *raw(): AsyncGenerator<Raw> {
    this.#storage.keepRead = false;
    for (const run of this.gaps()) yield { run, bytes: null };
    for (;;) {
      if (this.tableIsNext()) {
        for (const run of await this.expandTable()) yield { run, bytes: null };
        continue;
      }
      const run = this.pop();
      if (run === undefined) break;
      yield* this.read(run);
    }
    await this.end();
  }

  /** Whether a table has to be read before the next run. */
  tableIsNext(): boolean {
    const storage = this.#storage;
    const table = this.#tableOffset(this.#tables[this.#nextTable]);
    storage.keepSkipped = table !== Infinity;
    return table !== Infinity && (table <= this.#queue.firstHost || table < storage.head) && this.#hasRoom();
  }

  /** Takes the run that comes next. Its place is where data may be. */
  pop(): QueuedRun | undefined {
    const run = this.#queue.pop();
    if (run === undefined) return undefined;
    checkPlace(this.#guest, guestOffset(run.guest), hostOffset(run.host), run.packed || run.length);
    return run;
  }

  /** Where the next run begins in the file. */
  get nextHost(): number {
    return this.#queue.firstHost;
  }

  /** Reads on behind all data, now that it is known how long the image is: whether all that the header names is inside. */
  async end(): Promise<void> {
    await this.#storage.drain();
    await readHeader(this.#storage, false);
  }

  /** Whether what the image says nothing of is someone else's to say. */
  get #showsBelow(): boolean {
    return this.#guest.image.header.backingFile !== null;
  }

  /** The zeros that no table describes: an entry may have the COPIED flag and no offset. */
  *gaps(): Generator<QueuedRun> {
    if (this.#showsBelow) return;
    const { geometry, header } = this.#guest.image;
    const zeros = (start: number, end: number): QueuedRun => ({
      host: 0,
      guest: start,
      length: end - start,
      packed: 0,
    });
    let at = 0;
    for (const index of this.#tables.slice().sort()) {
      const start = index * geometry.l2Coverage;
      if (start > at) yield zeros(at, start);
      at = start + geometry.l2Coverage;
    }
    if (at < header.size) yield zeros(at, header.size);
  }

  #hasRoom(): boolean {
    return this.#queue.length < maxRuns;
  }

  /** Reads a run that was taken. */
  async *read(run: QueuedRun): AsyncGenerator<Raw> {
    if (run.packed > 0) {
      const bytes = await this.#bytesOf(run.host, run.packed, run, 1);
      await this.keepShared(run);
      yield { run, bytes };
      return;
    }
    for (let at = 0; at < run.length;) {
      const length = Math.min(this.#mostBytes, run.length - at);
      const part = { host: run.host + at, guest: run.guest + at, length, packed: 0 };
      const bytes = await this.#plainBytes(part);
      part.length = Math.min(length, bytes.length);
      yield { run: part, bytes };
      at += part.length;
    }
  }

  /** Keeps what the next stream may share with the one that was just read, of which no table has told yet. */
  keepShared({ host, packed }: QueuedRun): Promise<void> | undefined {
    const end = host + packed;
    const isLast = this.#storage.keepSkipped && this.#storage.head === end && this.#queue.firstHost >= end;
    return isLast ? this.#storage.keepLastSector() : undefined;
  }

  get #mostBytes(): number {
    return Math.max(chunkBytes, this.#guest.image.geometry.clusterSize);
  }

  /** The bytes of a run, or of its beginning where these can be had without copying them. */
  async #plainBytes(run: QueuedRun): Promise<Uint8Array> {
    const { cipher, image } = this.#guest;
    if (cipher === null && this.#queue.firstHost >= run.host + run.length) {
      const { subclusterSize } = image.geometry;
      const least = Math.min(run.length, this.#leastView);
      const view = await this.#storage.view(run.host, run.length, least, subclusterSize);
      if (view !== null) return view;
    }
    // Ciphers work on whole sectors, of which the last may go on past the end of the disk.
    const whole = cipher === null ? run.length : alignUp(run.length, cryptSectorSize);
    return this.#bytesOf(run.host, whole, run, whole);
  }

  /** @param needed how many of the bytes must be there */
  async #bytesOf(host: number, length: number, { guest }: QueuedRun, needed: number): Promise<Uint8Array> {
    const bytes = this.#memory(length);
    // Whoever shares these bytes comes next in the queue.
    this.#storage.keepRead = this.#queue.firstHost < host + length - sharedSector;
    const got = await this.#storage.read(bytes, host);
    this.#storage.keepRead = false;
    if (got >= needed) return bytes.subarray(0, got);
    throw new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      `The stream ends at ${host + got}, inside the data for guest offset ${guest}, which goes on to ${host + length}: ` +
        'it was cut off',
      { offset: host + got },
    );
  }

  #memory(length: number): Buffer {
    if (length < chunkBytes / 2) return Buffer.allocUnsafe(length);
    const idle = this.#idle.pop() ?? Buffer.allocUnsafeSlow(this.#mostBytes);
    this.#own.add(idle.buffer);
    return idle.subarray(0, length);
  }

  /** Reads the next table, and queues the runs in it; returns its zeros. */
  async expandTable(): Promise<QueuedRun[]> {
    const { mapping, geometry, header } = this.#guest.image;
    const index = this.#tables[this.#nextTable] ?? 0;
    this.#nextTable += 1;
    const start = guestOffset(index * geometry.l2Coverage);
    const end = Math.min(header.size, start + geometry.l2Coverage);
    const zeros: QueuedRun[] = [];
    let open: QueuedRun | undefined;
    const close = (): void => {
      if (open !== undefined) this.#found(open);
      open = undefined;
    };
    await mapping.visit(start, end, false, (kind, at, length, host, aux) => {
      if (kind === RunKind.data) {
        if (open !== undefined && open.guest + open.length === at && open.host + open.length === host) {
          open.length += length;
          return;
        }
        close();
        open = { host, guest: at, length, packed: 0 };
      } else if (kind === RunKind.compressed) {
        close();
        this.#found({ host, guest: at, length, packed: aux });
      } else if (kind === RunKind.invalid) {
        throw invalidRun(at, aux);
      } else if (kind === RunKind.zero || kind === RunKind.zeroAllocated || !this.#showsBelow) {
        zeros.push({ host: 0, guest: at, length, packed: 0 });
      }
    });
    close();
    return zeros;
  }

  #found(run: QueuedRun): void {
    this.#queue.push(run);
    this.#onRun(run);
  }

  #tableOffset(index: number | undefined): number {
    if (index === undefined) return Infinity;
    const offset = readL1Entry(this.#l1, index, this.#guest.image.geometry.clusterSize);
    if (offset < 0) throw invalidRun(guestOffset(index * this.#guest.image.geometry.l2Coverage), offset);
    return offset;
  }

  #orderTables(): Uint32Array {
    const { header, geometry } = this.#guest.image;
    const entries = Math.min(tableLength(this.#l1), Math.ceil(header.size / geometry.l2Coverage));
    const used: number[] = [];
    let inOrderAlready = true;
    let last = 0;
    for (let index = 0; index < entries; index++) {
      const offset = this.#tableOffset(index);
      if (offset === 0) continue;
      used.push(index);
      inOrderAlready &&= offset >= last;
      last = offset;
    }
    if (!inOrderAlready) used.sort((a, b) => this.#tableOffset(a) - this.#tableOffset(b));
    return Uint32Array.from(used);
  }
}

/** Compressed clusters begin anywhere in the sector in which the one before ends: that much can be read again. */
export const sharedSector = 512;

export async function decode({ image, cipher }: GuestImage, { run, bytes }: Raw): Promise<StreamPiece> {
  const { guest, host, length, packed } = run;
  if (bytes === null) return { start: guest, length, data: null };
  if (packed > 0) {
    const { clusterSize } = image.geometry;
    const input = bytes.length === packed ? bytes : Buffer.concat([bytes], packed);
    const cluster = await decodeClusterOrFail(
      image.header.compressionType,
      input,
      clusterSize,
      hostOffset(host),
      guestOffset(guest),
    );
    return { start: guest, length, data: cluster.subarray(0, length) };
  }
  cipher?.cipher.decrypt(bytes, (cipher.sectors === 'host' ? host : guest) / cryptSectorSize);
  return { start: guest, length, data: bytes.subarray(0, length) };
}
