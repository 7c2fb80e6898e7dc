/** ClusterSet against a plain Set. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ClusterSet } from '../../lib/metadata/cluster-set.js';

/** Near word and page borders, near zero, and far out. */
const cluster = fc.oneof(
  fc.nat(70),
  fc.nat(100).map((n) => 4096 - 50 + n),
  fc.nat(100).map((n) => 2 ** 33 - 50 + n),
);

describe('ClusterSet', () => {
  it('finds the first member of any range as a plain set does', () => {
    const change = fc.record({ add: fc.boolean(), cluster });
    fc.assert(
      fc.property(
        fc.array(change, { maxLength: 60 }),
        fc.array(fc.tuple(cluster, cluster)),
        (changes, queries) => {
          const set = new ClusterSet();
          const model = new Set<number>();
          for (const { add, cluster: which } of changes) {
            if (add) model.add(which);
            else model.delete(which);
            if (add) set.add(which);
            else set.delete(which);
          }
          const members = [...model].sort((a, b) => a - b);
          for (const [first, end] of [...queries, [0, 2 ** 34] as const]) {
            if (end - first > 2 ** 20 && members.length === 0) continue;
            const expected = members.find((member) => member >= first && member < end) ?? -1;
            expect(set.firstIn(first, end)).toBe(expected);
          }
        },
      ),
    );
  });
});
