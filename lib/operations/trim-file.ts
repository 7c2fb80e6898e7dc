/** Cutting free clusters off the end of the image file. */
import type { Image } from '../metadata/image.js';

/** Truncates the file behind its last used cluster. Everything must have been committed, and no one may allocate. */
export async function trimFile(image: Image): Promise<void> {
  const { clusterSize } = image.geometry;
  const fileEnd = await image.storage.size();
  let clusters = Math.ceil(fileEnd / clusterSize);
  while (clusters > 0 && (await isFree(image, clusters - 1))) clusters--;
  if (clusters * clusterSize >= fileEnd) return;
  image.fileEnd.forget();
  await image.storage.truncate(clusters * clusterSize);
}

/** Metadata stays whatever its refcount says. */
async function isFree({ refcounts, reserved, geometry }: Image, cluster: number): Promise<boolean> {
  const { clusterSize } = geometry;
  if (reserved.overlap(cluster * clusterSize, clusterSize) !== undefined) return false;
  return (await refcounts.get(cluster)) === 0;
}
