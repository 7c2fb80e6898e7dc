/** Writing whole clusters compressed. Those that do not get smaller are stored as they are. */
import { invalidArgValue, Qcow2Error } from '../errors.js';
import { alignDown, alignUp, guestOffset, type GuestOffset, type HostOffset } from '../format/units.js';
import { native } from '../native.js';
import { InFlight } from '../storage/settle.js';
import { compressClusters } from './codec.js';
import type { GuestImage } from './guest-image.js';
import { releaseRuns } from './release.js';
import { assertInside, checkRuns, writeLocked } from './write.js';

/** Bytes compressed in one piece of native work. */
const batchBytes = 1024 * 1024;

/**
 * Writes `data`, which begins at a cluster and consists of whole ones (the last may end with the disk), compressed. The
 * caller holds no lock.
 * @param level of the codec; its default when undefined
 */
export async function writeCompressed(
  guest: GuestImage,
  data: Uint8Array,
  position: GuestOffset,
  level: number | undefined,
): Promise<void> {
  const { geometry, header } = guest.image;
  if (guest.cipher !== null || guest.image.hasDataFile) {
    throw new Qcow2Error(
      'ERR_QCOW2_CONFLICT',
      'Clusters of an encrypted image or of one with an external data file cannot be compressed; write without `compress`',
      { feature: 'compressed cluster' },
    );
  }
  const end = position + data.length;
  if (position % geometry.clusterSize !== 0 || (end % geometry.clusterSize !== 0 && end !== header.size)) {
    throw invalidArgValue(
      'position',
      `must begin and end at clusters of ${geometry.clusterSize} bytes to compress`,
      position,
    );
  }
  const step = Math.max(geometry.clusterSize, alignDown(batchBytes, geometry.clusterSize));
  for (let at = 0; at < data.length; at += step) {
    const part = data.subarray(at, Math.min(at + step, data.length));
    const unlock = await guest.locks.exclusive(
      position + at,
      alignUp(position + at + part.length, geometry.clusterSize),
    );
    try {
      assertInside(guest, position + at, part.length);
      await writeBatch(guest, part, guestOffset(position + at), level);
    } finally {
      unlock();
    }
  }
}

async function writeBatch(
  guest: GuestImage,
  data: Uint8Array,
  position: GuestOffset,
  level: number | undefined,
): Promise<void> {
  const { image } = guest;
  const { clusterSize } = image.geometry;
  const whole = data.length % clusterSize === 0 ? data : padded(data, alignUp(data.length, clusterSize));
  const streams = await compressClusters(image.header.compressionType, level, whole, clusterSize);
  for (const [index, stream] of streams.entries()) {
    const start = guestOffset(position + index * clusterSize);
    if (stream === null)
      await writeLocked(guest, data.subarray(index * clusterSize, (index + 1) * clusterSize), start);
  }
  const placed: Placed[] = [];
  const requests = new InFlight();
  try {
    for (const [index, stream] of streams.entries()) {
      if (stream === null) continue;
      const host = await guest.compressedSpace.take(stream.length);
      placed.push({ start: guestOffset(position + index * clusterSize), host, length: stream.length });
      requests.add(storeStream(guest, stream, host));
    }
    await requests.settled();
  } catch (error) {
    await requests.settled().catch(() => undefined);
    for (const { host, length } of placed) image.committer.freeLater(host, length, false);
    throw error;
  }
  for (const cluster of placed) await pointAt(guest, cluster);
}

interface Placed {
  readonly start: GuestOffset;
  readonly host: HostOffset;
  readonly length: number;
}

async function storeStream(guest: GuestImage, stream: Uint8Array, host: HostOffset): Promise<void> {
  guest.decoded.clear();
  await guest.image.storage.write(stream, host);
  guest.decoded.clear();
  guest.image.committer.dataWritten();
}

/** Makes the L2 entry of a guest cluster a compressed one and lets go of what it referred to. */
async function pointAt(guest: GuestImage, { start, host, length }: Placed): Promise<void> {
  const { mapping, allocator, committer, geometry } = guest.image;
  const { clusterSize, clusterBits } = geometry;
  const old = await mapping.collect(start, start + clusterSize);
  await checkRuns(guest, old);
  await mapping.modify(start, clusterSize, allocator, committer, (table, at) => {
    native.l2SetCompressed(table, mapping.l2Flags, clusterBits, at / clusterSize, host, length);
  });
  releaseRuns(guest, old, false);
}

function padded(data: Uint8Array, length: number): Uint8Array {
  const whole = new Uint8Array(length);
  whole.set(data);
  return whole;
}
