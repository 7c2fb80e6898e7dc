/** Gathers what a check finds: all of it counted, the first findings kept. */
import type { CheckReport, Finding } from './check-report.js';

export const defaultMaxFindings = 1000;

/** Counts as in a report. */
export type Counted = Pick<
  CheckReport,
  'leaks' | 'corruptions' | 'checkErrors' | 'leaksFixed' | 'corruptionsFixed'
>;

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

  constructor(max: number = defaultMaxFindings) {
    this.#max = max;
  }

  /** Whether another finding would be kept: to save the work of wording one. */
  get hasRoom(): boolean {
    return this.kept.length < this.#max;
  }

  /** @param times how often it counts: a damaged table that snapshots share damages each of them */
  add(finding: Finding, times = 1): void {
    this.count(finding.severity, times);
    if (this.hasRoom) this.kept.push(finding);
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
