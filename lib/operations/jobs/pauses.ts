/** Lets others have a turn in loops that may go on for long without waiting for anything. */
import { setImmediate } from 'node:timers/promises';

/** Longest time between two turns of the event loop, milliseconds. */
const longest = 10;

/** Makes a function to be awaited in each round of a loop: it waits only where the last pause was a while ago. */
export function pauses(): () => Promise<void> | undefined {
  let last = performance.now();
  return () => {
    if (performance.now() - last < longest) return undefined;
    return setImmediate().then(() => {
      last = performance.now();
    });
  };
}
