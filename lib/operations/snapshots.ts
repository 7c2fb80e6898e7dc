/**
 * Internal snapshots: listing, making, applying, deleting and opening them.
 *
 *   create  COPIED cleared | copied L1, refcounts + 1, table | header | free the old table
 *   apply   COPIED of the snapshot cleared | copied L1, its refcounts + 1 | header | refcounts of the old disk - 1
 *   delete  table | header | refcounts - 1 | COPIED set where nothing is shared any more
 */
import type { Disk } from '../disk.js';
import { invalidArgType, invalidArgValue, Qcow2Error } from '../errors.js';
import { tableEntrySize } from '../format/geometry.js';
import { encodeField, headerFields } from '../format/header-fields.js';
import {
  checkSnapshotL1,
  fullExtraDataSize,
  snapshotNames,
  type SnapshotEntry,
} from '../format/snapshot-table.js';
import { readL1Entry, tableLength, tableView } from '../format/table-entry.js';
import type { GuestImage } from '../io/guest-image.js';
import { Image } from '../metadata/image.js';
import { readSnapshotTable, replaceSnapshotTable } from '../metadata/snapshot-table-io.js';
import { readExactly } from '../storage/storage.js';
import type { Access } from './bitmaps.js';
import { setMissingCopied } from './snapshots/copied-flags.js';
import type { SnapshotInfo } from './info-report.js';
import { snapshotInfo } from './info.js';
import { JobParts, type PartedJob } from './jobs/parts.js';
import { refuseLowRefcounts } from './check/low-refcounts.js';
import { freeL1, refcountWeight, shareTree, unshareTree, type SharedL1 } from './snapshots/share-tree.js';
import { countTree, dropTree, sharedL1, type SnapshotTree } from './snapshots/tree.js';
import { quote } from '../format/text.js';

/** QEMU keeps names in fields of 256 bytes, with a NUL at the end. */
const maxNameBytes = 255;

/** Memory for the tables of an open snapshot. */
const viewCacheBytes = 8 * 1024 * 1024;

/** A snapshot to be made. */
export interface CreateSnapshotOptions extends PartedJob {
  /** Its name; not empty. */
  name: string;
  /** Now by default. */
  date?: Date;
}

/** How snapshots become disks of their own. */
export interface SnapshotAccess extends Access {
  /** @param close is called when the disk is closed */
  view: (image: Image, close: () => Promise<void>) => Disk;
}

/** The internal snapshots of an image (section "Snapshots" of the specification). */
export class Snapshots {
  readonly #guest: GuestImage;
  readonly #access: SnapshotAccess;
  /** Disks that show snapshots, with the ids of these. */
  readonly #open = new Map<Disk, string>();

  /** @internal */
  constructor(guest: GuestImage, access: SnapshotAccess) {
    this.#guest = guest;
    this.#access = access;
  }

  /** All snapshots, in the order of the image. */
  list(): Promise<SnapshotInfo[]> {
    return this.#access.read(async () => {
      const { image } = this.#guest;
      return (await readSnapshotTable(image)).map((entry) => snapshotInfo(entry, image.header));
    });
  }

  /**
   * Keeps the disk as it is now. Durable when it resolves; stopped, it leaves all as it was.
   * @returns the new snapshot, whose id is one more than the largest there is
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` with an external data file; `ERR_QCOW2_LIMIT` when refcounts are too narrow;
   * `ERR_QCOW2_CORRUPT` when one is too low; the signal's reason
   */
  async create(options: CreateSnapshotOptions): Promise<SnapshotInfo> {
    const { name, date = new Date() } = options;
    if (typeof name !== 'string') throw invalidArgType('name', 'of type string', name);
    if (Buffer.byteLength(name) > maxNameBytes) {
      throw invalidArgValue('name', `must have at most ${maxNameBytes} bytes`, name);
    }
    const milliseconds = date.getTime();
    if (!(milliseconds >= 0 && milliseconds < 2 ** 32 * 1000)) {
      throw invalidArgValue('date', 'must lie between 1970 and 2106', date);
    }
    return this.#alone(async (image, entries) => {
      const { l1Bytes, l1Entries } = image.mapping;
      const own = tablesWeight(image, l1Bytes);
      const parts = new JobParts(options, 2 * own + 2 * refcountWeight(image));
      const tree = await countTree(image, l1Bytes, 'the L1 table', parts.part(own));
      const isAll = entries.length === 0 && image.header.bitmaps === null;
      await refuseLowRefcounts(image, parts.part(refcountWeight(image)), isAll ? tree.counts : undefined);
      const copy = await shareTree(image, tree, l1Bytes, true, parts);
      const entry: SnapshotEntry = {
        ...snapshotNames(nextId(entries), name),
        l1TableOffset: copy.offset,
        l1Size: l1Entries,
        dateSeconds: Math.floor(milliseconds / 1000),
        dateNanoseconds: (milliseconds - Math.floor(milliseconds / 1000) * 1000) * 1_000_000,
        vmClockNanoseconds: 0n,
        vmStateSize: 0,
        diskSize: image.header.size,
        icount: null,
        extraData: new Uint8Array(fullExtraDataSize),
      };
      await orUnshare(image, tree, copy, async () => {
        parts.seal();
        await replaceSnapshotTable(image, entries, [...entries, entry]);
      });
      parts.finish();
      return snapshotInfo(entry, image.header);
    });
  }

  /**
   * Makes the disk, its size included, what it was when the snapshot was made. What was written since is lost. Stopped
   * before that moment it leaves all as it was; after it, it is completed.
   * @param idOrName an id, or a name that is no id
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND`; `ERR_QCOW2_CONFLICT` while the image has bitmaps, which would not know of it;
   * `ERR_QCOW2_CORRUPT` when a refcount is too low; the signal's reason
   */
  apply(idOrName: string, options: PartedJob = {}): Promise<void> {
    return this.#alone(async (image, entries) => {
      const entry = find(entries, idOrName);
      if (image.header.bitmaps !== null) {
        throw conflict(
          'A snapshot cannot be applied while the image has bitmaps: they would not know what changed',
        );
      }
      const { mapping, committer, storage, header } = image;
      const l1 = await readL1(image, entry);
      const own = tablesWeight(image, mapping.l1Bytes);
      const others = tablesWeight(image, l1);
      const parts = new JobParts(options, 2 * own + 3 * others + 3 * refcountWeight(image));
      const old = { offset: mapping.l1Offset, entries: mapping.l1Entries };
      const oldTree = await countTree(image, mapping.l1Bytes, 'the L1 table', parts.part(own));
      const what = `the L1 table of snapshot ${quote(entry.id)}`;
      const newTree = await countTree(image, l1, what, parts.part(others));
      await refuseLowRefcounts(image, parts.part(own + others + refcountWeight(image)));
      const copy = await shareTree(image, newTree, l1, false, parts);
      const size = entry.diskSize ?? header.size;
      await orUnshare(image, newTree, copy, async () => {
        const fields = { size, l1Size: copy.entries, l1TableOffset: copy.offset };
        const bytes = await diskFields(image, fields);
        parts.seal();
        await committer.decisive(async () => {
          await storage.write(bytes, headerFields.size.offset);
          await committer.barrier();
          await image.reloadHeader();
        });
      });
      mapping.replaceL1(sharedL1(l1), copy.offset);
      mapping.cache.forgetClean();
      image.reserved.forgetTables();
      this.#guest.decoded.clear();
      await dropTree(image, oldTree, parts.part(refcountWeight(image)));
      freeL1(image, old);
      await committer.settle();
      parts.finish();
    });
  }

  /**
   * Deletes a snapshot and gives back the space that only it used. Stopped before the snapshot is gone from the list it
   * leaves all as it was; after that, it is completed.
   * @param idOrName an id, or a name that is no id
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND`; `ERR_QCOW2_CONFLICT` while it is open; `ERR_QCOW2_CORRUPT` when a refcount is
   * too low: what the disk or another snapshot uses would be given back; the signal's reason
   */
  delete(idOrName: string, options: PartedJob = {}): Promise<void> {
    return this.#alone(async (image, entries) => {
      const entry = find(entries, idOrName);
      if ([...this.#open.values()].includes(entry.id)) {
        throw conflict(`Snapshot ${quote(entry.id)} is open; close its disk first`);
      }
      const l1 = await readL1(image, entry);
      const own = tablesWeight(image, l1);
      const active = tablesWeight(image, image.mapping.l1Bytes) + refcountWeight(image);
      const parts = new JobParts(options, 2 * own + refcountWeight(image) + 2 * active);
      const tree = await countTree(image, l1, `the L1 table of snapshot ${quote(entry.id)}`, parts.part(own));
      await refuseLowRefcounts(image, parts.part(own + active));
      parts.seal();
      const others = entries.filter((other) => other !== entry);
      await replaceSnapshotTable(image, entries, others);
      await dropTree(image, tree, parts.part(refcountWeight(image)));
      freeL1(image, { offset: entry.l1TableOffset, entries: entry.l1Size });
      await image.committer.settle();
      await setMissingCopied(image, parts.part(active));
      parts.finish();
    });
  }

  /**
   * Opens a snapshot as a read-only disk of its own size. It can be used until this image is closed, which closes it.
   * @param idOrName an id, or a name that is no id
   */
  open(idOrName: string): Promise<Disk> {
    return this.openFor(idOrName, () => Promise.resolve());
  }

  /** @internal The same, with something to be done when the disk was closed. */
  openFor(idOrName: string, closed: () => Promise<void>): Promise<Disk> {
    return this.#access.still(async () => {
      // Nothing deletes the snapshot before the disk is known to be open.
      const unlock = await this.#guest.locks.shared(0, Infinity);
      try {
        return await this.#openLocked(idOrName, closed);
      } finally {
        unlock();
      }
    });
  }

  async #openLocked(idOrName: string, closed: () => Promise<void>): Promise<Disk> {
    const { image } = this.#guest;
    const entry = find(await readSnapshotTable(image), idOrName);
    await assertSound(image, entry);
    const header = {
      ...image.header,
      size: entry.diskSize ?? image.header.size,
      l1Size: entry.l1Size,
      l1TableOffset: entry.l1TableOffset,
      refcountTableClusters: 0,
      nbSnapshots: 0,
      bitmaps: null,
    };
    const view = await Image.open(image.storage, image.hasDataFile ? image.dataStorage : null, header, {
      writable: false,
      forRepair: false,
      cacheBytes: viewCacheBytes,
    });
    const disk = this.#access.view(view, () => {
      this.#open.delete(disk);
      return closed();
    });
    this.#open.set(disk, entry.id);
    return disk;
  }

  /** @internal Refuses what would take the backing file away from disks that show snapshots. */
  refuseWhileOpen(job: string): void {
    if (this.#open.size === 0) return;
    throw conflict(`A disk that shows a snapshot is open and reads the same files; close it before ${job}`);
  }

  /** @internal Closes all disks that show snapshots. */
  async closeAll(): Promise<void> {
    for (const disk of [...this.#open.keys()]) await disk.close();
  }

  /** Runs a job on the snapshots while nothing else happens on the disk and everything is in the file. */
  #alone<T>(job: (image: Image, entries: readonly SnapshotEntry[]) => Promise<T>): Promise<T> {
    return this.#access.change(async () => {
      const { image, locks } = this.#guest;
      if (image.hasDataFile) {
        throw conflict(
          'An image with an external data file cannot have snapshots: their data would be overwritten',
        );
      }
      const unlock = await locks.exclusive(0, Infinity);
      try {
        await image.committer.settle();
        return await job(image, await readSnapshotTable(image));
      } finally {
        unlock();
      }
    });
  }
}

/** Runs what makes the copy of an L1 table count; when that fails and the header does not name it, the copy goes again. */
async function orUnshare(
  image: Image,
  tree: SnapshotTree,
  copy: SharedL1,
  work: () => Promise<void>,
): Promise<void> {
  const { l1TableOffset, snapshotsOffset } = image.header;
  try {
    await work();
  } catch (error) {
    const { header, committer } = image;
    const isNamed = header.l1TableOffset !== l1TableOffset || header.snapshotsOffset !== snapshotsOffset;
    if (committer.isSound && !isNamed) await unshareTree(image, tree, copy);
    throw error;
  }
}

/** Bytes of the tables that an L1 table refers to. */
function tablesWeight({ geometry }: Image, l1: Uint8Array): number {
  const view = tableView(l1);
  let tables = 0;
  for (let index = 0; index < tableLength(view); index++) {
    if (readL1Entry(view, index, geometry.clusterSize) !== 0) tables++;
  }
  return tables * geometry.clusterSize;
}

/** One more than the largest id that is a number. */
function nextId(entries: readonly SnapshotEntry[]): string {
  const largest = entries.reduce((most, { id }) => {
    const number = /^\d+$/.test(id) ? BigInt(id) : 0n;
    return number > most ? number : most;
  }, 0n);
  return String(largest + 1n);
}

function find(entries: readonly SnapshotEntry[], idOrName: string): SnapshotEntry {
  const entry = entries.find(({ id }) => id === idOrName) ?? entries.find(({ name }) => name === idOrName);
  if (entry !== undefined) return entry;
  throw new Qcow2Error('ERR_QCOW2_NOT_FOUND', `There is no snapshot ${quote(idOrName)} in this image`, {
    feature: 'snapshots',
  });
}

async function assertSound({ header, geometry, storage }: Image, entry: SnapshotEntry): Promise<void> {
  const damage = checkSnapshotL1(entry, header.size, geometry, await storage.size());
  if (damage !== null) throw damage;
}

async function readL1(image: Image, entry: SnapshotEntry): Promise<Uint8Array> {
  await assertSound(image, entry);
  const l1 = new Uint8Array(entry.l1Size * tableEntrySize);
  if (l1.length > 0) {
    await readExactly(image.storage, l1, entry.l1TableOffset, `the L1 table of snapshot ${quote(entry.id)}`);
  }
  return l1;
}

/** The header fields from size to l1_table_offset, which lie together and so change at one moment. */
async function diskFields(
  { storage }: Image,
  fields: { size: number; l1Size: number; l1TableOffset: number },
): Promise<Uint8Array> {
  const start = headerFields.size.offset;
  const { offset, size } = headerFields.l1TableOffset;
  const bytes = new Uint8Array(offset + size - start);
  await readExactly(storage, bytes, start, 'the header');
  for (const name of ['size', 'l1Size', 'l1TableOffset'] as const) {
    bytes.set(encodeField(name, fields[name]), headerFields[name].offset - start);
  }
  return bytes;
}

const conflict = (message: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CONFLICT', message, { feature: 'snapshots' });
