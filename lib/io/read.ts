/** The way of a guest read: runs of the mapping, each becoming a read of the file, a fill, a decode or a read further down. */
import type { Disk } from '../disk.js';
import {
  alignDown,
  alignUp,
  guestOffset,
  hostOffset,
  type GuestOffset,
  type HostOffset,
} from '../format/units.js';
import { invalidRun, misplacedRun, type RunVisitor } from '../metadata/run.js';
import { RunKind } from '../native.js';
import { InFlight } from '../storage/settle.js';
import { readUpTo } from '../storage/storage.js';
import { alreadyDone, readAtOnce } from './at-once.js';
import { cryptSectorSize } from './encryption/crypt-sector.js';
import type { DataCipher, GuestImage } from './guest-image.js';

/**
 * Fills `buffer` with guest bytes from `position` on; undefined when that is done already, as with what is in memory. Nothing
 * may change the mapping of the range until then: the caller holds a lock on it, or takes one before anything else runs.
 */
export function readGuest(
  guest: GuestImage,
  buffer: Uint8Array,
  position: GuestOffset,
): Promise<void> | undefined {
  const { mapping } = guest.image;
  const end = position + buffer.length;
  const requests = new InFlight();
  const visitor: RunVisitor = (kind, start, length, host, aux) => {
    const from = start - position;
    const part = length === buffer.length ? buffer : buffer.subarray(from, from + length);
    const request = readRun(beginner, guest, part, kind, start, host, aux);
    if (request !== undefined) requests.add(request);
  };
  let reached = position;
  try {
    reached = mapping.visitCached(position, end, false, visitor);
    if (reached === end) return requests.count === 0 ? undefined : requests.settled();
  } catch (error) {
    if (requests.count === 0) throw error;
    return requests.failed(error);
  }
  return readRest(mapping.visit(reached, end, false, visitor), requests);
}

async function readRest(visit: Promise<void>, requests: InFlight): Promise<void> {
  try {
    await visit;
  } finally {
    await requests.settled();
  }
}

/** How a read gets what is not told by tables alone; `T` says how far it got. */
export interface RunReader<T> {
  /** Of what is filled already. */
  readonly done: T;
  data(guest: GuestImage, part: Uint8Array, start: GuestOffset, host: HostOffset): T;
  /** Of a part that lies inside of the backing disk. */
  below(backing: Disk, part: Uint8Array, start: GuestOffset): T;
  compressed(guest: GuestImage, part: Uint8Array, start: GuestOffset, host: HostOffset, length: number): T;
}

/** Reads a run, or fills it. */
export function readRun<T>(
  reader: RunReader<T>,
  guest: GuestImage,
  part: Uint8Array,
  kind: RunKind,
  start: GuestOffset,
  host: HostOffset,
  aux: number,
): T {
  const { backing } = guest;
  switch (kind) {
    case RunKind.data:
      checkPlace(guest, start, host, part.length);
      return reader.data(guest, part, start, host);
    case RunKind.zero:
    case RunKind.zeroAllocated:
      part.fill(0);
      return reader.done;
    case RunKind.unallocated:
    case RunKind.unallocatedInCluster: {
      const there = partBelow(backing?.size ?? 0, part, start);
      return backing === null || there.length === 0 ? reader.done : reader.below(backing, there, start);
    }
    case RunKind.compressed:
      return reader.compressed(guest, part, start, host, aux);
    case RunKind.invalid:
      throw invalidRun(start, aux);
  }
}

/** Begins what takes waiting; undefined of what is done already. */
const beginner: RunReader<Promise<void> | undefined> = {
  done: undefined,
  data: (guest, part, start, host) =>
    guest.cipher === null
      ? readInFile(guest, part, start, host)
      : readEncrypted(guest, guest.cipher, part, start, host),
  below: (backing, part, start) => {
    const request = backing.read(part, start);
    return request === alreadyDone ? undefined : request;
  },
  compressed: readCompressed,
};

/** Reads what a disk has for a range; past its end there are zeros. */
export async function readBelow(
  backing: Pick<Disk, 'size' | 'read'>,
  part: Uint8Array,
  start: GuestOffset,
): Promise<void> {
  const there = partBelow(backing.size, part, start);
  if (there.length > 0) await backing.read(there, start);
}

/** What of `part` a disk of `size` bytes has to give; the rest, past its end, is filled with zeros. */
function partBelow(size: number, part: Uint8Array, start: GuestOffset): Uint8Array {
  const there = Math.min(part.length, Math.max(0, size - start));
  part.fill(0, there);
  return part.subarray(0, there);
}

async function readEncrypted(
  guest: GuestImage,
  { cipher, sectors }: DataCipher,
  part: Uint8Array,
  start: GuestOffset,
  host: HostOffset,
): Promise<void> {
  const lead = start % cryptSectorSize;
  const length = alignUp(lead + part.length, cryptSectorSize);
  const whole = length === part.length ? part : new Uint8Array(length);
  await readInFile(guest, whole, guestOffset(start - lead), hostOffset(host - lead));
  cipher.decrypt(whole, ((sectors === 'host' ? host : start) - lead) / cryptSectorSize);
  if (whole !== part) part.set(whole.subarray(lead, lead + part.length));
}

function readInFile(
  guest: GuestImage,
  part: Uint8Array,
  start: GuestOffset,
  host: HostOffset,
): Promise<void> | undefined {
  return readAtOnce(guest.image.dataStorage, part, host) ? undefined : waitForFile(guest, part, start, host);
}

/** The last host cluster of a file may be only partly there and reads as zeros past the end; a whole one may not be missing. */
async function waitForFile(
  guest: GuestImage,
  part: Uint8Array,
  start: GuestOffset,
  host: HostOffset,
): Promise<void> {
  const { dataStorage, geometry, hasDataFile } = guest.image;
  const got = await readUpTo(dataStorage, part, host);
  if (got === part.length) return;
  part.fill(0, got);
  const lastCluster = alignDown(host + part.length - 1, geometry.clusterSize);
  if (!hasDataFile && lastCluster >= (await dataStorage.size())) {
    throw misplacedRun(start, host, `and the file ends before ${lastCluster + geometry.clusterSize}`);
  }
}

async function readCompressed(
  guest: GuestImage,
  part: Uint8Array,
  start: GuestOffset,
  host: HostOffset,
  length: number,
): Promise<void> {
  const { clusterSize } = guest.image.geometry;
  const clusterStart = guestOffset(alignDown(start, clusterSize));
  checkPlace(guest, clusterStart, host, length);
  const cluster = await guest.decoded.get(host, length, clusterStart);
  part.set(cluster.subarray(start - clusterStart, start - clusterStart + part.length));
}

/** Refuses entries that take metadata for guest data, and with an external data file any place but the guest's own. */
export function checkPlace(guest: GuestImage, start: GuestOffset, host: HostOffset, length: number): void {
  const { image } = guest;
  if (image.hasDataFile) {
    if (host !== hostOffset(start))
      throw misplacedRun(start, host, 'not the place of the guest offset in the data file');
    return;
  }
  if (host + length > Number.MAX_SAFE_INTEGER) throw misplacedRun(start, host, 'past the end of any file');
  const taken = image.reserved.overlap(host, length);
  if (taken !== undefined) throw misplacedRun(start, host, `where the ${taken} is`);
}
