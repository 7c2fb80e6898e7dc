/** Gathers what a check finds: all of it counted, the first findings kept. */
import type { CheckOptions, CheckReport, Finding, FindingKind, RepairTier } from './report.js';

export const defaultMaxFindings = 1000;

/** Counts as in a report. */
export type Counted = Pick<
  CheckReport,
  'leaks' | 'corruptions' | 'checkErrors' | 'leaksFixed' | 'corruptionsFixed'
>;

/** What a repair does about findings of a kind, unless whoever reports one knows better. */
const tiers: Record<FindingKind, RepairTier> = {
  'refcount-too-high': 'safe',
  'refcount-too-low': 'safe',
  'copied-flag': 'safe',
  overlap: 'risky',
  'refcount-table': 'risky',
  'entry-out-of-file': 'none',
  'entry-unaligned': 'none',
  'entry-reserved-bits': 'none',
  'invalid-entry': 'none',
  'table-unreadable': 'none',
  snapshot: 'none',
  bitmap: 'none',
  'encryption-header': 'none',
  'io-error': 'none',
};

/** A finding as it is reported, with or without a word on its repair. */
export type Reported = Omit<Finding, 'repair'> & { repair?: RepairTier };

export class Findings {
  readonly kept: Finding[] = [];
  readonly counted: Counted = {
    leaks: 0,
    corruptions: 0,
    checkErrors: 0,
    leaksFixed: 0,
    corruptionsFixed: 0,
  };
  readonly #max: number;
  readonly #listener: CheckOptions['onFinding'];

  constructor({ maxFindings = defaultMaxFindings, onFinding }: CheckOptions = {}) {
    this.#max = maxFindings;
    this.#listener = onFinding;
  }

  /** Whether another finding is of use to anybody: to save the work of wording one. */
  get hasRoom(): boolean {
    return this.#listener !== undefined || this.kept.length < this.#max;
  }

  /** @param times how often it counts: a damaged table that snapshots share damages each of them */
  add(reported: Reported, times = 1): void {
    const finding = { ...reported, repair: reported.repair ?? tiers[reported.kind] };
    this.count(finding.severity, times);
    if (this.kept.length < this.#max) this.kept.push(finding);
    this.#listener?.(finding);
  }

  count(severity: Finding['severity'], times: number): void {
    if (severity === 'leak') this.counted.leaks += times;
    else if (severity === 'corruption') this.counted.corruptions += times;
    else this.counted.checkErrors += times;
  }

  fixed(severity: 'leak' | 'corruption', times: number): void {
    if (severity === 'leak') this.counted.leaksFixed += times;
    else this.counted.corruptionsFixed += times;
  }
}
