/**
 * Refusing to share or drop clusters in bulk while refcounts are too low: what is counted down to 0 would be given back though
 * something still has it, and what is counted as free would be taken for the job's own tables.
 */
import { Qcow2Error } from '../../errors.js';
import { hex } from '../../format/text.js';
import type { Image } from '../../metadata/image.js';
import type { ReferenceCounts } from '../../native.js';
import { CheckContext } from './context.js';
import { Findings } from './findings.js';
import type { CheckProgress } from './reader.js';
import { countReferences } from './references.js';
import { compareRefcounts } from './refcounts.js';

/**
 * To be called before anything changes, with everything in the file as it is in memory.
 * @param known what is referenced, where that is known already; counted when absent
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when a cluster has fewer references counted than found; the reason why a refcount
 * block cannot be read
 */
export async function refuseLowRefcounts(
  image: Image,
  progress: CheckProgress,
  known?: ReferenceCounts,
): Promise<void> {
  const context = await CheckContext.of(image, new Findings({ maxFindings: 0 }), progress, {});
  if (known === undefined) await countReferences(context, { refcountStructure: false });
  await compareRefcounts(
    context,
    known ?? context.counts,
    ({ first, stored, counted }) => {
      if (stored < counted) throw tooLow(image, first, stored, counted);
    },
    (_block, _clusters, error) => {
      if (error !== undefined) throw error as Error;
    },
  );
}

function tooLow({ geometry, storage }: Image, cluster: number, stored: number, counted: number): Qcow2Error {
  const offset = cluster * geometry.clusterSize;
  return new Qcow2Error(
    'ERR_QCOW2_CORRUPT',
    `The cluster at ${hex(offset)} of ${storage.name} has the refcount ${stored}, but ${counted} references: what still uses it ` +
      `could be lost. Nothing was changed; repair the image first (check with repair: 'all')`,
    { offset, feature: 'refcount' },
  );
}
