/** Stopping a long job at each point where it reports how far it has come. */
import { expect } from 'vitest';
import type { Job, Progress } from '../../lib/index.js';

/**
 * Runs a job again and again, each time stopped one report later than before, until one run is not stopped any more.
 * @param step stops after every so manieth report only
 * @param stopped is called after each run that was stopped
 * @returns how many were
 */
export async function stopEverywhere(
  run: (job: Required<Pick<Job, 'signal' | 'onProgress'>>) => Promise<unknown>,
  stopped: () => Promise<void>,
  step = 1,
): Promise<number> {
  for (let stops = 0; ; stops += 1) {
    const controller = new AbortController();
    const reason = new Error(`stopped after report ${stops * step}`);
    const seen: Progress[] = [];
    const onProgress = (progress: Progress): void => {
      seen.push({ ...progress });
      if (seen.length > stops * step) controller.abort(reason);
    };
    try {
      await run({ signal: controller.signal, onProgress });
    } catch (error) {
      expect(error).toBe(reason);
      await stopped();
      continue;
    }
    expectProgress(seen);
    return stops;
  }
}

/** Progress goes up, to the end, which does not move. */
export function expectProgress(seen: readonly Progress[]): void {
  const last = seen.at(-1);
  expect(last).toBeDefined();
  expect(last?.done).toBe(last?.total);
  expect(new Set(seen.map(({ total }) => total)).size).toBe(1);
  const done = seen.map((progress) => progress.done);
  expect(done).toEqual(done.toSorted((a, b) => a - b));
}
