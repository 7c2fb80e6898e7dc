/** Reading what opening an image begins with: its header, and the tables that stay in memory. */
import { tableEntrySize } from '../format/geometry.js';
import { headerBytesNeeded, parseHeader, type Header } from '../format/header.js';
import { readExactly, readTable, readUpTo, type Storage } from '../storage/storage.js';

/** The tables that stay in memory, as they are in the file. */
export interface ImageTables {
  readonly l1: Uint8Array;
  /** Empty where the header says where it is but must be wrong. */
  readonly refcountTable: Uint8Array;
}

/** Enough for any header's fixed fields. */
const preambleBytes = 104;

/** What is in memory is read at once, up to so many bytes: asking the thread pool for them would cost more. */
const maxAtOnce = 256 * 1024;

/** Reads and checks the header of an image file. */
export async function readHeader(storage: Storage, tolerateRefcounts: boolean): Promise<Header> {
  const fileSize = await storage.size();
  const start = new Uint8Array(preambleBytes);
  const got = isReadAtOnce(storage, start, 0) ? start.length : await readUpTo(storage, start, 0);
  const bytes = new Uint8Array(headerBytesNeeded(start.subarray(0, got), fileSize));
  if (!isReadAtOnce(storage, bytes, 0)) await readExactly(storage, bytes, 0, 'the header');
  return parseHeader(bytes, fileSize, tolerateRefcounts ? { tolerate: 'refcounts' } : {});
}

/** @param header what {@link readHeader} gave for the same storage */
export async function readTables(storage: Storage, header: Header): Promise<ImageTables> {
  const l1 = await tableOf(storage, header.l1Size * tableEntrySize, header.l1TableOffset, 'the L1 table');
  const refcountTable = await tableOf(
    storage,
    header.problems.length > 0 ? 0 : header.refcountTableClusters * header.geometry.clusterSize,
    header.refcountTableOffset,
    'the refcount table',
  );
  return { l1, refcountTable };
}

async function tableOf(
  storage: Storage,
  length: number,
  position: number,
  what: string,
): Promise<Uint8Array> {
  if (length <= maxAtOnce) {
    const table = new Uint8Array(length);
    if (isReadAtOnce(storage, table, position)) return table;
  }
  return readTable(storage, length, position, what);
}

function isReadAtOnce(storage: Storage, buffer: Uint8Array, position: number): boolean {
  return buffer.length <= maxAtOnce && storage.readCached?.(buffer, position) === true;
}
