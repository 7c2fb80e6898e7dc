/** Storages that are one plain file each, and work on the descriptors of several at once. */
import type { Storage } from '../../storage/storage.js';

export type PlainFile = Pick<Required<Storage>, 'withDescriptor'>;

export function isPlainFile(storage: Storage): storage is Storage & PlainFile {
  return storage.withDescriptor !== undefined;
}

/**
 * Runs work on the descriptors of all these files; none is closed before it has settled.
 * @throws Qcow2Error `ERR_QCOW2_CLOSED` when one is closed already
 */
export function withDescriptors<T>(
  files: readonly PlainFile[],
  work: (fds: readonly number[]) => Promise<T>,
  fds: readonly number[] = [],
): Promise<T> {
  const [first, ...others] = files;
  if (first === undefined) return work(fds);
  return first.withDescriptor((fd) => withDescriptors(others, work, [...fds, fd]));
}
