/** Makes the name of a new file durable: a flush of the file keeps its bytes, not its entry in the directory. */
import fs from 'node:fs';
import { dirname } from 'node:path';
import { complete } from './fd-io.js';
import { closeFd, openFd, realpath } from './file-kind.js';

/**
 * The name is gone (ENOENT), the directory may be used but not read (EACCES, EPERM), or its file system cannot sync
 * directories (EINVAL): nothing that anyone could do better, and no doubt about the file's bytes.
 */
const beyondOurReach = ['ENOENT', 'EACCES', 'EPERM', 'EINVAL'];

/** Resolves once the directory entry of `path` is durable. On Windows, where directories cannot be synced, at once. */
export async function syncName(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  try {
    const fd = await openFd(dirname(await realpath(path)), fs.constants.O_RDONLY);
    try {
      await complete((callback) => fs.fsync(fd, callback));
    } finally {
      await closeFd(fd);
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (!beyondOurReach.includes(code)) throw error;
  }
}
