/**
 * Making an image file smaller: clusters move from its end into free places before it, until what is used lies in one piece;
 * then the file is cut. Requests go on meanwhile, and so do changes but for moments. The order of each move is that of the
 * module that makes it; a crash leaves at worst clusters that are counted and not used, which the next compaction gives back.
 *
 *   check, leaks given back | [areas | clusters of the active disk | those of snapshots | L2 tables | refcount blocks] ... | cut
 */
import { hostCluster } from '../format/units.js';
import { cryptSectorSize } from '../io/encryption/crypt-sector.js';
import type { Pause } from '../io/gate.js';
import type { GuestImage } from '../io/guest-image.js';
import type { Image } from '../metadata/image.js';
import { moveAreas } from './compact/areas.js';
import { dropEmptyTables, moveOwnData } from './compact/data.js';
import { CompactJob, type CompactOptions, type CompactReport } from './compact/job.js';
import { clearForOrder } from './compact/order.js';
import { moveSharedData } from './compact/shared.js';
import { dropLastBlocks, moveL2Tables, moveRefcountBlocks, shrinkRefcountTable } from './compact/tables.js';
import { dropZeroes } from './compact/zeroes.js';
import { checkGuest } from './repair.js';
import { requireSound } from './repair/require-sound.js';
import { trimFile } from './resize/trim-file.js';

/** Against a guest that writes as fast as clusters are moved. */
const maxPasses = 16;
/** Passes after which the file need not be shorter, as what was in the way has moved. */
const maxVainPasses = 2;

/** How much of the file is used. */
interface Usage {
  /** Clusters in use. */
  readonly used: number;
  /** One past the last cluster in use. */
  readonly end: number;
}

/** Compacts an image that is open for writing. The caller holds no lock, and lets no other job run. */
export async function compactGuest(
  guest: GuestImage,
  pause: Pause,
  options: CompactOptions,
): Promise<CompactReport> {
  const { image } = guest;
  const job = new CompactJob(guest, pause, options);
  job.throwIfAborted();
  refuseWithoutSecret(guest);
  const oldSize = await image.storage.size();
  await pause(() => makeSound(guest, options));
  try {
    if (options.detectZeroes === true) await dropZeroes(job);
    await dropEmptyTables(job);
    const taken = options.order === undefined ? 0 : await clearForOrder(job);
    await movePasses(job, taken);
  } catch (error) {
    // What was done by then is worth keeping; what went wrong first is what is told.
    await job.quietly(() => cut(image)).catch(() => undefined);
    throw error;
  }
  await job.quietly(() => cut(image));
  return { copied: job.copied, updated: job.updated, oldSize, newSize: await image.storage.size() };
}

/** With LUKS the place in the file goes into the encryption of a sector, so what moves has to be encrypted anew. */
function refuseWithoutSecret({ cipher }: GuestImage): void {
  if (cipher?.sectors === 'host') cipher.cipher.decrypt(new Uint8Array(cryptSectorSize), 0);
}

/** Sees to it that references can be relied on, and gives back what nothing refers to. */
async function makeSound(guest: GuestImage, { signal }: CompactOptions): Promise<void> {
  const leaks = await requireSound(guest, 'it is compacted', signal);
  if (leaks > 0) await checkGuest(guest, { repair: 'leaks', ...(signal === undefined ? {} : { signal }) });
}

/** @param taken clusters taken for a longer file, which are free again when it is short: nothing has to fit beside them */
async function movePasses(job: CompactJob, taken: number): Promise<void> {
  let best = Infinity;
  let vain = 0;
  let moved = -1;
  for (let pass = 0; pass < maxPasses; pass++) {
    const { used, end } = await job.quietly(() => measureUsage(job));
    vain = end < best ? 0 : vain + 1;
    if (end <= used || vain > maxVainPasses || job.updated === moved) return;
    best = Math.min(best, end);
    moved = job.updated;
    job.limit = hostCluster(used);
    job.expect((await job.image.refcounts.countUsed(used, end)) * job.clusterSize);
    // What needs neighbouring clusters comes before these are filled; what finds none gets room behind all else.
    const pinned = await job.quietly(() => moveAreas(job));
    job.limit = hostCluster(Math.max(1, used - pinned - (pass === 0 ? taken : 0)));
    const { foreign } = await moveOwnData(job);
    if (foreign || job.image.header.nbSnapshots > 0) await moveSharedData(job);
    await moveL2Tables(job);
    await moveRefcountBlocks(job);
  }
}

async function measureUsage({ guest, image }: CompactJob): Promise<Usage> {
  await guest.bitmaps.save();
  await dropLastBlocks(image);
  await shrinkRefcountTable(image);
  const { refcounts } = image;
  return {
    used: await refcounts.countUsed(0, refcounts.capacity),
    end: await refcounts.usedEnd(),
  };
}

async function cut(image: Image): Promise<void> {
  await dropLastBlocks(image);
  await shrinkRefcountTable(image);
  await trimFile(image);
}
