/** One open image file: its header, its tables in memory, and changing single header fields. No guest data passes here. */
import { Qcow2Error } from '../errors.js';
import { hasFeature, knownBits, withFeature } from '../format/features.js';
import type { Geometry } from '../format/geometry.js';
import { tableEntrySize } from '../format/geometry.js';
import { encodeField, headerFields, type HeaderField } from '../format/header-fields.js';
import type { Header, HeaderValues } from '../format/header.js';
import { L2Flag } from '../native.js';
import type { Storage } from '../storage/storage.js';
import { Allocator } from './allocator.js';
import { Committer } from './commit.js';
import { FileEnd } from './file-end.js';
import { readHeader, readTables, type ImageTables } from './header-io.js';
import { Mapping } from './mapping.js';
import { Mutex } from './mutex.js';
import { Refcounts } from './refcounts.js';
import { Reserved } from './reserved.js';

export interface ImageOptions {
  readonly writable: boolean;
  /** Budget of all table caches together, bytes. */
  readonly cacheBytes: number;
  /** Opens what is marked corrupt or has damaged refcounts, so that it can be checked and repaired. */
  readonly forRepair: boolean;
}

export class Image {
  readonly storage: Storage;
  /** Where guest data is: the external data file, or the image file itself. */
  readonly dataStorage: Storage;
  readonly geometry: Geometry;
  readonly writable: boolean;
  readonly reserved: Reserved;
  readonly fileEnd: FileEnd;
  readonly refcounts: Refcounts;
  readonly mapping: Mapping;
  readonly committer: Committer;
  readonly allocator: Allocator;
  readonly #headerMutex = new Mutex();
  #header: Header;
  #dirtyMarked: boolean;
  /** Whether the refcounts are right, or will be once the committer has settled: not in an image found dirty. */
  #refcountsSound: boolean;

  private constructor(
    storage: Storage,
    dataStorage: Storage | null,
    header: Header,
    tables: ImageTables,
    options: ImageOptions,
  ) {
    const shape = header.geometry;
    this.storage = storage;
    this.dataStorage = dataStorage ?? storage;
    this.geometry = shape;
    this.fileEnd = new FileEnd(storage);
    this.writable = options.writable;
    this.#header = header;
    this.#dirtyMarked = hasFeature(header, 'dirty');
    this.#refcountsSound = !this.#dirtyMarked;
    this.reserved = new Reserved(shape.clusterSize, {
      l2Tables: () => this.mapping.l2Tables(),
      refcountBlocks: () => this.refcounts.blocks(),
    });
    reserveAreas(this.reserved, header);
    this.refcounts = new Refcounts(
      storage,
      shape,
      tables.refcountTable,
      header.refcountTableOffset,
      this.reserved,
      options.cacheBytes / 4,
    );
    this.mapping = new Mapping({
      storage,
      geometry: shape,
      l2Flags: l2FlagsOf(header),
      l1: tables.l1,
      l1Offset: header.l1TableOffset,
      reserved: this.reserved,
      cacheBytes: (options.cacheBytes * 3) / 4,
    });
    const lazy = hasFeature(header, 'lazyRefcounts') ? { markDirty: () => this.#markDirty() } : {};
    const { refcounts, mapping, reserved } = this;
    this.committer = new Committer(
      { storage, dataStorage: this.dataStorage, geometry: shape, refcounts, mapping, reserved, ...lazy },
      options.cacheBytes / 2,
    );
    this.allocator = new Allocator(storage, shape, refcounts, reserved, this.committer, (fields) =>
      this.patchHeader(fields),
    );
  }

  /**
   * Reads the tables that stay in memory: L1 and refcount table.
   * @param header what {@link readHeader} gave for the same storage
   */
  static async open(
    storage: Storage,
    dataStorage: Storage | null,
    header: Header,
    options: ImageOptions,
  ): Promise<Image> {
    if (options.writable && !options.forRepair && hasFeature(header, 'corrupt')) {
      throw new Qcow2Error(
        'ERR_QCOW2_CORRUPT',
        `${storage.name} is marked corrupt and can only be read. Repair it before writing (check with repair: 'all')`,
        { offset: headerFields.incompatible.offset, feature: 'corrupt bit' },
      );
    }
    return new Image(storage, dataStorage, header, await readTables(storage, header), options);
  }

  get header(): Header {
    return this.#header;
  }

  /** Whether guest data lives in an external data file. */
  get hasDataFile(): boolean {
    return this.dataStorage !== this.storage;
  }

  /**
   * Changes header fields in the file, only their bytes, and in memory. Not durable before the next barrier. Fields next
   * to each other go in one write.
   */
  patchHeader(fields: Partial<Record<HeaderField & keyof HeaderValues, number | bigint>>): Promise<void> {
    return this.#headerMutex.run(async () => {
      for (const { bytes, position } of fieldWrites(fields)) await this.storage.write(bytes, position);
      this.#header = { ...this.#header, ...fields } as Header;
    });
  }

  /** Reads the header again after something other than single fields was changed. */
  reloadHeader(): Promise<void> {
    return this.#headerMutex.run(async () => {
      this.#header = await readHeader(this.storage, false);
      reserveAreas(this.reserved, this.#header);
    });
  }

  /** Clears the autoclear bits this package does not know, as a writer must. Durable before it resolves. */
  async clearUnknownAutoclear(): Promise<void> {
    const known = this.#header.autoclear & knownBits('autoclear');
    if (known === this.#header.autoclear) return;
    await this.patchHeader({ autoclear: known });
    await this.committer.barrier();
  }

  /** Whether its refcounts are known to be wrong or missing, so that nothing may be allocated. */
  get needsRepair(): boolean {
    return !this.#refcountsSound || this.#header.problems.length > 0;
  }

  /** Says that a repair made the refcounts right, so that {@link markClean} may clear the DIRTY bit. */
  refcountsRepaired(): void {
    this.#refcountsSound = true;
  }

  /** Clears the corrupt bit of an image that a repair made sound. Durable before it resolves. */
  async clearCorrupt(): Promise<void> {
    if (!hasFeature(this.#header, 'corrupt')) return;
    await this.committer.barrier();
    await this.patchHeader({ incompatible: withFeature(this.#header, 'corrupt', false).incompatible });
    await this.committer.barrier();
  }

  /**
   * Clears the DIRTY bit; it stays while refcounts still need a repair. The committer must have settled: what it lowered
   * last may not be durable yet, but that only leaks, which needs no DIRTY bit.
   */
  async markClean(): Promise<void> {
    if (!this.#dirtyMarked || !this.#refcountsSound) return;
    await this.committer.decisive(async () => {
      await this.patchHeader({ incompatible: withFeature(this.#header, 'dirty', false).incompatible });
      await this.committer.barrier();
    });
    this.#dirtyMarked = false;
  }

  /** Sets DIRTY; the barrier before the first L2 write makes it durable in time. */
  async #markDirty(): Promise<void> {
    if (this.#dirtyMarked) return;
    await this.patchHeader({ incompatible: withFeature(this.#header, 'dirty', true).incompatible });
    this.#dirtyMarked = true;
  }
}

/** How the L2 tables of an image are to be read. */
function l2FlagsOf(header: Header): number {
  return (
    (header.geometry.extendedL2 ? L2Flag.extended : 0) +
    (header.version >= 3 ? L2Flag.zeroFlag : 0) +
    (hasFeature(header, 'externalData') ? L2Flag.externalData : 0)
  );
}

function reserveAreas(reserved: Reserved, header: Header): void {
  const { clusterSize } = header.geometry;
  reserved.setArea('active L1 table', header.l1TableOffset, header.l1Size * tableEntrySize);
  if (header.problems.length === 0) {
    reserved.setArea(
      'refcount table',
      header.refcountTableOffset,
      header.refcountTableClusters * clusterSize,
    );
  }
  reserved.setArea('snapshot table', header.snapshotsOffset, header.nbSnapshots > 0 ? 1 : 0);
  reserved.setArea(
    'bitmap directory',
    header.bitmaps?.directoryOffset ?? 0,
    header.bitmaps?.directorySize ?? 0,
  );
  reserved.setArea('encryption header', header.encryption?.offset ?? 0, header.encryption?.length ?? 0);
}

function fieldWrites(
  fields: Partial<Record<HeaderField, number | bigint>>,
): { bytes: Uint8Array; position: number }[] {
  const writes: { bytes: Uint8Array; position: number }[] = [];
  const names = (Object.keys(fields) as HeaderField[]).sort(
    (a, b) => headerFields[a].offset - headerFields[b].offset,
  );
  for (const name of names) {
    const value = fields[name];
    if (value === undefined) continue;
    const bytes = encodeField(name, value);
    const position = headerFields[name].offset;
    const last = writes.at(-1);
    if (last !== undefined && last.position + last.bytes.length === position)
      last.bytes = join(last.bytes, bytes);
    else writes.push({ bytes, position });
  }
  return writes;
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
