/** Directories that last as long as a test. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';

/**
 * Gives every test that follows a directory of its own, removed after it.
 * @returns makes the absolute path of a name in it; without a name, of the directory
 */
export function useTempDir(): (name?: string) => string {
  let directory = '';
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'qcow2-test-'));
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });
  return (name = '') => join(directory, name);
}
