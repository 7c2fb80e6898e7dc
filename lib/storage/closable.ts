/** What has to be closed. */

export interface Closable {
  close: () => Promise<void>;
}

/** Closes all, the last opened first, and then fails with the first failure. */
export async function closeAll(closables: readonly Closable[]): Promise<void> {
  let failure: unknown;
  for (const closable of [...closables].reverse()) {
    await closable.close().catch((error: unknown) => (failure ??= error));
  }
  if (failure !== undefined) throw failure as Error;
}
