/** The status of ranges in terms of NBD's metadata contexts, from a disk's extents and an image's bitmaps. */
import type { Disk } from '../disk.js';
import type { Qcow2 } from '../index.js';
import { State, stateDirty } from './protocol.js';
import type { StatusRun } from './replies.js';

/** A part of the disk, bytes, and a signal that ends the question. */
export interface StatusQuery {
  readonly start: number;
  readonly length: number;
  readonly signal: AbortSignal;
}

/** The runs of a range from its start on, without gaps; neighbours may be alike. */
export type StatusSource = (query: StatusQuery) => AsyncIterable<StatusRun>;

/** A longer answer is cut off here; the client asks again for the rest. */
const maxRuns = 8192;

/** What base:allocation says: zeros are holes, whatever has a place in the file is data. */
export function allocationRuns(disk: Disk): StatusSource {
  return async function* (query) {
    for await (const { type, length } of disk.extents(query)) {
      const isStored = type === 'data' || type === 'compressed';
      yield { length, flags: isStored ? 0 : State.hole | State.zero };
    }
  };
}

/** What qemu:allocation-depth says: 0 for what no layer has, 1 for the disk's own, 2 for the layer below, and so on. */
export function depthRuns(disk: Disk): StatusSource {
  return async function* (query) {
    for await (const { type, length, depth } of disk.extents(query)) {
      yield { length, flags: type === 'unallocated' ? 0 : depth + 1 };
    }
  };
}

/** What qemu:dirty-bitmap:NAME says. */
export function bitmapRuns(disk: Qcow2, name: string): StatusSource {
  return async function* (query) {
    let at = query.start;
    for await (const { start, length } of disk.bitmaps.extents(name, query)) {
      if (start > at) yield { length: start - at, flags: 0 };
      yield { length, flags: stateDirty };
      at = start + length;
    }
    const end = query.start + query.length;
    if (at < end) yield { length: end - at, flags: 0 };
  };
}

/** The answer to one question: neighbours joined, at least one run. */
export async function statusOf(
  source: StatusSource,
  query: StatusQuery,
  onlyFirst: boolean,
): Promise<StatusRun[]> {
  const runs: StatusRun[] = [];
  for await (const run of source(query)) {
    const last = runs.at(-1);
    if (last !== undefined && last.flags === run.flags) last.length += run.length;
    else if (runs.length === (onlyFirst ? 1 : maxRuns)) break;
    else runs.push({ ...run });
  }
  return runs;
}
