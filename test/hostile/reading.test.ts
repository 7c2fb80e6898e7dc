/** Every image of the corpus, opened read-only: refused with the right error, or right wherever it is not broken. */
import { describe, expect, it } from 'vitest';
import { open } from '../../lib/index.js';
import { allocationsDuring } from './allocations.js';
import { corpus } from './corpus.js';
import { checkOpened, expectCode, failure } from './expectations.js';
import type { HostileCase } from './outcome.js';
import { WatchedStorage } from './watched-storage.js';

const cases = corpus();
/** What reading a case may allocate at a time: a cluster of 2 MiB, and what tables of the file's size take. */
const largestAllocation = 4 * 2 ** 20;

describe(`reading ${cases.length} hostile and odd images`, () => {
  it('has a corpus of at least 200 cases with names of their own', () => {
    expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
    expect(cases.length).toBeGreaterThanOrEqual(200);
  });

  it.each(cases)('$name', async (hostile) => {
    const storage = new WatchedStorage(hostile.bytes);
    const largest = await allocationsDuring(() => read(hostile, storage));
    expect(storage.changes, 'changes to an image opened read-only').toEqual([]);
    expect(largest).toBeLessThanOrEqual(Math.max(largestAllocation, 4 * hostile.bytes.length));
  });
});

async function read(hostile: HostileCase, storage: WatchedStorage): Promise<void> {
  const { outcome } = hostile;
  if (outcome.kind === 'refused') {
    const error = await failure(open(storage));
    expectCode(error, outcome.code);
    if (outcome.feature !== undefined) expect(error.feature).toBe(outcome.feature);
    return;
  }
  const disk = await open(storage);
  try {
    await checkOpened(disk, outcome);
  } finally {
    await disk.close();
  }
}
