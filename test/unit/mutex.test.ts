/** Mutex and PendingFrees: order, exclusion, and failures that stay with the one who failed. */
import { describe, expect, it } from 'vitest';
import { Mutex } from '../../lib/metadata/mutex.js';
import { PendingFrees, type FreeRun } from '../../lib/metadata/pending-frees.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('Mutex', () => {
  it('runs one job at a time in the order of asking, also after failures', async () => {
    const mutex = new Mutex();
    const log: string[] = [];
    let inside = 0;
    const jobs = Array.from({ length: 20 }, (_, number) =>
      mutex.run(async () => {
        inside += 1;
        expect(inside).toBe(1);
        for (let i = 0; i < (number * 7) % 4; i += 1) await turn();
        log.push(`job ${number}`);
        inside -= 1;
        if (number % 3 === 0) throw new Error(`failure ${number}`);
        return number;
      }),
    );
    const results = await Promise.allSettled(jobs);
    expect(log).toEqual(jobs.map((_, number) => `job ${number}`));
    for (const [number, result] of results.entries()) {
      if (number % 3 === 0) expect(result).toMatchObject({ reason: { message: `failure ${number}` } });
      else expect(result).toMatchObject({ value: number });
    }
  });
});

describe('PendingFrees', () => {
  it('joins neighbours of one kind in the order of the file, and keeps every cluster through failures', () => {
    const frees = new PendingFrees();
    const run = (first: number, count: number, punch: boolean, times = 1): FreeRun => ({
      first,
      count,
      times,
      punch,
    });
    for (const each of [run(12, 3, true), run(16, 1, true, 2), run(10, 2, true), run(15, 1, false)]) {
      frees.add(each);
    }
    expect(frees.clusters).toBe(7);
    const taken = frees.take();
    expect(taken).toEqual([run(10, 5, true), run(15, 1, false), run(16, 1, true, 2)]);
    expect(frees.clusters).toBe(0);
    frees.add(run(99, 1, false));
    frees.putBack(taken);
    expect(frees.clusters).toBe(8);
    expect(frees.take().at(-1)).toEqual(run(99, 1, false));
  });
});
