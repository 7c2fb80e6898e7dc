/** Cuts a disk into spans to be read and spans of zeros, on the grid of the target. */
import type { Disk, Extent } from '../../disk.js';
import type { Range } from '../../io/disk-queries.js';
import { alignDown } from '../../format/units.js';

/** What becomes of an extent: `copy` is read and stored, `zero` reads as zeros, `skip` is in the target already. */
export type Treatment = 'copy' | 'zero' | 'skip';

export interface Span extends Range {
  readonly treatment: Treatment;
}

/** Gaps up to this length between data are read along: that costs less than another request. */
const maxGap = 64 * 1024;

/**
 * The spans of a disk from `start` on, a multiple of `unit`, in order, without gaps, beginning and ending at multiples of `unit` or with the disk.
 * @param treat decides over each extent; units with extents of several treatments are copied
 */
export function copySpans(
  disk: Disk,
  unit: number,
  treat: (extent: Extent) => Treatment,
  signal: AbortSignal | undefined,
  start = 0,
): AsyncGenerator<Span> {
  return bridgeGaps(mergeSpans(wholeUnits(disk, unit, treat, signal, start)));
}

async function* wholeUnits(
  disk: Disk,
  unit: number,
  treat: (extent: Extent) => Treatment,
  signal: AbortSignal | undefined,
  start: number,
): AsyncGenerator<Span> {
  /** Everything before is handed on; what follows up to the next extent is part of a unit, of this treatment. */
  let done = start;
  let partial: Treatment | undefined;
  for await (const extent of disk.extents({ start, ...(signal === undefined ? {} : { signal }) })) {
    const treatment = treat(extent);
    const end = extent.start + extent.length;
    const isLast = end === disk.size;
    if (partial !== undefined) {
      if (partial !== treatment) partial = 'copy';
      const unitEnd = Math.min(done + unit, disk.size);
      if (end < unitEnd) continue;
      yield { start: done, end: unitEnd, treatment: partial };
      done = unitEnd;
      partial = undefined;
    }
    const stop = isLast ? end : alignDown(end, unit);
    if (stop > done) yield { start: done, end: stop, treatment };
    done = Math.max(done, stop);
    if (end > done) partial = treatment;
  }
}

async function* mergeSpans(spans: AsyncIterable<Span>): AsyncGenerator<Span> {
  let last: Span | undefined;
  for await (const span of spans) {
    if (last?.treatment === span.treatment) last = { ...last, end: span.end };
    else {
      if (last !== undefined) yield last;
      last = span;
    }
  }
  if (last !== undefined) yield last;
}

/** Joins copied spans over short gaps of zeros. */
async function* bridgeGaps(spans: AsyncIterable<Span>): AsyncGenerator<Span> {
  let copied: Span | undefined;
  let gap: Span | undefined;
  for await (const span of spans) {
    if (span.treatment === 'copy') {
      copied = { ...span, start: copied?.start ?? span.start };
      gap = undefined;
    } else if (copied !== undefined && gap === undefined && isBridgeable(span)) {
      gap = span;
    } else {
      if (copied !== undefined) yield copied;
      if (gap !== undefined) yield gap;
      copied = undefined;
      gap = undefined;
      yield span;
    }
  }
  if (copied !== undefined) yield copied;
  if (gap !== undefined) yield gap;
}

function isBridgeable({ start, end, treatment }: Span): boolean {
  return treatment === 'zero' && end - start <= maxGap;
}
