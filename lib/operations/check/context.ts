/** What the parts of a check share: the image as its file has it, the counts, and where findings go. */
import { hex } from '../../format/text.js';
import type { Image } from '../../metadata/image.js';
import { native, type ReferenceCounts } from '../../native.js';
import type { CheckOptions, Finding } from './report.js';
import type { Findings } from './findings.js';
import { L2TableSet } from './l2-tables.js';
import type { CheckProgress } from './reader.js';

const defaultMemoryLimit = 1024 * 1024 * 1024;

/** A contiguous piece of metadata that nothing else may share. */
export interface Area {
  readonly what: string;
  readonly start: number;
  readonly length: number;
}

export class CheckContext {
  readonly image: Image;
  readonly findings: Findings;
  readonly progress: CheckProgress;
  /** Length of the file, bytes. */
  readonly fileSize: number;
  /** Host clusters of the file, the last of which may be only partly there. */
  readonly clusters: number;
  /** How often each host cluster is referenced. */
  readonly counts: ReferenceCounts;
  /** Metadata other than L2 tables and refcount blocks. */
  readonly areas: Area[] = [];
  readonly activeTables = new L2TableSet();
  readonly snapshotTables = new L2TableSet();
  /** L2 tables that could not be read. */
  readonly unreadable = new Set<number>();
  /** Refcount blocks that could not be read, by their number. */
  readonly unreadableBlocks = new Set<number>();
  /** Clusters of metadata that something else refers to, too. */
  readonly overlapped = new Set<number>();
  /** Clusters with more references than a refcount can count. */
  readonly uncountable = new Set<number>();
  /** What holds references and could not be followed to the end: the counts may be too low. */
  incomplete = false;
  /** Findings about the refcount table itself or where its blocks are. */
  refcountDamage = 0;
  readonly #memoryLimit: number;

  private constructor(
    image: Image,
    fileSize: number,
    findings: Findings,
    progress: CheckProgress,
    options: CheckOptions,
  ) {
    this.image = image;
    this.findings = findings;
    this.progress = progress;
    this.fileSize = fileSize;
    this.clusters = Math.ceil(fileSize / image.geometry.clusterSize);
    this.#memoryLimit = options.memoryLimit ?? defaultMemoryLimit;
    this.counts = this.newCounts();
  }

  static async of(
    image: Image,
    findings: Findings,
    progress: CheckProgress,
    options: CheckOptions,
  ): Promise<CheckContext> {
    return new CheckContext(image, await image.storage.size(), findings, progress, options);
  }

  newCounts(): ReferenceCounts {
    return new native.ReferenceCounts(this.clusters, this.image.geometry.clusterBits, this.#memoryLimit);
  }

  /** One past the last byte that a table or cluster may occupy. */
  get fileEnd(): number {
    return this.clusters * this.image.geometry.clusterSize;
  }

  /** Counts an area of metadata, as often as something refers to it. */
  addArea(what: string, start: number, length: number, times = 1): void {
    if (length === 0) return;
    this.areas.push({ what, start, length });
    if (this.counts.add(start, length, times)) return;
    this.findings.add({
      kind: 'entry-out-of-file',
      severity: 'corruption',
      where: what,
      offset: start,
      message: `${what} at ${hex(start)} runs past the end of the file`,
    });
  }

  /** Reports something that holds references and could not be read or understood. */
  unknown(kind: Finding['kind'], where: string, error: unknown, offset?: number): void {
    this.incomplete = true;
    this.findings.add({
      kind: error instanceof Error && 'syscall' in error ? 'io-error' : kind,
      severity: 'error',
      where,
      ...(offset === undefined ? {} : { offset }),
      message: `${where} could not be checked: ${error instanceof Error ? error.message : String(error)}`,
    });
  }
}
