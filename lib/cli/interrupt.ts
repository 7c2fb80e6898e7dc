/** Lets the user stop a command that writes, and lets the command tidy up first. */

type StopSignal = 'SIGINT' | 'SIGTERM';

/** The user (or the system) asked the program to stop. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly signal: StopSignal;

  constructor(signal: StopSignal) {
    super('interrupted');
    this.signal = signal;
  }

  /**
   * Lets the signal end the process, now that all is tidied up. Shells tell that from an exit code: one in a loop stops, too.
   * And it does not wait for a read of a pipe that is still under way, as leaving by itself would.
   */
  die(): void {
    process.kill(process.pid, this.signal);
  }
}

/**
 * Runs work that a signal aborts. The work should end with the reason of its AbortSignal; a second signal does not wait
 * for it.
 * @throws Interrupted when a signal came, whatever the work made of it; else what the work throws
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = (name: NodeJS.Signals): void => {
    const interrupted = new Interrupted(name === 'SIGTERM' ? 'SIGTERM' : 'SIGINT');
    if (!controller.signal.aborted) controller.abort(interrupted);
    else {
      restore();
      interrupted.die();
    }
  };
  const restore = (): void => void process.off('SIGINT', stop).off('SIGTERM', stop);
  process.on('SIGINT', stop).on('SIGTERM', stop);
  try {
    const result = await work(controller.signal);
    controller.signal.throwIfAborted();
    return result;
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error;
  } finally {
    restore();
  }
}

/** Settles as the promise does, or rejects with the reason of the signal as soon as it is aborted. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    promise.then(resolve, reject);
  });
}
