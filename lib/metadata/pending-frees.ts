/** Host clusters whose last reference was dropped in memory, waiting for that drop to become durable. */

/** A run of host clusters, each to lose one reference. */
export interface FreeRun {
  first: number;
  count: number;
  /** Whether the space shall be given back to the file system. */
  punch: boolean;
}

export class PendingFrees {
  #runs: FreeRun[] = [];
  #clusters = 0;

  /** Clusters waiting. */
  get clusters(): number {
    return this.#clusters;
  }

  add(first: number, count: number, punch: boolean): void {
    this.#clusters += count;
    const last = this.#runs.at(-1);
    if (last?.punch === punch && last.first + last.count === first) last.count += count;
    else this.#runs.push({ first, count, punch });
  }

  /** Everything waiting, which is then forgotten here. */
  take(): FreeRun[] {
    const runs = this.#runs;
    this.#runs = [];
    this.#clusters = 0;
    return runs;
  }

  /** Returns what could not be freed, before what was added since. */
  putBack(runs: readonly FreeRun[]): void {
    this.#runs = [...runs, ...this.#runs];
    for (const run of runs) this.#clusters += run.count;
  }
}
