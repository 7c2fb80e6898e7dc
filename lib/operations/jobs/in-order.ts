/** Runs jobs side by side and hands on their results in the order of the jobs. */

/** How many of a whole-image job are under way unless told otherwise: they keep a disk busy, in a few megabytes. */
export const defaultConcurrency = 4;

/**
 * Begins `work` on up to `limit` items at a time. Jobs under way have settled when this ends, however it ends, so that
 * their buffers are free again.
 */
export async function* inOrder<T, R>(
  items: AsyncIterable<T>,
  limit: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const underWay: Promise<R>[] = [];
  try {
    for await (const item of items) {
      const job = work(item);
      // A failure is reported when its turn comes; until then it must not count as unhandled.
      job.catch(() => undefined);
      underWay.push(job);
      if (underWay.length < limit) continue;
      const first = underWay.shift();
      if (first !== undefined) yield await first;
    }
    for (let first = underWay.shift(); first !== undefined; first = underWay.shift()) yield await first;
  } finally {
    await Promise.allSettled(underWay);
  }
}
