/** Looking for everything that is wrong with an image's metadata. Changes nothing. */
import type { Image } from '../metadata/image.js';
import { CheckContext } from './check/context.js';
import { reportCopied } from './check/copied.js';
import { Findings } from './check/findings.js';
import type { DiskStatistics } from './check/l2.js';
import { reportOverlaps } from './check/overlaps.js';
import { CheckProgress } from './check/reader.js';
import { reportRefcounts, storedRefcounts, type RefcountSummary } from './check/refcounts.js';
import { countReferences } from './check/references.js';
import type { CheckOptions, CheckReport } from './check/report.js';

/** What a check found, with the counts that a repair needs. */
export interface Examination {
  readonly context: CheckContext;
  readonly refcounts: RefcountSummary;
  readonly statistics: DiskStatistics;
  /** Wrong COPIED flags. */
  readonly copied: number;
}

/**
 * Checks the image as its file has it; nothing may change it meanwhile, and nothing may wait in memory.
 * Damage is reported, never thrown.
 * @throws the reason of an aborted signal; an Error `ERR_QCOW2_LIMIT` when memoryLimit does not suffice
 */
export async function examine(
  image: Image,
  options: CheckOptions,
  progress: CheckProgress = new CheckProgress(options),
): Promise<Examination> {
  const context = await CheckContext.of(image, new Findings(options), progress, options);
  const statistics = await countReferences(context, { refcountStructure: true });
  const refcounts = await reportRefcounts(context);
  const asCounted = refcounts.low + refcounts.high + refcounts.unreadable === 0;
  const stored = asCounted ? context.counts : await storedRefcounts(context);
  const unshared = asCounted && !context.counts.isShared();
  const copied = await reportCopied(context, stored, unshared && statistics.wrongIfUnshared === 0);
  reportOverlaps(context, stored);
  return { context, refcounts, statistics, copied };
}

export function reportOf({ context, refcounts, statistics }: Examination): CheckReport {
  const { clusterSize } = context.image.geometry;
  return {
    ...context.findings.counted,
    findings: context.findings.kept,
    imageEndOffset: refcounts.end * clusterSize,
    totalClusters: Math.ceil(context.image.header.size / clusterSize),
    allocatedClusters: statistics.allocated,
    compressedClusters: statistics.compressed,
    fragmentedClusters: statistics.fragmented,
  };
}
