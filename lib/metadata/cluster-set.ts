/** A set of host clusters as a paged bit map: small where clusters are few and far between, never more than a bit each. */

const pageBits = 12;
const pageClusters = 2 ** pageBits;

export class ClusterSet {
  readonly #pages = new Map<number, Uint32Array>();

  add(cluster: number): void {
    const key = Math.floor(cluster / pageClusters);
    let page = this.#pages.get(key);
    if (page === undefined) {
      page = new Uint32Array(pageClusters / 32);
      this.#pages.set(key, page);
    }
    const bit = cluster % pageClusters;
    const word = bit >>> 5;
    page[word] = (page[word] ?? 0) | (1 << (bit & 31));
  }

  delete(cluster: number): void {
    const page = this.#pages.get(Math.floor(cluster / pageClusters));
    if (page === undefined) return;
    const bit = cluster % pageClusters;
    const word = bit >>> 5;
    page[word] = (page[word] ?? 0) & ~(1 << (bit & 31));
  }

  clear(): void {
    this.#pages.clear();
  }

  has(cluster: number): boolean {
    return this.firstIn(cluster, cluster + 1) === cluster;
  }

  /** The first member in [first, end), or -1. */
  firstIn(first: number, end: number): number {
    let at = first;
    while (at < end) {
      const key = Math.floor(at / pageClusters);
      const page = this.#pages.get(key);
      if (page === undefined) {
        at = (key + 1) * pageClusters;
        continue;
      }
      const bit = at % pageClusters;
      const word = (page[bit >>> 5] ?? 0) >>> (bit & 31);
      if (word === 0) {
        at += 32 - (bit & 31);
        continue;
      }
      const found = at + 31 - Math.clz32(word & -word);
      return found < end ? found : -1;
    }
    return -1;
  }
}
