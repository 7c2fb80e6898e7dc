/** What a check of an image reports. Types only. */

/**
 * - `leak`: a cluster counted as used that nothing refers to: space lost, no danger
 * - `corruption`: something that loses data or will lose it at a later write
 * - `error`: something that could not be checked
 */
export type Severity = 'leak' | 'corruption' | 'error';

export type FindingKind =
  | 'refcount-too-high'
  | 'refcount-too-low'
  | 'copied-flag'
  | 'overlap'
  | 'entry-out-of-file'
  | 'entry-unaligned'
  | 'entry-reserved-bits'
  | 'invalid-entry'
  | 'table-unreadable'
  | 'refcount-table'
  | 'snapshot'
  | 'bitmap'
  | 'encryption-header'
  | 'io-error';

export interface Finding {
  kind: FindingKind;
  severity: Severity;
  /** What the finding is about: `L2 entry 12 of table 3`, `refcount block 0`. */
  where: string;
  /** Host offset concerned, bytes, when there is one. */
  offset?: number;
  expected?: number | string;
  found?: number | string;
  message: string;
  fixed?: boolean;
}

export interface CheckReport {
  leaks: number;
  corruptions: number;
  checkErrors: number;
  leaksFixed: number;
  corruptionsFixed: number;
  /** The first findings, as many as asked for; the counts above are complete. */
  findings: Finding[];
  /** First byte past the last used host cluster. */
  imageEndOffset: number;
  /** Guest clusters of the disk, and how many are allocated, compressed and not next to their predecessor. */
  totalClusters: number;
  allocatedClusters: number;
  compressedClusters: number;
  fragmentedClusters: number;
}
