/** Host clusters whose references were dropped in memory, waiting for that drop to become durable. */

/** A run of host clusters, each to lose references. */
export interface FreeRun {
  first: number;
  count: number;
  /** How many references each loses. */
  times: number;
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

  add(run: FreeRun): void {
    this.#clusters += run.count;
    if (!extend(this.#runs.at(-1), run)) this.#runs.push({ ...run });
  }

  /** Everything waiting, which is then forgotten here, in the order of the file: neighbours share table slices. */
  take(): FreeRun[] {
    const merged: FreeRun[] = [];
    for (const run of this.#runs.sort((a, b) => a.first - b.first)) {
      if (!extend(merged.at(-1), run)) merged.push(run);
    }
    this.#runs = [];
    this.#clusters = 0;
    return merged;
  }

  /** Returns what could not be freed, before what was added since. */
  putBack(runs: readonly FreeRun[]): void {
    this.#runs = [...runs, ...this.#runs];
    for (const run of runs) this.#clusters += run.count;
  }
}

/** Makes `last` longer by a run right behind it that is to be treated alike. */
function extend(last: FreeRun | undefined, { first, count, times, punch }: FreeRun): boolean {
  if (last?.punch !== punch || last.times !== times || last.first + last.count !== first) return false;
  last.count += count;
  return true;
}
