/**
 * `qcow2/xen-orchestra`: what `@xen-orchestra/qcow2` exports, over the classes of `@xen-orchestra/disk-transform`, for every kind
 * of qcow2 image.
 */
import type { Readable } from 'node:stream';
import { DiskLargerBlock, DiskSmallerBlock, RandomAccessDisk } from '@xen-orchestra/disk-transform';
import type { Disk, DiskBlock, FileAccessor } from '@xen-orchestra/disk-transform';
import { Qcow2Error } from './errors.js';
import { geometry } from './format/geometry.js';
import type { Header } from './format/header.js';
import { BlockSet } from './operations/block-set.js';
import { planLayout } from './operations/create.js';
import type { OpenOptions } from './options.js';
import { open, type Qcow2 } from './qcow2.js';
import { AccessorStorage } from './storage/accessor.js';
import type { StreamStorage } from './storage/stream.js';
import { SizedStream } from './streams/byte-source.js';
import { openStream, type ReadQcow2StreamOptions } from './streams/from-qcow2-stream.js';
import { StreamWalk, streamPieces } from './streams/pieces.js';
import { countTablesNow, placeAll } from './streams/places.js';
import { metadata } from './streams/to-qcow2-stream.js';

/** An image as a disk of blocks; {@link RandomAccessDisk.init} comes first. */
abstract class QcowDisk extends RandomAccessDisk {
  /** The parsed header of the image. */
  abstract get header(): Header;
  /** The blocks that the image says something of. */
  protected abstract get blocks(): BlockSet;

  /** Virtual size of the disk, bytes. */
  getVirtualSize(): number {
    return this.header.size;
  }

  /** Bytes: the cluster size, or that of subclusters where single ones may show those of a parent. */
  getBlockSize(): number {
    return blockSizeOf(this.header);
  }

  /** Whether the image names a backing file, which it calls its parent. */
  isDifferencing(): boolean {
    return this.header.backingFile !== null;
  }

  /** All blocks that the image says something of; a number for each, so prefer {@link QcowDisk.hasBlock} on large ones. */
  getBlockIndexes(): number[] {
    return [...this.blocks];
  }

  /** How many blocks the image says something of. */
  override getBlockIndexesCount(): number {
    return this.blocks.count();
  }

  /** Whether the image says something of the block. */
  hasBlock(index: number): boolean {
    return this.blocks.has(index);
  }
}

const blockSizeOf = ({ geometry: shape }: Header): number => shape.subclusterSize;

/** An image that a `FileAccessor` of `@xen-orchestra/disk-transform` reaches. */
export class QCowAccessor extends QcowDisk {
  readonly #accessor: FileAccessor;
  readonly #path: string;
  readonly #options: Pick<OpenOptions, 'secret' | 'dataFile' | 'cacheBytes'>;
  #descriptor: number | undefined;
  #disk: Qcow2 | undefined;
  #blocks: BlockSet | undefined;

  /**
   * Nothing is opened before `init`.
   * @param options what an image needs that is encrypted or has its data elsewhere
   */
  constructor(
    accessor: FileAccessor,
    path: string,
    options: Pick<OpenOptions, 'secret' | 'dataFile' | 'cacheBytes'> = {},
  ) {
    super();
    this.#accessor = accessor;
    this.#path = path;
    this.#options = options;
  }

  /** Opens the image and reads all of its tables; its backing file stays closed. Nothing stays open where this fails. */
  async init(): Promise<void> {
    const descriptor = await this.#accessor.openFile(this.#path);
    this.#descriptor = descriptor;
    try {
      const storage = new AccessorStorage(this.#accessor, this.#path, descriptor);
      this.#disk = await open(storage, { ...this.#options, backing: 'none' });
      this.#blocks = await describedBlocks(this.#disk);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** The parsed header of the image. */
  get header(): Header {
    return ready(this.#disk).header;
  }

  protected get blocks(): BlockSet {
    return ready(this.#blocks);
  }

  /** Reads a block that {@link hasBlock} knows; another one is an error. */
  async readBlock(index: number): Promise<DiskBlock> {
    return { index, data: await readBlock(ready(this.#disk), this.blocks, index) };
  }

  /** Closes the image and its file. */
  async close(): Promise<void> {
    await this.#disk?.close();
    if (this.#descriptor !== undefined) await this.#accessor.closeFile(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/** An image that comes through a stream. Its blocks are generated in order; they can be read by index in that order only. */
export class QcowStream extends QcowDisk {
  readonly #stream: Readable;
  readonly #options: ReadQcow2StreamOptions;
  #disk: Qcow2 | undefined;
  #storage: StreamStorage | undefined;
  #walk: StreamWalk | undefined;
  #blocks: BlockSet | undefined;
  #generated: AsyncGenerator<DiskBlock> | undefined;

  /** Nothing is read before `init`. */
  constructor(stream: Readable, options: ReadQcow2StreamOptions = {}) {
    super();
    this.#stream = stream;
    this.#options = options;
  }

  /** Reads all tables; data that comes before the last of them, or in another order than the disk's, is put aside. */
  async init(): Promise<void> {
    const { disk, storage } = await openStream(this.#stream, this.#options);
    this.#disk = disk;
    this.#storage = storage;
    const walk = new StreamWalk(disk.guest, storage);
    const blocks = new BlockSet(disk.size, blockSizeOf(disk.header));
    await walk.readTables(({ start, length }) => blocks.addBytes({ start, length }), this.isDifferencing());
    this.#blocks = blocks;
    if (walk.isOrdered) this.#walk = walk;
    else {
      storage.keepRead = true;
      await storage.drain();
    }
  }

  /** The parsed header of the image. */
  get header(): Header {
    return ready(this.#disk).header;
  }

  protected get blocks(): BlockSet {
    return ready(this.#blocks);
  }

  /** The blocks in the order of the disk, once. */
  override buildDiskBlockGenerator(): AsyncGenerator<DiskBlock> {
    return this.#walk === undefined ? super.buildDiskBlockGenerator() : this.#blocksOf(this.#walk);
  }

  /** Reads a block; where the stream is in the order of the disk, no block can be read after a later one. */
  async readBlock(index: number): Promise<DiskBlock> {
    const disk = ready(this.#disk);
    if (this.#walk === undefined) return { index, data: await readBlock(disk, this.blocks, index) };
    if (!this.hasBlock(index)) throw noBlock(index);
    this.#generated ??= this.#blocksOf(this.#walk);
    for (;;) {
      const next = await this.#generated.next();
      if (next.done === true)
        throw new Error(`Block ${index} has passed already: a stream is read in its order`);
      if (next.value.index === index) return next.value;
    }
  }

  /** Lets go of the stream; it is destroyed. */
  async close(): Promise<void> {
    await this.#storage?.close();
    await this.#disk?.close();
    this.#stream.destroy();
  }

  /** Blocks of zeros are not in the stream: they come before the stored block that follows. */
  async *#blocksOf(walk: StreamWalk): AsyncGenerator<DiskBlock> {
    const blockSize = this.getBlockSize();
    let next = this.blocks.next(0);
    for await (const { start, length, data } of streamPieces(ready(this.#disk).guest, walk)) {
      if (data === null) continue;
      for (let at = 0; at < length; at += blockSize) {
        const index = (start + at) / blockSize;
        for (; next < index; next = this.blocks.next(next + 1))
          yield { index: next, data: Buffer.alloc(blockSize) };
        yield { index, data: wholeBlock(data.subarray(at, at + blockSize), blockSize) };
        next = this.blocks.next(index + 1);
      }
    }
    for (; next < this.blocks.length; next = this.blocks.next(next + 1)) {
      yield { index: next, data: Buffer.alloc(blockSize) };
    }
  }
}

/** Makes a stream of an image from a disk whose blocks are generated in order. */
export class QcowStreamGenerator {
  readonly #disk: Disk;

  /** Takes any disk of blocks of at most 64 KiB, or of larger ones that 64 KiB divides. */
  constructor(disk: Disk) {
    this.#disk = inClusters(disk);
  }

  /** The stream; its `length` is known at once. */
  stream(signal?: AbortSignal): SizedStream {
    const disk = this.#disk;
    const layout = planLayout({ version: 2, clusterSize });
    const shape = geometry(layout.clusterBits, layout.refcountOrder, false);
    const stored = new BlockSet(disk.getVirtualSize(), clusterSize);
    for (const index of disk.getBlockIndexes()) stored.add(index);
    const contents = { size: stored.size, stored, zero: null };
    const places = placeAll(contents, shape, countTablesNow(contents, shape));
    const length = places.end * clusterSize;
    const stream = new SizedStream((announce) => {
      announce(length);
      return bytes();
    }, signal);
    return stream;

    async function* bytes(): AsyncGenerator<Uint8Array> {
      yield* metadata(contents, layout, shape, places);
      yield* blockData(disk, stored);
    }
  }
}

/** Makes a stream of an image from a disk of blocks; its `length` is known at once. */
export function toQcow2Stream(disk: Disk, { signal }: { signal?: AbortSignal } = {}): SizedStream {
  return new QcowStreamGenerator(disk).stream(signal);
}

/** The same disk in blocks of a cluster. */
function inClusters(disk: Disk): Disk {
  const blockSize = disk.getBlockSize();
  if (blockSize === clusterSize) return disk;
  if (blockSize > clusterSize) return new DiskSmallerBlock(disk, clusterSize);
  if (disk instanceof RandomAccessDisk) return new DiskLargerBlock(disk, clusterSize);
  throw new Error(`A disk in blocks of ${blockSize} bytes can only be streamed with random access`);
}

/** Bytes: what the hypervisor's own images have. */
const clusterSize = 65536;

async function* blockData(disk: Disk, stored: BlockSet): AsyncGenerator<Uint8Array> {
  let expected = stored.next(0);
  for await (const { index, data } of disk.diskBlocks()) {
    if (index !== expected) {
      throw new Qcow2Error(
        'ERR_QCOW2_CONFLICT',
        `The disk gave block ${index} where ${expected} was expected: blocks must come in order, just those it has listed`,
      );
    }
    yield wholeBlock(data, clusterSize);
    expected = stored.next(index + 1);
  }
  if (expected < stored.length) {
    throw new Qcow2Error('ERR_QCOW2_CONFLICT', `The disk has listed block ${expected} but did not give it`);
  }
}

async function describedBlocks(disk: Qcow2): Promise<BlockSet> {
  const blocks = new BlockSet(disk.size, blockSizeOf(disk.header));
  const hidesParent = disk.header.backingFile !== null;
  for await (const { start, length, type } of disk.extents({ layers: 'self' })) {
    if (type === 'data' || type === 'compressed' || (type === 'zero' && hidesParent))
      blocks.addBytes({ start, length });
  }
  return blocks;
}

async function readBlock(disk: Qcow2, blocks: BlockSet, index: number): Promise<Buffer> {
  if (!blocks.has(index)) throw noBlock(index);
  const start = index * blocks.blockSize;
  const data = Buffer.alloc(blocks.blockSize);
  await disk.read(data.subarray(0, Math.min(blocks.blockSize, disk.size - start)), start);
  return data;
}

function wholeBlock(bytes: Uint8Array, blockSize: number): Buffer {
  if (bytes.length === blockSize) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const whole = Buffer.alloc(blockSize);
  whole.set(bytes);
  return whole;
}

const noBlock = (index: number): Error => new Error(`The image has no block ${index}`);

function ready<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('Call and await init() first');
  return value;
}
