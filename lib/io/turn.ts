/**
 * Turns of the event loop. What is done at once, without waiting, takes steps of the turn it is in; when these are used up the next
 * turn is awaited, so that a loop of small reads lets timers and sockets have theirs.
 */

/** Steps, of some microseconds each, that one turn has. */
const stepsInTurn = 256;
/** Of these, how many go to requests that have waited. */
const stepsForWaiting = stepsInTurn / 2;
/** Of these, how many are for what requests that have begun do, as one may be of many pieces. */
const stepsForBegun = stepsInTurn / 8;

class Turn {
  #left = stepsInTurn;
  #isNextAwaited = false;
  readonly #waiting: (() => void)[] = [];

  /** Takes a step to begin a request with; false when it should wait for the {@link next} turn. */
  begin(): boolean {
    return this.#take(stepsForBegun);
  }

  /** Takes a step of a request that has begun; false when there is none left in this turn. */
  step(): boolean {
    return this.#take(0);
  }

  /** Resolves in one of the next turns, in the order of asking; a step of it is taken then. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#awaitNext();
    });
  }

  #take(kept: number): boolean {
    if (this.#left <= kept) {
      this.#awaitNext();
      return false;
    }
    this.#left -= 1;
    return true;
  }

  #awaitNext(): void {
    if (this.#isNextAwaited) return;
    this.#isNextAwaited = true;
    setImmediate(() => {
      this.#isNextAwaited = false;
      const served = this.#waiting.splice(0, stepsForWaiting);
      this.#left = stepsInTurn - served.length;
      for (const go of served) go();
      if (this.#waiting.length > 0) this.#awaitNext();
    });
  }
}

/** One for all disks, as they share one event loop. */
export const turn = new Turn();
