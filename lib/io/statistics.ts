/** Counting what is asked of an open image: how often, how much and, once somebody wants to know, how long it took. */

/** What can be asked of an image, as {@link DiskStats} counts it. */
export const requestKinds = ['read', 'write', 'zero', 'discard', 'flush'] as const;

/** One of {@link requestKinds}. `zero` is `writeZeroes`. */
export type RequestKind = (typeof requestKinds)[number];

/** Upper bounds of the buckets of {@link LatencyHistogram}, seconds, ascending; what takes longer is in one bucket more. */
export const latencyBounds: readonly number[] = [
  10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1,
  2.5, 10,
];

/** How long requests took. */
export interface LatencyHistogram {
  /** Requests by the bucket of {@link latencyBounds} they fall in, and last those that took longer. */
  readonly counts: readonly number[];
  /** Seconds of all of them together. */
  readonly sum: number;
}

/** Requests of one kind. */
export interface RequestStats {
  /** Requests begun. */
  readonly count: number;
  /** Bytes of the disk they were about, but for those that lay outside of it; 0 for flushes. */
  readonly bytes: number;
  /** How many of them failed. */
  readonly failed: number;
  /** Those that ended since latency is measured. */
  readonly latency: LatencyHistogram;
}

/** A cache of tables. */
export interface CacheStats {
  /** Look-ups that found what they wanted in memory. */
  readonly hits: number;
  /** Look-ups that had to read. */
  readonly misses: number;
  /** Bytes in memory now. */
  readonly bytes: number;
}

/**
 * What an open image has done so far. Numbers only grow, but for the bytes of the caches; those of caches and clusters begin
 * anew when `amend` opens the tables again.
 */
export interface DiskStats {
  /** By what was asked. */
  readonly requests: Readonly<Record<RequestKind, RequestStats>>;
  /** L2 tables, which say where guest data is. */
  readonly l2Cache: CacheStats;
  /** Refcount blocks, which say what is in use. */
  readonly refcountCache: CacheStats;
  /** Host clusters taken, for data and metadata. */
  readonly allocatedClusters: number;
  /** Host clusters given back. */
  readonly freedClusters: number;
}

class RequestCounter {
  count = 0;
  bytes = 0;
  failed = 0;
  readonly latencies = new Array<number>(latencyBounds.length + 1).fill(0);
  seconds = 0;

  /** @param started as `performance.now()` */
  ended(started: number): void {
    const seconds = (performance.now() - started) / 1000;
    this.seconds += seconds;
    let bucket = 0;
    while (bucket < latencyBounds.length && seconds > (latencyBounds[bucket] ?? 0)) bucket++;
    this.latencies[bucket] = (this.latencies[bucket] ?? 0) + 1;
  }
}

export class RequestCounters {
  readonly #counters: Readonly<Record<RequestKind, RequestCounter>> = {
    read: new RequestCounter(),
    write: new RequestCounter(),
    zero: new RequestCounter(),
    discard: new RequestCounter(),
    flush: new RequestCounter(),
  };
  /** The clock costs more than the counting, so it is looked at only once somebody has asked. */
  #timed = false;

  /** Counts a request. Returns what {@link end} wants to have. */
  begin(kind: RequestKind): number {
    this.#counters[kind].count++;
    return this.#timed ? performance.now() : 0;
  }

  /** Counts the bytes of a request that is in order. */
  bytes(kind: RequestKind, bytes: number): void {
    this.#counters[kind].bytes += bytes;
  }

  failed(kind: RequestKind): void {
    this.#counters[kind].failed++;
  }

  end(kind: RequestKind, started: number): void {
    if (started !== 0) this.#counters[kind].ended(started);
  }

  /** The numbers so far. From the first call on latency is measured. */
  report(): Record<RequestKind, RequestStats> {
    this.#timed = true;
    const entries = requestKinds.map((kind) => {
      const { count, bytes, failed, latencies, seconds } = this.#counters[kind];
      return [kind, { count, bytes, failed, latency: { counts: [...latencies], sum: seconds } }] as const;
    });
    return Object.fromEntries(entries) as Record<RequestKind, RequestStats>;
  }
}
