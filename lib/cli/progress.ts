/** Shows how far a command has come: in plain per cent, as qemu-img prints them with `-p`, or to a person as a bar. */
import type { Progress } from '../disk.js';
import type { Context } from './context.js';
import type { Output } from './output.js';
import { ProgressBar } from './progress-bar.js';
import { twoDecimals } from './rounding.js';

/** Per cent that must have been done since the last line before another one is worth it. */
const step = 1;

/** What shows progress. */
export interface ProgressDisplay {
  /** Shows that there is something to wait for. */
  begin(): void;
  update(progress: Progress): void;
  /** @param finished whether the work was done to its end */
  end(finished: boolean): void;
}

export class ProgressLine implements ProgressDisplay {
  readonly #out: Output;
  #shown: number | null = null;

  constructor(out: Output) {
    this.#out = out;
  }

  begin(): void {
    this.#show(0);
  }

  update({ done, total }: Progress): void {
    const percent = total === 0 ? 100 : (100 * done) / total;
    if (this.#shown === null || percent - this.#shown >= step || percent === 100) this.#show(percent);
  }

  /** Ends the line, at 100 per cent when work that was begun is finished. */
  end(finished: boolean): void {
    if (finished && this.#shown !== null && this.#shown !== 100) this.#show(100);
    this.#out.write('\n');
    this.#out.flush();
  }

  #show(percent: number): void {
    this.#shown = percent;
    this.#out.write(`    (${twoDecimals(percent)}/100%)\r`);
    this.#out.flush();
  }
}

/**
 * Runs work and shows its progress: with `progress` in per cent, else as a bar where a person watches, unless `quiet`.
 * @param work is given what shows it, or null
 * @param isWhole whether work with that result was done to its end; else it stopped where it had seen enough
 */
export async function withProgress<T>(
  { progress: wanted = false, quiet = false }: { progress?: boolean; quiet?: boolean },
  context: Context,
  work: (progress: ProgressDisplay | null) => Promise<T>,
  isWhole: (result: T) => boolean = () => true,
): Promise<T> {
  const progress = quiet ? null : wanted ? new ProgressLine(context.out) : barOn(context);
  let finished = false;
  try {
    const result = await work(progress);
    finished = isWhole(result);
    return result;
  } finally {
    progress?.end(finished);
  }
}

function barOn({ terminal }: Context): ProgressBar | null {
  return terminal === null ? null : new ProgressBar(terminal);
}
