/**
 * Checking an image and putting right what a check found, from what cannot lose data to what might:
 *
 *   wrong COPIED flags cleared | refcounts raised | refcounts lowered | missing COPIED flags set        (`|` is a barrier)
 *   | data copied that shares a cluster with metadata
 *
 * so that a crash in between leaves the image no worse than it was. Refcounts are corrected in place where their blocks
 * are sound, and rebuilt elsewhere in the file where they are not.
 */
import { hasCode, invalidArgValue, Qcow2Error } from '../errors.js';
import type { GuestImage } from '../io/guest-image.js';
import { log } from '../log.js';
import type { Image } from '../metadata/image.js';
import { examine, reportOf, type Examination } from './check.js';
import { correctCopied } from './check/copied.js';
import type { CheckContext } from './check/context.js';
import { defaultMaxFindings } from './check/findings.js';
import { CheckProgress } from './check/reader.js';
import { compareRefcounts, type RefcountRun } from './check/refcounts.js';
import type { CheckOptions, CheckReport, Finding } from './check/report.js';
import { separateData } from './repair/shared.js';
import { countForRebuild, forgetOldRefcounts, rebuildRefcountStructure } from './repair/rebuild-refcounts.js';

/** Changed refcounts that may gather in memory, bytes. */
const maxDirtyBytes = 16 * 1024 * 1024;

/** What one round puts right can bring to light what another has to: a cluster that a rebuilt table got is in use, say. */
const maxRounds = 4;

interface Fixed {
  leaks: number;
  corruptions: number;
}

/** Checks an open image, and repairs it when told to. The caller holds no lock. */
export async function checkGuest(guest: GuestImage, options: CheckOptions): Promise<CheckReport> {
  const { repair } = options;
  if (repair !== undefined) {
    assertRepairMode(repair);
    assertWritable(guest.image);
  }
  return alone(guest, repair !== undefined, async () => {
    const progress = new CheckProgress(options);
    const found = await examine(guest.image, options, progress);
    return repair === undefined
      ? reportOf(found)
      : repairImage(guest.image, found, { ...options, repair }, progress);
  });
}

/** Makes refcounts and COPIED flags anew from what the image refers to. The caller holds no lock. */
export async function rebuildGuestRefcounts(guest: GuestImage, options: CheckOptions): Promise<void> {
  const { image } = guest;
  assertWritable(image);
  await alone(guest, true, async () => {
    await rebuild(image, options, new CheckProgress(options));
    image.refcountsRepaired();
    await image.markClean();
  });
}

/** Brings the refcounts of an image that was not closed in order, before it is used. */
export async function repairDirtyImage(image: Image): Promise<void> {
  const options = { repair: 'all' } as const;
  const progress = new CheckProgress(options);
  const report = await repairImage(image, await examine(image, options, progress), options, progress);
  if (report.checkErrors === 0 && !image.needsRepair) return;
  const left = report.findings.filter(({ severity, fixed }) => severity !== 'leak' && fixed !== true);
  const first = left.find(({ severity }) => severity === 'error') ?? left[0];
  throw new Qcow2Error(
    'ERR_QCOW2_CORRUPT',
    `${image.storage.name} was not closed properly and its refcounts cannot be repaired` +
      `${first === undefined ? '' : `: ${first.message}`}. Open it read-only to save what it holds`,
    { feature: 'dirty bit' },
  );
}

function assertRepairMode(repair: string): void {
  if (repair === 'leaks' || repair === 'all') return;
  throw invalidArgValue('repair', "must be 'leaks' or 'all'", repair);
}

function assertWritable(image: Image): void {
  if (image.writable) return;
  throw new Qcow2Error(
    'ERR_QCOW2_READ_ONLY',
    `${image.storage.name} is open read-only; to repair it open it with the mode 'r+'`,
  );
}

/** Runs `work` while no guest request changes the image and nothing waits in memory. Without `changing` reads go on. */
async function alone<T>(
  { image, locks, bitmaps }: GuestImage,
  changing: boolean,
  work: () => Promise<T>,
): Promise<T> {
  const unlock = await (changing ? locks.exclusive(0, Infinity) : locks.shared(0, Infinity));
  try {
    if (image.writable) {
      await image.committer.settle();
      // Bits that were written out early are referred to by nothing in the file yet.
      await bitmaps.save();
    }
    return await work();
  } finally {
    unlock();
  }
}

async function repairImage(
  image: Image,
  found: Examination,
  options: CheckOptions & { repair: 'leaks' | 'all' },
  progress: CheckProgress,
): Promise<CheckReport> {
  const fixed: Fixed = { leaks: 0, corruptions: 0 };
  // What is looked at again is not told again.
  const { maxFindings, memoryLimit } = options;
  const again = {
    ...(maxFindings === undefined ? {} : { maxFindings }),
    ...(memoryLimit === undefined ? {} : { memoryLimit }),
  };
  let after = found;
  for (let round = 0; round < maxRounds; round++) {
    const before = fixed.leaks + fixed.corruptions;
    // Clusters that only seem to be unreferenced must not become free.
    if (after.context.incomplete) break;
    if (options.repair === 'all') await repairAll(image, after, options, progress, fixed);
    else await repairLeaks(after, fixed);
    if (fixed.leaks + fixed.corruptions === before) break;
    forgetOldRefcounts(image);
    after = await examine(image, again, progress);
    if (isSound(after)) break;
  }
  await clearMarks(image, after);
  const report = reportOf(after);
  log(
    '%s: repaired %d corruptions and %d leaks; %d and %d are left',
    image.storage.name,
    fixed.corruptions,
    fixed.leaks,
    report.corruptions,
    report.leaks,
  );
  return {
    ...report,
    leaksFixed: fixed.leaks,
    corruptionsFixed: fixed.corruptions,
    findings: mergeFindings(found.context.findings.kept, report.findings, options.maxFindings),
  };
}

async function repairAll(
  image: Image,
  found: Examination,
  options: CheckOptions,
  progress: CheckProgress,
  fixed: Fixed,
): Promise<void> {
  const { context, refcounts } = found;
  if (context.refcountDamage === 0 && !refcounts.blocksMissing) {
    fixed.corruptions += await correctCopied(context, 'clear');
    fixed.corruptions += await correctRefcounts(context, 'low');
    fixed.leaks += await correctRefcounts(context, 'high');
    fixed.corruptions += await correctCopied(context, 'set');
    fixed.corruptions += await separateData(context);
    return;
  }
  try {
    fixed.corruptions += await rebuild(image, options, progress);
    fixed.corruptions += refcounts.low + context.refcountDamage;
    fixed.leaks += refcounts.high;
  } catch (error) {
    if (!hasCode(error, 'ERR_QCOW2_LIMIT')) throw error;
    context.findings.add({
      kind: 'refcount-table',
      severity: 'corruption',
      repair: 'none',
      where: 'the refcount table',
      message: `The refcounts cannot be rebuilt. ${error.message}`,
    });
  }
}

/** Returns the number of COPIED flags that were corrected. */
async function rebuild(image: Image, options: CheckOptions, progress: CheckProgress): Promise<number> {
  const context = await countForRebuild(image, options, progress);
  const cleared = await correctCopied(context, 'clear');
  await rebuildRefcountStructure(context);
  return cleared + (await correctCopied(context, 'set'));
}

/** COPIED flags follow only where nothing else is wrong: what they should be is not certain otherwise. */
async function repairLeaks({ context, copied }: Examination, fixed: Fixed): Promise<void> {
  // A damaged refcount table must be rebuilt first, which is more than was asked for.
  if (context.refcountDamage > 0) return;
  fixed.leaks += await correctRefcounts(context, 'high');
  const { corruptions, checkErrors } = context.findings.counted;
  if (corruptions > copied || checkErrors > 0) return;
  fixed.corruptions += await correctCopied(context, 'clear');
  fixed.corruptions += await correctCopied(context, 'set');
}

/**
 * Corrects refcounts in their blocks, durably. Returns how many; those that do not fit into their bits are left.
 * @throws the reason why a block, all of which could be read before, cannot be read any more
 */
async function correctRefcounts(context: CheckContext, which: 'low' | 'high'): Promise<number> {
  const { image, counts } = context;
  const { refcounts, committer, geometry } = image;
  let corrected = 0;
  const correct = async ({ first, count, stored, counted }: RefcountRun): Promise<void> => {
    if (stored < counted !== (which === 'low') || counted > geometry.maxRefcount) return;
    await refcounts.set(first, count, counted);
    corrected += count;
    if (refcounts.cache.dirtyBytes > maxDirtyBytes) await committer.settle();
  };
  await compareRefcounts(context, counts, correct, (_block, _clusters, error) => {
    throw error;
  });
  await committer.settle();
  return corrected;
}

function isSound({ context }: Examination): boolean {
  const { leaks, corruptions, checkErrors } = context.findings.counted;
  return leaks + corruptions + checkErrors === 0;
}

/** Clears the corrupt bit when nothing is wrong any more, and the DIRTY bit when no refcount is too low. */
async function clearMarks(image: Image, examination: Examination): Promise<void> {
  const { context, refcounts } = examination;
  const { corruptions, checkErrors } = context.findings.counted;
  if (corruptions === 0 && checkErrors === 0) await image.clearCorrupt();
  if (context.incomplete || context.refcountDamage > 0 || refcounts.low > 0) return;
  image.refcountsRepaired();
  await image.markClean();
}

/** What was found first, each finding marked as fixed when it is gone, and what only the second look told. */
function mergeFindings(
  before: readonly Finding[],
  after: readonly Finding[],
  max = defaultMaxFindings,
): Finding[] {
  const key = ({ kind, where }: Finding): string => `${kind} ${where}`;
  const left = new Set(after.map(key));
  const known = new Set(before.map(key));
  // With more left than were kept, one that is not among them may still be there.
  const certain = after.length < max;
  return [
    ...before.map((finding) => (certain && !left.has(key(finding)) ? { ...finding, fixed: true } : finding)),
    ...after.filter((finding) => !known.has(key(finding))),
  ].slice(0, max);
}
