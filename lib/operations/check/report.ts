/** What a check of an image is asked for and what it reports. Types only. */
import type { Job } from '../../disk.js';

/**
 * - `leak`: a cluster counted as used that nothing refers to: space lost, no danger
 * - `corruption`: something that loses data or will lose it at a later write
 * - `error`: something that could not be checked
 */
export type Severity = 'leak' | 'corruption' | 'error';

/** What kind of thing is wrong. */
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

/**
 * What a repair does about a finding.
 * - `safe`: puts it right, and nothing that can be read now can be lost by that
 * - `risky`: `repair: 'all'` puts it right by what the tables say; where these say two things of one place, what one of them
 *   means may be lost already, or be lost with the next write
 * - `none`: leaves it, as putting it right would take a guess
 */
export type RepairTier = 'safe' | 'risky' | 'none';

/** One thing that is wrong with an image. */
export interface Finding {
  /** What kind of thing it is. */
  kind: FindingKind;
  /** What it costs. */
  severity: Severity;
  /** Whether it can be repaired, and whether that can lose data. */
  repair: RepairTier;
  /** What the finding is about: `L2 entry 12 of the table at 0x50000`, `refcount table entry 0`. */
  where: string;
  /** Host offset concerned, bytes, when there is one. */
  offset?: number;
  /** What should be there. */
  expected?: number | string;
  /** What is there. */
  found?: number | string;
  /** All of it in words. */
  message: string;
  /** Set by a repair when it put this right. */
  fixed?: boolean;
}

/** What a check found, and what a repair did about it. */
export interface CheckReport {
  /** Clusters that nothing refers to: before a repair was tried, or what it left; so the next two. */
  leaks: number;
  /** Things that lose data or will. */
  corruptions: number;
  /** Things that could not be looked at. */
  checkErrors: number;
  /** Leaks a repair freed. */
  leaksFixed: number;
  /** Corruptions a repair put right. */
  corruptionsFixed: number;
  /** The first findings, as many as asked for, those that were fixed among them; the counts above are complete. */
  findings: Finding[];
  /** First byte past the last used host cluster. */
  imageEndOffset: number;
  /** Guest clusters of the disk. */
  totalClusters: number;
  /** Guest clusters that are stored, compressed or not. */
  allocatedClusters: number;
  /** Guest clusters that are stored compressed. */
  compressedClusters: number;
  /** Guest clusters that do not lie next to their predecessor. */
  fragmentedClusters: number;
}

/** How far is told in bytes of metadata. */
export interface CheckOptions extends Omit<Job, 'concurrency'> {
  /**
   * `leaks`: gives clusters free that nothing refers to. `all`: also corrects refcounts that are too low, rebuilds damaged
   * refcount tables and corrects COPIED flags. What would need a guess is left and told.
   */
  repair?: 'leaks' | 'all';
  /** How many findings to keep; 1000 by default. */
  maxFindings?: number;
  /** Called with every finding as it is found, however many there are; of a repair, with what was found before it. */
  onFinding?: (finding: Finding) => void;
  /**
   * Memory for counting references, bytes; 1 GiB by default, enough for 64 TiB with clusters of 64 KiB. An image that
   * needs more fails with `ERR_QCOW2_LIMIT`.
   */
  memoryLimit?: number;
}
