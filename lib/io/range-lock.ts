/**
 * Locks on guest ranges: `shared` keeps the mapping of a range as it is (reads, writes in place), `exclusive` is for
 * changing it. First come, first served, so nobody starves.
 */

interface Entry {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
  /** How many of those before it are in its way: it is granted when there are none. */
  before: number;
  grant: () => void;
}

/** Gives a lock back; call it once. */
export type Unlock = () => void;

export class RangeLock {
  /** In order of asking: granted ones and those that wait. */
  #entries: Entry[] = [];

  /** For guest bytes [start, end), beside others that share. */
  shared(start: number, end: number): Promise<Unlock> | Unlock {
    return this.#lock(start, end, false);
  }

  /** Whether {@link shared} would be granted at once: what ends before anything else runs needs no lock then. */
  isShareable(start: number, end: number): boolean {
    return !this.#entries.some((other) => other.exclusive && other.start < end && start < other.end);
  }

  /** For guest bytes [start, end), alone. */
  exclusive(start: number, end: number): Promise<Unlock> | Unlock {
    return this.#lock(start, end, true);
  }

  #lock(start: number, end: number, exclusive: boolean): Promise<Unlock> | Unlock {
    const entry: Entry = { start, end, exclusive, before: 0, grant: () => undefined };
    for (const other of this.#entries) if (conflicts(other, entry)) entry.before += 1;
    this.#entries.push(entry);
    const unlock = (): void => this.#unlock(entry);
    if (entry.before === 0) return unlock;
    return new Promise((resolve) => {
      entry.grant = () => resolve(unlock);
    });
  }

  /** Looks at each of those behind it once: there may be thousands. */
  #unlock(entry: Entry): void {
    const index = this.#entries.indexOf(entry);
    this.#entries.splice(index, 1);
    for (let i = index; i < this.#entries.length; i++) {
      const later = this.#entries[i];
      if (later === undefined || later.before === 0 || !conflicts(entry, later)) continue;
      later.before -= 1;
      if (later.before === 0) later.grant();
    }
  }
}

function conflicts(a: Entry, b: Entry): boolean {
  return (a.exclusive || b.exclusive) && a.start < b.end && b.start < a.end;
}
