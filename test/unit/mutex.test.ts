/** Mutex and PendingFrees: order, exclusion, and failures that stay with the one who failed. */
import { describe, expect, it } from 'vitest';
import { Mutex } from '../../lib/metadata/mutex.js';
import { PendingFrees } from '../../lib/metadata/pending-frees.js';

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
  it('joins neighbours of one kind and keeps every cluster through failures', () => {
    const frees = new PendingFrees();
    frees.add(10, 2, true);
    frees.add(12, 3, true);
    frees.add(15, 1, false);
    frees.add(10, 1, false);
    expect(frees.clusters).toBe(7);
    const taken = frees.take();
    expect(taken).toEqual([
      { first: 10, count: 5, punch: true },
      { first: 15, count: 1, punch: false },
      { first: 10, count: 1, punch: false },
    ]);
    expect(frees.clusters).toBe(0);
    frees.add(99, 1, false);
    frees.putBack(taken);
    expect(frees.clusters).toBe(8);
    expect(frees.take()).toEqual([...taken, { first: 99, count: 1, punch: false }]);
  });
});
