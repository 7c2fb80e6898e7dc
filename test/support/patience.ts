/** Waiting for what must not hang. */

/**
 * The promise's value, or a failure after so many seconds. They are counted one by one, as time in which this process was stopped
 * tells nothing.
 */
export async function within<T>(seconds: number, promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let passed = 0;
  const tooLong = new Promise<never>((_, reject) => {
    timer = setInterval(() => {
      passed += 1;
      if (passed === seconds) reject(new Error(`${what} hangs: nothing after ${seconds} s`));
    }, 1000);
  });
  return Promise.race([promise, tooLong]).finally(() => clearInterval(timer));
}
