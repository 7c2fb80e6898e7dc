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
import { alignUp, hostOffset, type HostOffset } from '../format/units.js';
import type { GuestImage } from '../io/guest-image.js';
import { Image } from '../metadata/image.js';
import { readSnapshotTable, replaceSnapshotTable } from '../metadata/snapshot-table-io.js';
import { readExactly } from '../storage/storage.js';
import type { Access } from './bitmaps.js';
import { setMissingCopied } from './copied-flags.js';
import type { SnapshotInfo } from './info-report.js';
import { snapshotInfo } from './info.js';
import {
  clearCopied,
  clearCopiedInTables,
  countTree,
  dropTree,
  raiseRefcounts,
  sharedL1,
  type SnapshotTree,
} from './snapshot-tree.js';

/** QEMU keeps names in fields of 256 bytes, with a NUL at the end. */
const maxNameBytes = 255;

/** Memory for the tables of an open snapshot. */
const viewCacheBytes = 8 * 1024 * 1024;

export interface CreateSnapshotOptions {
  name: string;
  /** Now by default. */
  date?: Date;
}

/** How snapshots become disks of their own. */
export interface SnapshotAccess extends Access {
  /** @param close is called when the disk is closed */
  view: (image: Image, close: () => Promise<void>) => Disk;
}

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

  list(): Promise<SnapshotInfo[]> {
    return this.#access.read(async () => {
      const { image } = this.#guest;
      return (await readSnapshotTable(image)).map((entry) => snapshotInfo(entry, image.header));
    });
  }

  /**
   * Keeps the disk as it is now. Durable when it resolves.
   * @returns the new snapshot, whose id is one more than the largest there is
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` with an external data file; `ERR_QCOW2_LIMIT` when refcounts are too narrow
   */
  async create({ name, date = new Date() }: CreateSnapshotOptions): Promise<SnapshotInfo> {
    if (typeof name !== 'string') throw invalidArgType('name', 'of type string', name);
    if (Buffer.byteLength(name) > maxNameBytes) {
      throw invalidArgValue('name', `must have at most ${maxNameBytes} bytes`, name);
    }
    const milliseconds = date.getTime();
    if (!(milliseconds >= 0 && milliseconds < 2 ** 32 * 1000)) {
      throw invalidArgValue('date', 'must lie between 1970 and 2106', date);
    }
    return this.#alone(async (image, entries) => {
      const { mapping, header } = image;
      const tree = await countTree(image, mapping.l1Bytes, 'the L1 table');
      const l1TableOffset = await placeL1(image, sharedL1(mapping.l1Bytes));
      await clearCopiedInTables(image, tree);
      const changed = clearCopied(mapping.l1Bytes, tableEntrySize);
      if (changed !== null) mapping.dirtyL1.add(changed.start, changed.end);
      await share(image, tree, { offset: l1TableOffset, entries: mapping.l1Entries });
      const entry: SnapshotEntry = {
        ...snapshotNames(nextId(entries), name),
        l1TableOffset,
        l1Size: mapping.l1Entries,
        dateSeconds: Math.floor(milliseconds / 1000),
        dateNanoseconds: (milliseconds - Math.floor(milliseconds / 1000) * 1000) * 1_000_000,
        vmClockNanoseconds: 0n,
        vmStateSize: 0,
        diskSize: header.size,
        icount: null,
        extraData: new Uint8Array(fullExtraDataSize),
      };
      await replaceSnapshotTable(image, entries, [...entries, entry]);
      return snapshotInfo(entry, image.header);
    });
  }

  /**
   * Makes the disk, its size included, what it was when the snapshot was made. What was written since is lost.
   * @param idOrName an id, or a name that is no id
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND`; `ERR_QCOW2_CONFLICT` while the image has bitmaps, which would not know of it
   */
  apply(idOrName: string): Promise<void> {
    return this.#alone(async (image, entries) => {
      const entry = find(entries, idOrName);
      if (image.header.bitmaps !== null) {
        throw conflict(
          'A snapshot cannot be applied while the image has bitmaps: they would not know what changed',
        );
      }
      const { mapping, committer, storage, header } = image;
      const l1 = sharedL1(await readL1(image, entry));
      const old = { offset: mapping.l1Offset, entries: mapping.l1Entries };
      const oldTree = await countTree(image, mapping.l1Bytes, 'the L1 table');
      const newTree = await countTree(image, l1, `the L1 table of snapshot ${entry.id}`);
      const offset = await placeL1(image, l1);
      await clearCopiedInTables(image, newTree);
      await share(image, newTree, { offset, entries: entry.l1Size });
      const fields = { size: entry.diskSize ?? header.size, l1Size: entry.l1Size, l1TableOffset: offset };
      const bytes = await diskFields(image, fields);
      await committer.decisive(async () => {
        await storage.write(bytes, headerFields.size.offset);
        await committer.barrier();
        await image.reloadHeader();
      });
      mapping.replaceL1(l1, offset);
      mapping.cache.forgetClean();
      image.reserved.forgetTables();
      this.#guest.decoded.clear();
      await dropTree(image, oldTree);
      freeL1(image, old.offset, old.entries);
      await committer.settle();
    });
  }

  /**
   * Deletes a snapshot and gives back the space that only it used.
   * @param idOrName an id, or a name that is no id
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND`; `ERR_QCOW2_CONFLICT` while it is open
   */
  delete(idOrName: string): Promise<void> {
    return this.#alone(async (image, entries) => {
      const entry = find(entries, idOrName);
      if ([...this.#open.values()].includes(entry.id)) {
        throw conflict(`Snapshot ${JSON.stringify(entry.id)} is open; close its disk first`);
      }
      const tree = await countTree(image, await readL1(image, entry), `the L1 table of snapshot ${entry.id}`);
      await replaceSnapshotTable(
        image,
        entries,
        entries.filter((other) => other !== entry),
      );
      await dropTree(image, tree);
      freeL1(image, entry.l1TableOffset, entry.l1Size);
      await image.committer.settle();
      await setMissingCopied(image);
    });
  }

  /**
   * Opens a snapshot as a read-only disk of its own size. It can be used until this image is closed, which closes it.
   * @param idOrName an id, or a name that is no id
   */
  open(idOrName: string): Promise<Disk> {
    return this.#access.read(async () => {
      // Nothing deletes the snapshot before the disk is known to be open.
      const unlock = await this.#guest.locks.shared(0, Infinity);
      try {
        return await this.#openLocked(idOrName);
      } finally {
        unlock();
      }
    });
  }

  async #openLocked(idOrName: string): Promise<Disk> {
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
      return Promise.resolve();
    });
    this.#open.set(disk, entry.id);
    return disk;
  }

  /** @internal Refuses what would take the backing file away from disks that show snapshots. */
  refuseWhileOpen(job: string): void {
    if (this.#open.size === 0) return;
    throw conflict(
      `A disk that shows a snapshot is open and reads the same backing file; close it before ${job}`,
    );
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

/**
 * Gives a tree, whose tables have no COPIED any more, one more owner: the new L1 table `owner`, which is written already.
 * Order: COPIED | refcounts, the new table | whatever makes it count. On failure all is as it was.
 */
async function share(
  image: Image,
  tree: SnapshotTree,
  owner: { offset: HostOffset; entries: number },
): Promise<void> {
  const { committer } = image;
  await committer.settle();
  await committer.barrier();
  try {
    await raiseRefcounts(image, tree);
  } catch (error) {
    freeL1(image, owner.offset, owner.entries);
    await committer.settle();
    await setMissingCopied(image);
    throw error;
  }
  await committer.settle();
  await committer.barrier();
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
  throw new Qcow2Error(
    'ERR_QCOW2_NOT_FOUND',
    `There is no snapshot ${JSON.stringify(idOrName)} in this image`,
    {
      feature: 'snapshots',
    },
  );
}

async function assertSound({ header, geometry, storage }: Image, entry: SnapshotEntry): Promise<void> {
  const damage = checkSnapshotL1(entry, header.size, geometry, await storage.size());
  if (damage !== null) throw damage;
}

async function readL1(image: Image, entry: SnapshotEntry): Promise<Uint8Array> {
  await assertSound(image, entry);
  const l1 = new Uint8Array(entry.l1Size * tableEntrySize);
  if (l1.length > 0) {
    await readExactly(image.storage, l1, entry.l1TableOffset, `the L1 table of snapshot ${entry.id}`);
  }
  return l1;
}

/** Writes an L1 table to clusters of its own. */
async function placeL1({ allocator, geometry, storage }: Image, l1: Uint8Array): Promise<HostOffset> {
  if (l1.length === 0) return hostOffset(0);
  const padded = new Uint8Array(alignUp(l1.length, geometry.clusterSize));
  padded.set(l1);
  const first = await allocator.allocateContiguous(padded.length / geometry.clusterSize);
  const offset = hostOffset(first * geometry.clusterSize);
  await storage.write(padded, offset);
  return offset;
}

function freeL1({ committer }: Image, offset: HostOffset, entries: number): void {
  if (entries > 0) committer.freeLater(offset, entries * tableEntrySize, true);
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
