/** A run of guest bytes as the L2 tables describe it, and what is wrong with one that breaks the specification. */
import { Qcow2Error } from '../errors.js';
import { describeEntryProblem } from '../format/table-entry.js';
import type { GuestOffset, HostOffset } from '../format/units.js';
import { InvalidEntry, RunKind } from '../native.js';

export interface Run {
  kind: RunKind;
  start: GuestOffset;
  length: number;
  /** Where the bytes are, for kinds that have a place. */
  host: HostOffset;
  /** COPIED (1 or 0), the length of compressed data, or why the run is invalid. */
  aux: number;
}

/** Called with each run in order. It runs synchronously and must not ask the mapping for anything. */
export type RunVisitor = (
  kind: RunKind,
  start: GuestOffset,
  length: number,
  host: HostOffset,
  aux: number,
) => void;

/** Whether a run's host offset grows with its guest offset. */
export function hasPlace(kind: RunKind): boolean {
  return kind === RunKind.data || kind === RunKind.zeroAllocated || kind === RunKind.unallocatedInCluster;
}

/** Why an L2 table cannot be followed, beside the problems of its L1 entry. */
export const InvalidTable = { overlapsMetadata: -100 } as const;

const entryProblems: Record<InvalidEntry, string> = {
  [InvalidEntry.reservedBits]: 'has reserved bits set',
  [InvalidEntry.unalignedOffset]: 'is not aligned to a cluster',
  [InvalidEntry.zeroFlagInV2]: 'has the zero flag, which version 2 does not know',
  [InvalidEntry.subclusterBitmap]: 'has a contradictory subcluster bitmap',
  [InvalidEntry.compressedInDataFile]: 'is compressed, which an image with an external data file cannot hold',
  [InvalidEntry.copiedWithoutHost]: 'has the COPIED flag without a host cluster',
  [InvalidEntry.pastEnd]: 'points past the end of the file',
};

/** What to say of an invalid L2 entry, after its name. */
export const describeInvalidEntry = (reason: InvalidEntry): string => entryProblems[reason];

/** The error for reading or writing a run whose L1 or L2 entry is damaged. */
export function invalidRun(start: GuestOffset, aux: number): Qcow2Error {
  if (aux === InvalidTable.overlapsMetadata) {
    return corrupt(start, 'The L1 entry', 'points at other metadata instead of an L2 table');
  }
  if (aux < 0) return corrupt(start, 'The L1 entry', describeEntryProblem(aux));
  return corrupt(start, 'The L2 entry', describeInvalidEntry(aux as InvalidEntry));
}

/** The error for a run that refers to a place where no guest data can be. */
export function misplacedRun(start: GuestOffset, host: HostOffset, problem: string): Qcow2Error {
  return corrupt(start, 'The L2 entry', `refers to offset ${host}, ${problem}`);
}

function corrupt(start: GuestOffset, what: string, problem: string): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_CORRUPT',
    `${what} for guest offset ${start} ${problem}. The rest of the disk stays readable; check and repair the image`,
    { feature: 'cluster mapping' },
  );
}
