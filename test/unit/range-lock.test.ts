/** RangeLock against a model that knows who may hold what at the same time. */
import { describe, expect, it } from 'vitest';
import { RangeLock } from '../../lib/io/range-lock.js';
import { Random } from '../support/pattern.js';

interface Holder {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
}

function conflict(a: Holder, b: Holder): boolean {
  return (a.exclusive || b.exclusive) && a.start < b.end && b.start < a.end;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('RangeLock', () => {
  it.each([1, 2, 3, 4, 5])('never grants conflicting ranges, and grants all (seed %i)', async (seed) => {
    const random = new Random(seed);
    const lock = new RangeLock();
    const holders = new Set<Holder>();
    const grants: number[] = [];
    const wanted: Holder[] = Array.from({ length: 200 }, () => {
      const start = random.below(20);
      return { start, end: start + random.between(1, 6), exclusive: random.chance(0.5) };
    });
    await Promise.all(
      wanted.map(async (holder, number) => {
        const { start, end } = holder;
        const unlock = await (holder.exclusive ? lock.exclusive(start, end) : lock.shared(start, end));
        for (const other of holders) expect(conflict(holder, other)).toBe(false);
        holders.add(holder);
        grants.push(number);
        for (let i = random.below(3); i > 0; i -= 1) await turn();
        holders.delete(holder);
        unlock();
      }),
    );
    expect(grants.length).toBe(wanted.length);
    // First come, first served: among those in each other's way the order of asking is kept.
    for (const [i, number] of grants.entries()) {
      for (const later of grants.slice(i + 1)) {
        const [a, b] = [wanted[later], wanted[number]];
        if (a !== undefined && b !== undefined && later < number) expect(conflict(a, b)).toBe(false);
      }
    }
  });

  it('does not let new readers pass a waiting writer', async () => {
    const lock = new RangeLock();
    const order: string[] = [];
    const reader = await lock.shared(0, 10);
    const writer = Promise.resolve(lock.exclusive(5, 6)).then((unlock) => {
      order.push('writer');
      unlock();
    });
    const late = Promise.resolve(lock.shared(0, 10)).then((unlock) => {
      order.push('late reader');
      unlock();
    });
    const elsewhere = await lock.shared(6, 10);
    elsewhere();
    reader();
    await Promise.all([writer, late]);
    expect(order).toEqual(['writer', 'late reader']);
  });

  it('lets thousands that want one range have it in the order of asking', async () => {
    const lock = new RangeLock();
    const order: number[] = [];
    const asking = Array.from({ length: 5000 }, async (_, number) => {
      const unlock = await (number % 10 === 0 ? lock.exclusive(0, 10) : lock.shared(number % 9, 10));
      order.push(number);
      unlock();
    });
    await Promise.all(asking);
    expect(order).toEqual([...order.keys()]);
    expect(order.length).toBe(asking.length);
  });

  it('grants at once, without a promise, what nothing stands against', () => {
    const lock = new RangeLock();
    expect(lock.shared(0, 10)).toBeTypeOf('function');
    expect(lock.shared(5, 15)).toBeTypeOf('function');
    expect(lock.exclusive(15, 20)).toBeTypeOf('function');
    expect(lock.exclusive(14, 16)).toBeInstanceOf(Promise);
  });
});
