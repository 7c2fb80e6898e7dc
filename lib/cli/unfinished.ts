/** Takes care that a half-written output is not mistaken for a good one. */
import { lstatSync, unlinkSync } from 'node:fs';
import type { BigIntStats } from 'node:fs';
import { resolve } from 'node:path';

/**
 * Runs work that writes `path`. When it fails, a file that was not there before is removed; of one that was there and
 * has been changed, `complain` says that it is incomplete.
 */
export async function writingTo<T>(
  path: string,
  complain: (message: string) => void,
  work: () => Promise<T>,
): Promise<T> {
  const before = look(path);
  try {
    return await work();
  } catch (error) {
    const after = look(path);
    if (before === undefined) removeFile(path, after);
    else if (after?.ctimeNs !== before.ctimeNs) complain(`'${path}' is incomplete`);
    throw error;
  }
}

function look(path: string): BigIntStats | undefined {
  return lstatSync(resolve(path), { bigint: true, throwIfNoEntry: false });
}

function removeFile(path: string, stats: BigIntStats | undefined): void {
  if (stats?.isFile() === true) unlinkSync(resolve(path));
}
