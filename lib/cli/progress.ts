/** Progress in per cent, in the plain form that qemu-img prints with `-p`. */
import type { Progress } from '../disk.js';
import type { Output } from './output.js';
import { twoDecimals } from './rounding.js';

/** Per cent that must have been done since the last line before another one is worth it. */
const step = 1;

export class ProgressLine {
  readonly #out: Output;
  #shown: number | null = null;

  constructor(out: Output) {
    this.#out = out;
  }

  /** Shows that there is something to wait for. */
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
 * Runs work, with a line of progress when one is wanted.
 * @param work is given the line, or null
 */
export async function withProgress<T>(
  wanted: boolean,
  out: Output,
  work: (progress: ProgressLine | null) => Promise<T>,
): Promise<T> {
  const progress = wanted ? new ProgressLine(out) : null;
  let finished = false;
  try {
    const result = await work(progress);
    finished = true;
    return result;
  } finally {
    progress?.end(finished);
  }
}
