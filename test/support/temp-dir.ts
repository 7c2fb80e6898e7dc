/** Directories that last as long as a test. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';

/** Where directories are made; in memory where the system has a place for that: for tests that flush a lot. */
export const parents = { disk: tmpdir(), memory: existsSync('/dev/shm') ? '/dev/shm' : tmpdir() };

/**
 * Gives every test that follows a directory of its own, removed after it.
 * @returns makes the absolute path of a name in it; without a name, of the directory
 */
export function useTempDir(where: keyof typeof parents = 'disk'): (name?: string) => string {
  let directory = '';
  beforeEach(async () => {
    directory = await mkdtemp(join(parents[where], 'qcow2-test-'));
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });
  return (name = '') => join(directory, name);
}

/** Runs `work` with a directory of its own, in memory where that is possible. */
export async function withTempDir<T>(work: (path: (name: string) => string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(parents.memory, 'qcow2-test-'));
  try {
    return await work((name) => join(directory, name));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
