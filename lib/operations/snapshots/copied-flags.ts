/** Setting the COPIED flags of the active disk where something ceased to be shared. */
import type { Image } from '../../metadata/image.js';
import { CheckContext } from '../check/context.js';
import { correctCopied } from '../check/copied.js';
import { Findings } from '../check/findings.js';
import { followL1 } from '../check/l1.js';
import type { CheckProgress } from '../check/reader.js';
import { storedRefcounts } from '../check/refcounts.js';
import { activeL1 } from '../check/references.js';

/**
 * Sets COPIED on all entries whose refcount is 1. Everything is in the file as it is in memory.
 * Order: refcounts that were lowered | COPIED.
 */
export async function setMissingCopied(image: Image, progress: CheckProgress): Promise<void> {
  await image.committer.barrier();
  const context = await CheckContext.of(image, new Findings({ maxFindings: 0 }), progress, {});
  followL1(context, image.mapping.l1Bytes, activeL1, 0, context.activeTables);
  await correctCopied(context, 'set', await storedRefcounts(context));
}
